# Visual question answering, ViT-B/16 at 384, VQAv2, 10 epochs: the recipe of METER (Dou et al., CVPR 2022); the whole
# network is trained.
#
#   torchrun --nproc_per_node=8 tools/train.py configs/downstream/vqa/vitb_finetune_10e_vqav2.py \
#       --launcher pytorch --amp --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# data/vqav2 holds the files of visualqa.org as they are (v2_OpenEnded_mscoco_*_questions.json and
# v2_mscoco_*_annotations.json) and the images of COCO 2014 in train2014/ and val2014/.
# Cost: 2.5e18 FLOP (95 GMAC x 2 x 3 x 444 k x 10), some 6 A100 hours at 40 % utilisation: computed, not measured.
# Reference: MSA's paper, fine-tuned on VQAv2: DeiT 65.8, MAE 66.2, MSA 67.4 (its heads and text encoder are not ours).
# Not run at this scale yet.
_base_ = '../../_base_/default_runtime.py'
custom_imports = dict(imports=['mmpl'])

vocabulary = dict(
    type='mmpl.VQAVocabulary',
    data_root='data/vqav2/',
    question_files=['v2_OpenEnded_mscoco_train2014_questions.json'],
    ann_files=['v2_mscoco_train2014_annotations.json', 'v2_mscoco_val2014_annotations.json'],
    min_count=9,
)
max_length = 50  # numbers of a question

model = dict(
    type='mmpl.VQAClassifier',
    data_preprocessor=dict(
        type='mmpl.VQAPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch='base',
        img_size=384,  # METER: 576; our choice, 2.25 times fewer tokens
        patch_size=16,
        out_type='raw',
        init_cfg=dict(
            type='mmpl.StrictPretrained', checkpoint='work_dirs/pl_mae_vitb/epoch_400.pth', prefix='backbone.'
        ),
    ),
    vocabulary=vocabulary,
    dims=768,
    num_heads=12,
    text_layers=6,  # METER has a pre-trained RoBERTa of 12; this one starts at random
    fusion_layers=6,
    drop_rate=0.1,
    max_length=max_length,
)

dataset = dict(type='mmpl.VQADataset', data_root='data/vqav2/', vocabulary=vocabulary, max_length=max_length)
# Squeezed, not cropped; not flipped, for questions ask for left and right.
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(384, 384), backend='pillow', interpolation='bicubic'),
    dict(type='mmpl.PackVQA'),
]
loader = dict(num_workers=8, persistent_workers=True, collate_fn=dict(type='default_collate'))
train_dataloader = dict(
    batch_size=64,  # per GPU
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        question_file='v2_OpenEnded_mscoco_train2014_questions.json',
        ann_file='v2_mscoco_train2014_annotations.json',
        data_prefix=dict(img_path='train2014'),
        pipeline=pipeline,
        **dataset,
    ),
    **loader,
)
val_dataloader = dict(
    batch_size=128,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        question_file='v2_OpenEnded_mscoco_val2014_questions.json',
        ann_file='v2_mscoco_val2014_annotations.json',
        data_prefix=dict(img_path='val2014'),
        pipeline=pipeline,
        **dataset,
    ),
    **loader,
)
test_dataloader = val_dataloader  # the answers of the test splits are not public
val_evaluator = dict(type='mmpl.VQAMetric')
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmpl.StrictOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=5e-6, betas=(0.9, 0.98), weight_decay=0.01),  # 512 questions a step
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={  # all factors of what a key matches are its own: norms and biases there decay too, not in METER
            'head.': dict(lr_mult=50.0, decay_mult=1.0),
            'fusion.': dict(lr_mult=5.0, decay_mult=1.0),
            # METER: lr_mult 1; as the head here, for it starts at random (our choice)
            'question.': dict(lr_mult=50.0, decay_mult=1.0),
        },
    ),
)
param_scheduler = [  # warm-up: 10 %
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=True, begin=1, end=10, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=512)  # 8 GPUs x 64
