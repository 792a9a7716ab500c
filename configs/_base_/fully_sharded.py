# Weights, gradients, optimizer state and teachers are split over the processes (torch's FSDP2); see docs/training.md.
model_wrapper_cfg = dict(
    type='mmpl.FullySharded',
    shard_size=None,  # processes that share one copy; None: all. With the GPUs of a machine, weights never leave it
)
