"""Registry nodes of the scope ``mmpl``.

Every node hangs under mmengine's root registry of the same kind, so
``type='mmpl.X'`` resolves from mmengine, mmpretrain, mmseg and mmdet alike:
mmengine imports this module by itself when it first meets the scope, and then
the ``locations`` that a node names. Import nothing but mmengine here: an
ImportError in this module would surface as a bare ``KeyError`` far away.
"""

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODEL_WRAPPERS as MMENGINE_MODEL_WRAPPERS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import WEIGHT_INITIALIZERS as MMENGINE_WEIGHT_INITIALIZERS
from mmengine.registry import Registry

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmpl', locations=['mmpl.models', 'mmpl.methods'])
MODEL_WRAPPERS = Registry('model_wrapper', parent=MMENGINE_MODEL_WRAPPERS, scope='mmpl', locations=['mmpl.engine'])
WEIGHT_INITIALIZERS = Registry(
    'weight initializer', parent=MMENGINE_WEIGHT_INITIALIZERS, scope='mmpl', locations=['mmpl.checkpoints']
)
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmpl', locations=['mmpl.engine'])
LOOPS = Registry('loop', parent=MMENGINE_LOOPS, scope='mmpl', locations=['mmpl.engine'])
OPTIM_WRAPPERS = Registry('optim_wrapper', parent=MMENGINE_OPTIM_WRAPPERS, scope='mmpl', locations=['mmpl.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optim_wrapper_constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmpl',
    locations=['mmpl.engine'],
)
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope='mmpl', locations=['mmpl.datasets'])
DATA_SAMPLERS = Registry('data sampler', parent=MMENGINE_DATA_SAMPLERS, scope='mmpl', locations=['mmpl.datasets'])
TRANSFORMS = Registry('transform', parent=MMENGINE_TRANSFORMS, scope='mmpl', locations=['mmpl.datasets'])
METRICS = Registry('metric', parent=MMENGINE_METRICS, scope='mmpl', locations=['mmpl.evaluation'])
