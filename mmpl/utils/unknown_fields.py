"""Fields of a config that nothing reads: refused by name, before anything is built."""

import difflib
import inspect
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mmengine.registry
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS, Registry
from mmengine.runner import EpochBasedTrainLoop, FlexibleRunner, Runner, set_random_seed
from mmengine.utils.dl_utils import set_multi_processing
from torch.utils.data import DataLoader

from .config_files import read_files
from .user_errors import UserError


class UnknownFieldError(UserError, ValueError):
    """Nothing reads a field of the config; the message names it, and the nearest that is read."""


def _parameters(function: Any) -> set[str]:
    return {name for name in inspect.signature(function).parameters if name not in ('self', 'cls')}


SECTIONS = frozenset(
    (_parameters(Runner.__init__) - {'cfg'})
    | (_parameters(FlexibleRunner.__init__) & {'strategy', 'compile'})
    | {'runner_type', 'model_wrapper_cfg', 'find_unused_parameters', 'sync_bn', 'compile', 'custom_imports'}
    | {'tta_model', 'tta_pipeline'}
)
"""Names at the top of a config that mmengine or a tool of the projects reads."""
_LENGTHS = {'max_epochs', 'warmup_epochs'}  # which train.py resolves: see mmpl.utils.run_length
_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_OF_LOADER = frozenset(
    _parameters(DataLoader.__init__) | {'dataset', 'num_batch_per_epoch', 'disable_subprocess_warning'}
)
_UNTYPED: dict[str, Collection[str]] = dict(
    auto_scale_lr=('enable', 'base_batch_size'),
    env_cfg=('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'),
    randomness=sorted(_parameters(set_random_seed)),
    train_cfg=sorted(
        (_parameters(EpochBasedTrainLoop.__init__) - {'runner', 'dataloader'}) | {'by_epoch', 'max_iters'}
    ),
)
"""Sections without a ``type``, or that may go without -> their fields."""
_EVERYWHERE = {'type', '_scope_', '_delete_', '_base_'}
# What mmengine takes out of a part before it is built.
_TAKEN: dict[str, set[str]] = dict(
    hook={'priority'},
    parameter_scheduler={'convert_to_iter_based'},
    optim_wrapper={'constructor', 'paramwise_cfg', 'optimizer'},
    loop={'by_epoch'},
)
_CLOSE = 0.85  # of difflib's ratio; no name in the configs of mmpretrain, mmseg and mmdet is as near to a section


def _nearest(name: str, known: Iterable[str]) -> str | None:
    """The name that was meant, if one is that near; `val_evaluator_a` and `layer2` are names of their own."""
    for near in difflib.get_close_matches(name, sorted(map(str, known)), n=1, cutoff=_CLOSE):
        if not re.fullmatch(re.escape(near) + r'(_.*|\d+)', name) and re.sub(r'\d', '', name) != re.sub(
            r'\d', '', near
        ):
            return near
    letters = sorted(name)
    return next(
        (near for near in sorted(map(str, known)) if sorted(near) == letters and not re.search(r'\d', name)), None
    )


def _refuse(path: str, name: str, known: Collection[str], owner: str) -> None:
    """Raise the error for a field; ``path`` is where it stands, '' at the top."""
    full = f'{path}.{name}' if path else name
    near = difflib.get_close_matches(name, sorted(map(str, known)), n=1)
    hint = f'did you mean `{path}.{near[0]}`?' if near and path else f'did you mean `{near[0]}`?' if near else ''
    raise UnknownFieldError(f'`{full}` is not a field of {owner}: {hint or f"its fields are {sorted(known)}"}')


