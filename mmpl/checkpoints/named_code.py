"""Types that the config of a checkpoint names: what is registered is built, no other code is imported for it."""

import importlib.util
from collections.abc import Iterator
from typing import Any

from mmengine.registry import Registry, root

from mmpl.compat.torch_load import unsafe_load_allowed

_LIBRARIES = ('mmengine', 'mmcv', 'mmpretrain', 'mmseg', 'mmdet', 'mmpl')


def refuse_code(part: Any) -> None:
    """Refuse a part of a checkpoint's config that would import and call code, unless checkpoints may run code.

    mmengine builds what no registry holds by importing what its name leads to, such as ``type='subprocess.run'``.

    Args:
        part: Of the config, that is going to be built.

    Raises:
        KeyError: A type is registered nowhere, and is the name of something that can be imported.
    """
    if unsafe_load_allowed():
        return
    for field, name in _names(part):
        if field == '_scope_' or field == 'default_scope':
            if not any(registry.scope == name for registry in _registries(name)) and _can_be_imported(name):
                raise KeyError(f'the scope {name!r} is no registry that is known here')
        elif not _is_registered(name) and _can_be_imported(name):
            raise KeyError(f'{name!r} is registered nowhere, and code that a checkpoint names is not imported')


def _names(part: Any) -> Iterator[tuple[str, str]]:
    """Fields that mmengine looks up, however deep, and what they name."""
    if isinstance(part, dict):
        for field, value in part.items():
            if field in ('type', '_scope_', 'default_scope') and isinstance(value, str):
                yield field, value
            else:
                yield from _names(value)
    elif isinstance(part, (list, tuple)):
        for item in part:
            yield from _names(item)


def _is_registered(name: str) -> bool:
    """Whether a registry holds it, under this name or that of its module."""
    library, short = name.partition('.')[0], name.rpartition('.')[2]
    for registry in _registries(library):
        found = registry.module_dict.get(short)
        inside = str(getattr(found, '__module__', '')).partition('.')[0]
        if found is not None and ('.' not in name or name == f'{registry.scope}.{short}' or library == inside):
            return True
    return False


def _registries(library: str) -> Iterator[Registry]:
    """All registries, after one of the OpenMMLab libraries, if it is one, has filled its own."""
    if library in _LIBRARIES and importlib.util.find_spec(f'{library}.registry') is not None:
        importlib.import_module(f'{library}.registry')
    waiting = [registry for registry in vars(root).values() if isinstance(registry, Registry)]
    while waiting:
        registry = waiting.pop()
        if registry.scope == library:
            registry.import_from_location()
        waiting += registry.children.values()
        yield registry


def _can_be_imported(name: str) -> bool:
    library = name.partition('.')[0]
    try:
        return importlib.util.find_spec(library) is not None
    except ValueError:  # a module without a spec, such as ``__main__``
        return True
