# Ablation: no labels of data tokens.
#
#   tools/dist_train.sh configs/ablations/pl_mae_vitb_no_data_labels.py 8
_base_ = '../pl_mae_vitb.py'

model = dict(loss_weights=dict(label_data=0))
