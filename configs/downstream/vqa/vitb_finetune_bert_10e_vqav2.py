# Visual question answering as in vitb_finetune_10e_vqav2.py, with a pre-trained BERT that reads the questions, as METER
# has a RoBERTa. The package transformers loads it from the Hugging Face Hub.
#
#   torchrun --nproc_per_node=8 tools/train.py configs/downstream/vqa/vitb_finetune_bert_10e_vqav2.py \
#       --launcher pytorch --amp --cfg-options model.backbone.init_cfg.checkpoint=CHECKPOINT
#
# From a folder, here and in tests of the checkpoint (bash makes three of the last one):
#
#   --cfg-options model.bert=FOLDER model.vocabulary.tokenizer=FOLDER \
#       {train,val,test}_dataloader.dataset.vocabulary.tokenizer=FOLDER
#
# Cost: 2.6e18 FLOP (97 GMAC x 2 x 3 x 444 k x 10), some 6 A100 hours at 40 % utilisation: computed, not measured.
# Reference: none. Not run at this scale yet.
_base_ = './vitb_finetune_10e_vqav2.py'
bert = 'google-bert/bert-base-uncased'

vocabulary = dict(tokenizer=bert)  # questions are numbers of its word pieces
model = dict(bert=bert, text_layers=None, vocabulary=vocabulary)
train_dataloader = dict(dataset=dict(vocabulary=vocabulary))
val_dataloader = dict(dataset=dict(vocabulary=vocabulary))
test_dataloader = val_dataloader

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={  # BERT is pre-trained and learns as the encoder does
            '_delete_': True,
            'head.': dict(lr_mult=50.0, decay_mult=1.0),
            'fusion.': dict(lr_mult=5.0, decay_mult=1.0),
            'question.project': dict(lr_mult=5.0, decay_mult=1.0),  # METER counts it among the cross-modal layers
        }
    )
)
