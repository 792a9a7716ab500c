# Ablation: only data tokens are aligned.
#
#   tools/dist_train.sh configs/ablations/msa_vitb_tokens_only.py 8
_base_ = '../msa_vitb.py'

model = dict(loss_weights=dict(align_cls=0))
