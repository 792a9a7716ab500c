# SimMIM: mmpretrain's own classes, unmodified. It comes with a Swin transformer, here of two stages (48 and 96 wide,
# two blocks each), which costs about as much as the ViT of the other methods. What was searched:
# docs/evidence/tried.md. Biases of relative positions decay here, unlike in its ImageNet recipe.
_base_ = './_surfaces.py'

swin = dict(
    arch=dict(embed_dims=48, depths=[2, 2], num_heads=[2, 4]),
    img_size=32,
    out_indices=(1,),
    stage_cfgs=dict(block_cfgs=dict(window_size=4)),
)
model = dict(
    type='SimMIM',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='SimMIMSwinTransformer', **swin),
    neck=dict(type='SimMIMLinearDecoder', in_channels=96, encoder_stride=8),
    head=dict(type='SimMIMHead', patch_size=4, loss=dict(type='PixelReconstructionLoss', criterion='L1', channel=3)),
)
optim_wrapper = dict(
    optimizer=dict(lr=3e-3), paramwise_cfg=dict(custom_keys=dict(_delete_=True, mask_token=dict(decay_mult=0.0)))
)
masks = dict(type='SimMIMMaskGenerator', input_size=32, mask_patch_size=8, model_patch_size=4, mask_ratio=0.6)
train_dataloader = dict(
    batch_size=32, dataset=dict(pipeline=[dict(type='LoadImageFromFile'), masks, dict(type='PackInputs')])
)
