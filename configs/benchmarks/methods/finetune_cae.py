# The same for the encoder of mmpretrain's CAE, whose layers are BEiT's.
_base_ = './finetune.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='BEiTViT',
        arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384),
        img_size=32,
        patch_size=8,
        out_type='avg_featmap',
        final_norm=False,
        layer_scale_init_value=0.1,
        bias='qv_bias',
        use_abs_pos_emb=True,
        use_rel_pos_bias=False,
        init_cfg=dict(type='mmpl.StrictPretrained', checkpoint='', prefix='backbone.', ignore=('ln1.*', 'ln2.*')),
    )
)
