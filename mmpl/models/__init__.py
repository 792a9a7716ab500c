"""Models: importing this package registers all of them."""

from mmpl import compat  # noqa: F401  (first: it repairs what the imports below need)

from .algorithms import *  # noqa: F403
from .backbones import *  # noqa: F403
from .heads import *  # noqa: F403
from .necks import *  # noqa: F403
from .teachers import *  # noqa: F403
from .utils import *  # noqa: F403
