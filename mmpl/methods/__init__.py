"""The methods, one file each: whatever is registered in a module of this folder. The contract is in ``base.py``."""

import importlib
import pkgutil

from mmpl import compat  # noqa: F401  (first: it repairs what the imports below need)

from .base import Method, Step

__all__ = ['Method', 'Step']
for _module in pkgutil.iter_modules(__path__):
    for _name, _value in vars(importlib.import_module(f'{__name__}.{_module.name}')).items():
        if isinstance(_value, type) and issubclass(_value, Method) and _value is not Method:
            globals()[_name] = _value
            __all__ += [_name]  # noqa: PLE0604