def fields_of(cls: Any) -> set[str] | None:
    """Names that a class or function takes; None if it takes any."""
    if not inspect.isclass(cls):
        signature = inspect.signature(cls)
        open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        return None if open_ended else set(signature.parameters)
    fields: set[str] = set()
    for base in cls.__mro__:
        if base is CheckpointHook:  # hands the rest to `save_checkpoint` at the first checkpoint, which takes no more
            return fields | (_parameters(vars(CheckpointHook)['__init__']) - {'kwargs'}) | {'meta'}
        if base is not object and '__new__' in vars(base):
            made = inspect.signature(vars(base)['__new__']).parameters.values()
            if any(p.kind is p.VAR_KEYWORD for p in made):  # chooses a class by its fields, as TokenReconHead does
                return None
        if '__init__' not in vars(base) or base is object:
            continue
        parameters = inspect.signature(vars(base)['__init__']).parameters.values()
        fields |= {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return fields - {'self'}
    return None


def _classes(kind: Any, scope: str, registries: Iterable[Registry]) -> Iterator[tuple[str, Any]]:
    """What a ``type`` may mean, with the registry that says so."""
    for registry in registries:
        if not isinstance(kind, str):
            yield registry.name.replace(' ', '_'), kind
            continue
        with registry.switch_scope_and_registry(scope) as scoped:
            try:
                found = scoped.get(kind)
            except Exception:  # what cannot be imported says so when it is built
                continue
        if found is not None:
            yield registry.name.replace(' ', '_'), found


def _registries() -> list[Registry]:
    """Those of which a part of a config can be built."""
    values = (getattr(mmengine.registry, name) for name in dir(mmengine.registry))
    unused = (
        'function',
        'inferencer',
        'strategy',
        'runner',
        'runner constructor',
    )  # mmengine warns if a scope lacks one
    return [value for value in values if isinstance(value, Registry) and value.name not in unused]


def _check_typed(part: Mapping, names: Iterable[str], path: str, scope: str, registries: Iterable[Registry]) -> None:
    """Refuse names that no class takes which the part's ``type`` may mean."""
    known: set[str] = set()
    owner = ''
    for registry, cls in _classes(part['type'], scope, registries):
        try:
            fields = fields_of(cls)
        except (TypeError, ValueError):  # no signature, as of builtins
            fields = None
        if fields is None:
            return
        known |= fields | _TAKEN.get(registry, set())
        owner = getattr(cls, '__name__', str(cls))
    for name in names if owner else ():
        if name not in known | _EVERYWHERE:
            _refuse(path, name, known, owner)


def check_option(cfg: Config, key: str) -> None:
    """Refuse a field of ``--cfg-options`` that nothing reads.

    Args:
        cfg: The config, before the option is merged into it.
        key: Dotted path.

    Raises:
        UnknownFieldError: There is no such field, or the config only uses it to make others.
    """
    names = key.split('.')
    top = names[0]
    scope = cfg.get('default_scope') or 'mmengine'
    if top not in cfg and top not in SECTIONS:
        places = [f'{section}.{top}' for section in SECTIONS if top in (_mapping(cfg.get(section)))]
        near = _nearest(top, {*cfg, *SECTIONS})
        hint = f'did you mean {" or ".join(f"`{place}`" for place in sorted(places))}?' if places else ''
        if not hint and near:
            hint = f'did you mean `{".".join([near, *names[1:]])}`?'
        raise UnknownFieldError(
            f'--cfg-options {key}: the config has no `{top}`, and nothing reads it'
            + (f': {hint}' if hint else f'; its sections are {sorted({*cfg} & SECTIONS)}')
        )
    _check_is_read(cfg, names)
    node: Any = cfg._cfg_dict  # a Config is no Mapping
    for index, name in enumerate(names):
        path = '.'.join(names[:index])
        if isinstance(node, Mapping):
            if name not in node:
                if path:
                    _check_new_field(node, name, path, scope)
                return
            node = node[name]
        elif isinstance(node, list) and name.isdigit():
            if int(name) >= len(node):
                raise UnknownFieldError(f'--cfg-options {key}: `{path}` holds {len(node)} items, the first is 0')
            node = node[int(name)]
        else:
            return  # merging says what is wrong


def _check_new_field(node: Mapping, name: str, path: str, scope: str) -> None:
    if path in _UNTYPED and 'type' not in node:
        known: Collection[str] = _UNTYPED[path]
    elif path in _LOADERS:
        known = _OF_LOADER
    elif node.get('type') is not None:
        return _check_typed(node, [name], path, scope, _registries())
    else:  # any name may be right, but not one that is nearly another
        near = None if path.endswith('custom_keys') else _nearest(name, node)
        known = [near] if near else [name]
    if name not in {*known, *_EVERYWHERE}:
        _refuse(path, name, known, f'`{path}`')
    return None


def _check_is_read(cfg: Config, names: list[str]) -> None:
    """Refuse a name of the config file that only other fields were made from, which keep the value they have."""
    top = names[0]
    unread = top not in SECTIONS and top not in _LENGTHS
    if top == 'data_preprocessor':  # only of models without one
        unread = _mapping(cfg.get('model')).get('data_preprocessor') is not None
    if not unread or top not in cfg:
        return
    places = ['.'.join([path, *names[1:]]) for path in _made_from(cfg, top, cfg[top])]
    if places:
        shown = ' or '.join(f'`{place}`' for place in places[:4])
        raise UnknownFieldError(
            f'--cfg-options {".".join(names)}: `{top}` is only a name in the config file, and what was made '
            f'from it stays as it is: set {shown}'
        )


def _made_from(cfg: Config, name: str, value: Any) -> list[str]:
    """Fields that hold the value of a variable, as far as that can be told: a number has to be called like it."""
    stems = {name, *(name.removeprefix(f'{stage}_') for stage in ('train', 'val', 'test'))}
    whole = isinstance(value, Mapping | list | tuple) and len(value) > 0
    return [
        path
        for section in sorted(SECTIONS)
        for path, last, found in _leaves(cfg.get(section), section)
        if (whole or last in stems) and type(found) is type(value) and found == value
    ]


def check_variables(cfg: Config, path: str | Path) -> None:
    """Refuse a config file that gives a variable of its base another value, where the base has used its own already.

    So it is with ``data_root = ...`` in a file that inherits: the data set of the base keeps its folder. A new variable
    that nothing reads is refused if it is called like a field of the config, such as ``batch_size``.

    Args:
        cfg: As read from ``path``.
        path: The config file.

    Raises:
        UnknownFieldError: For the first of them.
    """
    leaf = read_files(path)
    own_preprocessor = _mapping(cfg.get('model')).get('data_preprocessor') is not None
    read = (SECTIONS - {'data_preprocessor'} if own_preprocessor else SECTIONS) | _LENGTHS | {'_base_'}
    for file, name in leaf.without_effect() if leaf is not None else ():
        if name in read or name not in cfg:
            continue
        base = file.base_with(name)
        if base is not None:
            old = Config.fromfile(base.path, import_custom_modules=False).get(name)
            places = _made_from(cfg, name, old) if old != cfg[name] else []
            why = f'{base.path} has made its fields from its own value'
        else:
            fields = {last: value for s in SECTIONS for _, last, value in _leaves(cfg.get(s), s)}
            near = name if name in fields else _nearest(name, {*fields, *_LENGTHS})
            places = [path for s in SECTIONS for path, last, _ in _leaves(cfg.get(s), s) if last == near]
            places = places or [length for length in _LENGTHS if length == near]
            places = places if fields.get(str(near)) != cfg[name] else []
            why = 'nothing reads it'
        if places:
            shown = ' or '.join(f'`{place}`' for place in sorted(places)[:4])
            raise UnknownFieldError(f'`{name}` in {file.path} has no effect, {why}: set {shown}')


def _leaves(node: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """All fields below a node: dotted path, last name, value."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(node, Mapping):
        items = node.items()
    elif isinstance(node, list | tuple):
        items = enumerate(node)
    for name, value in items:
        yield f'{path}.{name}', str(name), value
        yield from _leaves(value, f'{path}.{name}')


def _mapping(value: Any) -> Mapping:
    return value if isinstance(value, Mapping) else {}


def check_fields(cfg: Config) -> None:
    """Refuse a config with names that nothing reads.

    These are: a name at its top that is nearly that of a section, fields of sections that have no ``type``, fields of
    data loaders, and fields of hooks. What has a ``type`` else is checked by its class when it is built.

    Raises:
        UnknownFieldError: For the first of them.
    """
    file = read_files(cfg.filename) if cfg.filename else None
    passed = SECTIONS | (file.packaged() if file is not None else set())  # mmseg has a `models` by mistake
    for name, value in cfg.items():
        near = None if name in passed else _nearest(name, SECTIONS - {'tta_pipeline'})  # not `test_pipeline`
        if near and isinstance(value, Mapping) == isinstance(cfg.get(near, value), Mapping):
            raise UnknownFieldError(f'the config has `{name}`, which nothing reads: did you mean `{near}`?')
    for section, known in _UNTYPED.items():
        part = _mapping(cfg.get(section))
        if 'type' not in part:
            _check_names(part, section, known)
    _check_names(
        _mapping(_mapping(cfg.get('env_cfg')).get('mp_cfg')), 'env_cfg.mp_cfg', _parameters(set_multi_processing)
    )
    for section in _LOADERS:
        _check_names(_mapping(cfg.get(section)), section, _OF_LOADER)
    scope = cfg.get('default_scope') or 'mmengine'
    hooks = [(f'default_hooks.{name}', hook) for name, hook in _mapping(cfg.get('default_hooks')).items()]
    custom = cfg.get('custom_hooks')
    hooks += [(f'custom_hooks.{i}', hook) for i, hook in enumerate(custom if isinstance(custom, list | tuple) else ())]
    for path, hook in hooks:
        if isinstance(hook, Mapping) and hook.get('type') is not None:
            _check_typed(hook, hook, path, scope, [HOOKS])


def _check_names(part: Mapping, path: str, known: Collection[str]) -> None:
    for name in part:
        if name not in {*known, *_EVERYWHERE}:
            _refuse(path, str(name), known, f'`{path}`')
