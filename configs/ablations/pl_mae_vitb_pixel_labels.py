# Ablation: pixels instead of token features, with labels.
#
#   tools/dist_train.sh configs/ablations/pl_mae_vitb_pixel_labels.py 8
_base_ = '../pl_mae_vitb.py'

model = dict(head=dict(_delete_=True, type='mmpl.TokenReconHead', target='pixel', norm_pix=True))
