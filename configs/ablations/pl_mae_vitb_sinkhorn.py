# Ablation: labels balanced within the joint batch instead of by a running centre.
#
#   tools/dist_train.sh configs/ablations/pl_mae_vitb_sinkhorn.py 8
_base_ = '../pl_mae_vitb.py'

model = dict(label_head=dict(assignment='sinkhorn'))
