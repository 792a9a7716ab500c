"""Models: importing this package registers all of them."""

from .algorithms import *  # noqa: F403
from .backbones import *  # noqa: F403
from .heads import *  # noqa: F403
from .necks import *  # noqa: F403
from .teachers import *  # noqa: F403
from .utils import *  # noqa: F403
