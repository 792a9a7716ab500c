# A run of 6 epochs on crops of photographs, with checkpoints, probe and report; for one CPU core. A method's config has
# this file and its benchmarks/methods/*.py as bases, and takes what stands here under a name of its own.
surfaces_dataset = dict(
    type='mmpl.EmbeddedClassification',
    data_root='data/mmpl_embedded/',
    variant='surfaces',
    split='train',
    pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
)
surfaces_train_dataloader = dict(
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True), dataset=dict(variant='surfaces')
)
surfaces_epochs = 6
surfaces_train_cfg = dict(_delete_=True, type='mmpl.ExactEpochLoop', max_epochs=surfaces_epochs)
surfaces_schedule = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=0.1 * surfaces_epochs, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0.1 * surfaces_epochs,
        end=surfaces_epochs,
        convert_to_iter_based=True,
    ),
]

surfaces_loader = dict(batch_size=250, num_workers=0)
surfaces_hooks = [
    dict(type='mmpl.DualTeacherHook', health_interval=10),
    dict(
        type='mmpl.FeatureProbeHook',
        interval=2,  # epochs
        before_train=True,  # the same encoder, randomly initialised
        linear='last',  # linear probe before training and at its end, kNN in between
        pool='avg',  # mean of the patch tokens
        k=20,
        temperature=0.07,
        train_dataloader=dict(dataset=surfaces_dataset, **surfaces_loader),
        val_dataloader=dict(dataset=dict(surfaces_dataset, split='test'), **surfaces_loader),
    ),
    dict(type='mmpl.NonFiniteHook', max_skips=10, on_bad_state='stop'),
]

# As default_runtime.py, which cannot be a base beside the method's: both have these fields.
surfaces_default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(_delete_=True, type='mmpl.SafeCheckpointHook', interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
env_cfg = dict(
    cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl')
)
surfaces_visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
load_from = None  # weights that a new run starts from
resume = True  # goes on from the last checkpoint of the work directory, if there is one; see docs/robustness.md
