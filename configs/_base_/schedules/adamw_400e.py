# MAE's recipe (section A.1): AdamW, 40 epochs of warm-up, then half a cosine.
max_epochs = 400
warmup_epochs = 40

optim_wrapper = dict(
    type='mmpl.AutocastOptimWrapper',
    dtype='bfloat16',  # needs no loss scaling; 'float32' switches mixed precision off
    constructor='mmpl.StrictOptimWrapperConstructor',  # refuses custom_keys that match no parameter
    optimizer=dict(
        type='AdamW',
        lr=1.5e-4 * 4096 / 256,  # for a batch of 4096; see auto_scale_lr
        betas=(0.9, 0.95),
        weight_decay=0.05,
    ),
    paramwise_cfg=dict(
        custom_keys={
            'ln': dict(decay_mult=0.0),
            'bias': dict(decay_mult=0.0),
            'pos_embed': dict(decay_mult=0.0),
            'mask_token': dict(decay_mult=0.0),
            'cls_token': dict(decay_mult=0.0),
        }
    ),
)
auto_scale_lr = dict(enable=True, base_batch_size=4096)  # linear in GPUs x batch_size x accumulative_counts

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=warmup_epochs, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=warmup_epochs, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(
    type='mmpl.ExactEpochLoop',  # resumes at any iteration
    max_epochs=max_epochs,
    bad_files=dict(max_share=0.01),  # share of damaged images above which the run stops
)
