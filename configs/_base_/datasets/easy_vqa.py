# easy-vqa for mmpl.VQAClassifier: images of 64 x 64 with one shape each, questions with 13 answers. No flips, no crops:
# the whole image is 64 patches, and a shape may stand at its border.
easy_vqa_vocabulary = dict(type='mmpl.EasyVQAVocabulary', data_root='data/mmpl_embedded/')
easy_vqa_dataset = dict(
    type='mmpl.EasyVQADataset',
    data_root='data/mmpl_embedded/',
    vocabulary=easy_vqa_vocabulary,
    max_length=12,
    pipeline=[dict(type='LoadImageFromFile'), dict(type='mmpl.PackVQA')],
)
easy_vqa_loader = dict(num_workers=0, persistent_workers=False, collate_fn=dict(type='default_collate'))
easy_vqa_train_dataloader = dict(
    batch_size=64,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(split='train', **easy_vqa_dataset),
    **easy_vqa_loader,
)
easy_vqa_val_dataloader = dict(
    batch_size=250,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', **easy_vqa_dataset),
    **easy_vqa_loader,
)
easy_vqa_test_dataloader = dict(
    batch_size=250,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', **easy_vqa_dataset),
    **easy_vqa_loader,
)
