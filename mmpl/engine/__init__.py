"""The training loop, hooks, optimizer wrappers and their constructors."""

from mmpl import compat  # noqa: F401  (first: it repairs what the imports below need)

from .hooks import *  # noqa: F403
from .loop import ExactEpochLoop  # noqa: F401
from .optimizers import *  # noqa: F403
from .sharded import FullySharded  # noqa: F401
