# Every method on the same data with the same budget; see docs/evidence.md.
#
#   python tools/benchmarks/compare_methods.py
_methods = 'configs/benchmarks/methods/'

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
    ),
    exposure=dict(
        label='surfaces, each with an exposure of its own',
        dataset=dict(variant='surfaces_exposure'),
        mean=124.5,
        std=48.1,
        num_classes=16,
        budgets=['images'],
    ),
    hard=dict(
        label='digits with clutter and colour',
        dataset=dict(variant='hard'),
        mean=83.4,
        std=42.1,
        num_classes=10,
        budgets=['images'],
    ),
)

ablation = dict(data=['surfaces'], budgets=['images'])  # its time is in the table
methods = dict(
    random=dict(label='random init', config=None),
    mae=dict(label='MAE (mmpretrain)', config=_methods + 'mae.py'),
    simmim=dict(
        label='SimMIM (mmpretrain, Swin)',
        config=_methods + 'simmim.py',
        finetune=_methods + 'finetune_simmim.py',
        pool=['avg'],
        data=['surfaces'],
    ),
    pl_mae=dict(label='PL-MAE', config=_methods + 'pl_mae.py'),
    msa=dict(label='MSA', config=_methods + 'msa.py'),
    one_teacher=dict(label='PL-MAE, one teacher', config=_methods + 'pl_mae_one_teacher.py', **ablation),
    one_mask=dict(label='PL-MAE, one mask', config=_methods + 'pl_mae_one_mask.py', **ablation),
    no_class_labels=dict(label='PL-MAE, no class labels', config=_methods + 'pl_mae_no_class_labels.py', **ablation),
    no_data_labels=dict(label='PL-MAE, no data labels', config=_methods + 'pl_mae_no_data_labels.py', **ablation),
    pixels=dict(label='PL-MAE, pixel targets', config=_methods + 'pl_mae_pixels.py', **ablation),
    folds=dict(label='PL-MAE, folds', config=_methods + 'pl_mae_folds.py', **ablation),
    mae_two_masks=dict(label='MAE, two masks', config=_methods + 'mae_two_masks.py', **ablation),
)
