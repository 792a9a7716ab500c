# Ablation: one teacher instead of two; the labelling teacher gives the features as well.
#
#   tools/dist_train.sh configs/ablations/pl_mae_vitb_single_teacher.py 8
_base_ = '../pl_mae_vitb.py'

model = dict(single_teacher=True)
