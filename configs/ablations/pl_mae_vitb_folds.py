# Ablation: teachers see the masked patches in three folds of 49, never the whole image.
#
#   tools/dist_train.sh configs/ablations/pl_mae_vitb_folds.py 8
_base_ = '../pl_mae_vitb.py'

model = dict(teacher_input='folds', data_tokens='masked')
