# Linear probe, ViT-B/16, ImageNet-1K, 90 epochs: frozen backbone, batch norm without affine, LARS (MAE, appendix A.1).
#
#   torchrun --nproc_per_node=8 tools/train.py configs/downstream/classification/vitb_linear_90e_in1k.py \
#       --launcher pytorch --amp --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# The batch is 2048 per GPU, 16,384 in all, for lr=6.4; fewer images ask for a smaller lr (linear in the batch), which
# --auto-scale-lr sets.
# Cost: 4.1e18 FLOP (forward passes), some 9 A100 hours at 40 % utilisation: computed, not measured.
# Reference: MAE, 1600 epochs: 67.8-68.0 top-1; MAE in mmpretrain, 400 / 1600 epochs: 62.5 / 67.1; CAE, 1600: 70.3;
# iBOT, 1600: 79.5; MSA: MAE + 6.1. PL-MAE: not run by us.
_base_ = 'mmpretrain::mae/benchmarks/vit-base-p16_8xb2048-linear-coslr-90e_in1k.py'
custom_imports = dict(imports=['mmpl'])

model = dict(
    backbone=dict(
        init_cfg=dict(
            _delete_=True,
            type='mmpl.StrictPretrained',
            checkpoint='work_dirs/pl_mae_vitb/epoch_400.pth',
            prefix='backbone.',
        )
    )
)

# --amp switches mixed precision on; the stock config does so by itself and cannot run without a GPU.
optim_wrapper = dict(type='OptimWrapper')
auto_scale_lr = dict(base_batch_size=16384)  # the stock config says 1024, which is not what its lr is for

custom_hooks = [dict(type='mmpl.ClassCountHook')]
