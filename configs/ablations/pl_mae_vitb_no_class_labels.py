# Ablation: no labels of the class token.
#
#   tools/dist_train.sh configs/ablations/pl_mae_vitb_no_class_labels.py 8
_base_ = '../pl_mae_vitb.py'

model = dict(loss_weights=dict(label_cls=0))
