"""How tests start processes."""

import torch

# Forked ones import nothing again. Where there is a GPU, autograd has threads that a fork does not take along.
START = 'spawn' if torch.cuda.is_available() else 'fork'
