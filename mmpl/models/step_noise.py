"""Random numbers that belong to a step of the run and to a place in its batch."""

import numpy as np
import torch
from mmengine.model import BaseModule


class StepNoise(BaseModule):
    """Draws from a counter-based generator.

    The numbers of a step are a pure function of ``seed``, of the number of steps taken so far (a buffer, hence in every
    checkpoint) and of an image's place in the *global* batch. A resumed run therefore draws what it would have drawn,
    CPU and GPU draw the same, and two processes draw what one process would with both their batches. Kinds of draws
    are independent of each other at the same seed and step: each subclass has a ``stream`` of its own.

    Args:
        seed: Seed.
    """

    stream: int  # a word of the counter that no batch is large enough to reach

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.register_buffer('step', torch.zeros((), dtype=torch.long))
        self._step = 0  # the buffer's value, read without waiting for the device

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._step = int(self.step)

    def numbers(self, first: int, rows: int, draws: int) -> np.ndarray:
        """Numbers in [0, 1) of the rows from the place ``first`` of this step on, (rows, draws); count the step."""
        blocks = -(-draws // 4)  # Philox makes four numbers a count: a whole number of counts is one row
        counter = (self.stream << 192) + first * blocks
        philox = np.random.Philox(key=[self.seed, self._step], counter=counter)
        numbers = np.random.Generator(philox).random((rows, 4 * blocks))[:, :draws]
        self._step += 1
        self.step.add_(1)
        return numbers

    def rewind(self, steps: int = 0) -> None:
        """Draw next what was drawn ``steps`` steps before where the buffer ``step`` stands."""
        self._step = max(0, int(self.step) - steps)
