"""Random states as functions of where a run is, instead of what it has drawn before."""

import hashlib
import random

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """Hash numbers and names to a seed (BLAKE2b; our choice).

    Args:
        *parts (int | str): Such as a seed, a purpose, an epoch and an index. Each different tuple gives a seed that
            has nothing to do with the others.

    Returns:
        int: In [0, 2^63).
    """
    text = '\0'.join(f'{type(part).__name__[0]}{part}' for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), 'little') >> 1


def seed_host(seed: int) -> None:
    """Seed the generators that data transforms use: python's, numpy's and torch's for the CPU.

    Args:
        seed (int): In [0, 2^63).
    """
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


def seed_all(seed: int) -> None:
    """Seed the generators of the host and of every device.

    Args:
        seed (int): In [0, 2^63).
    """
    seed_host(seed)
    torch.manual_seed(seed)
