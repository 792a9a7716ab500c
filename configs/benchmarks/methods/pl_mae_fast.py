# What ../../pl_mae_vitb_fast.py does at this size: half of the masked places. (Masks share the teachers' work in
# pl_mae.py already, and its decoder has one block.)
_base_ = './pl_mae.py'

model = dict(masking=dict(predict_ratio=0.5))
