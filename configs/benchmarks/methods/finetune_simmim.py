# The same for the Swin transformer of SimMIM and GreenMIM.
_base_ = './finetune.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        arch=dict(embed_dims=48, depths=[2, 2], num_heads=[2, 4]),
        img_size=32,
        out_indices=(1,),
        stage_cfgs=dict(block_cfgs=dict(window_size=4)),
        init_cfg=dict(type='mmpl.StrictPretrained', checkpoint='', prefix='backbone.', ignore=('mask_token',)),
    ),
    neck=dict(type='GlobalAveragePooling'),
)
