# Every method on the same data with the same budget; see docs/evidence.md.
#
#   python tools/benchmarks/compare_methods.py
_methods = '{{ fileDirname }}/methods/'

images = 76_800  # a run of equal images: 600 iterations of 128
seeds = [0, 1, 2]
curve_points = 4  # looks at the features along a run: kNN on val, among some of the training images
curve = dict(max_train_images=2000)
threads = 1  # of one run
reference = 'pl_mae'  # whose training time is the budget of equal time
finetune = _methods + 'finetune.py'
probe = dict(k=20, temperature=0.07, max_iter=300)

data = dict(
    surfaces=dict(
        label='surfaces (crops of photographs)',
        dataset=dict(variant='surfaces'),
        mean=123.5,
        std=42.6,
        num_classes=16,
        scenes=True,  # single patches are scored too, by the label maps of scenes of these surfaces
    ),
    digits=dict(
        label='digits (plain)',
        dataset=dict(variant='plain'),
        mean=61.4,
        std=64.8,
        num_classes=10,
    ),
    hard=dict(
        label='digits with clutter and colour',
        dataset=dict(variant='hard'),
        mean=83.4,
        std=42.1,
        num_classes=10,
    ),
)

peer = dict(data=['surfaces', 'given'])  # given: class folders of --data
images_only = dict(data=['surfaces'], budgets=['images'])
methods = dict(
    random=dict(label='random init', config=None),
    mae=dict(label='MAE (mmpretrain)', config=_methods + 'mae.py'),
    simmim=dict(
        label='SimMIM (mmpretrain, Swin)',
        config=_methods + 'simmim.py',
        finetune=_methods + 'finetune_simmim.py',
        pool=['avg'],
        **peer,
    ),
    green_mim=dict(
        label='GreenMIM (Swin)',
        config=_methods + 'green_mim.py',
        finetune=_methods + 'finetune_simmim.py',
        **peer,
    ),
    pl_mae=dict(label='PL-MAE', config=_methods + 'pl_mae.py'),
    msa=dict(label='MSA', config=_methods + 'msa.py'),
    sdae=dict(label='SdAE', config=_methods + 'sdae.py', **peer),
    mixed_ae=dict(label='MixedAE', config=_methods + 'mixed_ae.py', **peer),
    cae=dict(label='CAE-style', config=_methods + 'cae.py', **peer),
    cae_mmpretrain=dict(
        label="CAE (mmpretrain, DALL-E's codes)",
        config=_methods + 'cae_mmpretrain.py',
        finetune=_methods + 'finetune_cae.py',
        needs='data/dalle_encoder.pth',  # left out without it; it is large: an hour of a core for a run
        **peer,
    ),
    one_teacher=dict(
        label='PL-MAE, one teacher',
        config=_methods + 'pl_mae_one_teacher.py',
        data=['surfaces', 'digits', 'hard'],
        budgets=['images'],
    ),
    pixels=dict(
        label='PL-MAE, pixels',
        config=_methods + 'pl_mae_pixels.py',
        data=['surfaces', 'digits'],
        budgets=['images'],
    ),
    no_jitter=dict(label='PL-MAE, no jitter', config=_methods + 'pl_mae_no_jitter.py', **images_only),
    one_mask=dict(label='PL-MAE, one mask', config=_methods + 'pl_mae_one_mask.py', **images_only),
    no_class_labels=dict(label='PL-MAE, no class labels', config=_methods + 'pl_mae_no_class_labels.py', **images_only),
    no_data_labels=dict(label='PL-MAE, no data labels', config=_methods + 'pl_mae_no_data_labels.py', **images_only),
    own_crop=dict(label='PL-MAE, pixels, own crops', config=_methods + 'pl_mae_own_crop.py', **images_only),
    folds=dict(label='PL-MAE, folds', config=_methods + 'pl_mae_folds.py', **images_only),
    shared_projector=dict(label='PL-MAE, one projector', config=_methods + 'pl_mae_shared_projector.py', **images_only),
    all_tokens=dict(label='PL-MAE, labels at all tokens', config=_methods + 'pl_mae_all_tokens.py', **images_only),
)
