# As ../../pl_mae_vitb_fast.py: half of the masked places, a smaller image for the labelling teacher.
_base_ = './pl_mae.py'

model = dict(masking=dict(predict_ratio=0.5), label_teacher_size=16)
