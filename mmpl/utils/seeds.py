"""Random states as functions of where a run is, instead of what it has drawn before."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """Hash numbers and names to a seed in [0, 2^63) (BLAKE2b; our choice).

    Args:
        *parts: Such as a seed, a purpose, an epoch and an index. Each different tuple gives a seed that has nothing to
            do with the others.
    """
    text = '\0'.join(f'{type(part).__name__[0]}{part}' for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), 'little') >> 1


def seed_host(seed: int) -> None:
    """Seed the generators that data transforms use: python's, numpy's and torch's for the CPU."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


def seed_all(seed: int) -> None:
    """Seed the generators of the host and of every device."""
    seed_host(seed)
    torch.manual_seed(seed)


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Leave the random states of python, numpy, torch and the current CUDA device as they were."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_state = torch.cuda.get_rng_state() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state)
