# Teachers see the masked patches in three folds of four, never the whole image.
_base_ = './pl_mae.py'

model = dict(teacher_input='folds', data_tokens='masked')
