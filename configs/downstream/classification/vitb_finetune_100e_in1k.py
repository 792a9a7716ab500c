# Fine-tuning, ViT-B/16, ImageNet-1K, 100 epochs: the recipe of MAE (appendix A.1), mixup and CutMix, layer decay 0.65.
#
#   torchrun --nproc_per_node=8 tools/train.py configs/downstream/classification/vitb_finetune_100e_in1k.py \
#       --launcher pytorch --amp --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# Runs under mmpretrain's own tools/train.py too.
# Cost: 1.4e19 FLOP (17.6 GMAC x 2 x 3 x 1.28 M x 100), some 30 A100 hours at 40 % utilisation: computed, not measured.
# Reference: MAE, 1600 epochs: 83.6 top-1; MAE in mmpretrain, 400 / 1600 epochs: 83.3 / 83.5. PL-MAE: not run by us.
_base_ = 'mmpretrain::mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py'
custom_imports = dict(imports=['mmpl'])

model = dict(
    backbone=dict(
        init_cfg=dict(
            _delete_=True,
            type='mmpl.StrictPretrained',
            checkpoint='work_dirs/pl_mae_vitb/epoch_400.pth',
            prefix='backbone.',
            # The mean of the patch tokens has a norm of its own, ln2; the one of pre-training is not used.
            ignore=('ln1.*', 'ln2.*'),
        )
    )
)

optim_wrapper = dict(
    constructor='mmpl.LayerDecayOptimWrapperConstructor', paramwise_cfg=dict(_delete_=True, layer_decay_rate=0.65)
)

custom_hooks = [dict(type='mmpl.ClassCountHook')]
