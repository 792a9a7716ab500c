# Fine-tuning as in vitb_finetune_100e_in1k.py, evaluated with an exponential moving average of the weights.
#
# Command, cost and reference: there. The average costs one more copy of the weights. No reference result with it.
_base_ = './vitb_finetune_100e_in1k.py'

custom_hooks = [
    dict(type='mmpl.ClassCountHook'),
    dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL'),
]
