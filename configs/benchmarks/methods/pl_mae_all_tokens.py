# Labels of all data tokens, the student's visible ones and those that the decoder predicts, as in MC-SSL.
_base_ = './pl_mae.py'

model = dict(data_tokens='all')
