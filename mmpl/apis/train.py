"""The work behind ``tools/train.py``: a config and command-line options become a run.

The options are those of mmpretrain's ``tools/train.py``, plus ``--trust``. One script serves the configs of all three
projects (``default_scope`` mmpretrain, mmseg or mmdet); none of them is imported before the config asks for it.
"""

import argparse
import copy
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import all_gather_object
from mmengine.logging import MMLogger
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint
from torch.distributed.elastic.multiprocessing.errors import record

from mmpl.checkpoints import Checkpoint, import_weights, read_checkpoint
from mmpl.checkpoints.encoders import heads_of
from mmpl.checkpoints.files import candidates, checkpoint_folder
from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.compat import (
    add_trust_argument,
    check_checkpoint_path,
    init_distributed,
    restored_load_policy,
    set_load_policy,
    shutdown_distributed,
)
from mmpl.compat.launch import LAUNCHERS
from mmpl.datasets.agreement import explained_by_data
from mmpl.export.spec import ExportError, preprocessing
from mmpl.utils.cfg_options import HELP, CfgOptions, merge_options, option_value
from mmpl.utils.config_errors import explained_by, past_building, read_config
from mmpl.utils.dist import on_main
from mmpl.utils.paths import forbid_paths_outside_root, restored_path_policy
from mmpl.utils.preemption import Preempted
from mmpl.utils.run_length import LENGTHS, resolve_length, set_length
from mmpl.utils.unknown_fields import check_fields, check_variables
from mmpl.utils.user_errors import UserError, user_errors


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``train.py`` and ``test.py`` share."""
    parser.add_argument('--work-dir', help='folder of logs and checkpoints; default: ./work_dirs/<name of the config>')
    parser.add_argument(
        '--no-pin-memory', action='store_true', help='do not pin memory in data loaders (it is pinned with a GPU only)'
    )
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help=HELP)
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='what started this process')
    add_trust_argument(parser)
    # Given by older launchers; torchrun sets LOCAL_RANK instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def parse_train_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``tools/train.py``, that of the process by default."""
    parser = argparse.ArgumentParser(description='Train a model from a config')
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from this checkpoint, or, without a value, from the latest one in the work folder, if any; '
        'load_from is then what a run without one starts from',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision: bf16 for mmpl wrappers, else fp16')
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate during training')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate by the batch size, as auto_scale_lr says'
    )
    parser.add_argument(
        '--no-persistent-workers', action='store_true', help='start new data loader workers in every epoch'
    )
    add_common_arguments(parser)
    return parser.parse_args(argv)


def prepare_process(options: argparse.Namespace) -> None:
    """Decide for the whole process what it may load, before anything of it is read."""
    os.environ.setdefault('LOCAL_RANK', str(options.local_rank))
    set_load_policy(options.trust)
    forbid_paths_outside_root()


@contextmanager
def process_as_it_was() -> Iterator[None]:
    """Undo at the end of the block what :func:`prepare_process` decides: the process is the caller's."""
    rank = os.environ.get('LOCAL_RANK')
    with restored_load_policy(), restored_path_policy():
        try:
            yield
        finally:
            os.environ.pop('LOCAL_RANK', None)
            if rank is not None:
                os.environ['LOCAL_RANK'] = rank


def load_config(path: str, options: argparse.Namespace) -> Config:
    """Read a config and apply the options that training and testing share, ``--cfg-options`` excepted."""
    cfg = read_config(path)
    check_variables(cfg, path)
    cfg.launcher = options.launcher
    if options.work_dir is not None:
        cfg.work_dir = options.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(path).stem))
    return cfg


def check_work_dir(work_dir: str, field: str = 'work_dir') -> None:
    """Refuse a folder, that of ``field``, that cannot be made or written to, with an OSError."""
    place = Path(work_dir).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(f'`{field}` {work_dir!r} cannot be a folder: {str(place)!r} is a file')
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f'`{field}` {work_dir!r} cannot be written to: no permission for {str(place)!r}')


def set_loader_defaults(cfg: Config, pin_memory: bool, persistent_workers: bool) -> None:
    """Give every data loader the defaults of mmpretrain's tools, where they can hold.

    Memory is pinned only with a GPU, workers persist only where there are any. What the config says wins, but
    ``pin_memory`` and ``persistent_workers`` switch off what is False.
    """
    for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(field)
        if loader is None:
            continue
        loader.setdefault('pin_memory', torch.cuda.is_available())
        loader.setdefault('persistent_workers', loader.get('num_workers', 0) > 0)
        if cfg.get('default_scope') == 'mmpretrain':
            loader.setdefault('collate_fn', dict(type='default_collate'))
        if not pin_memory:
            loader.pin_memory = False
        if not persistent_workers or loader.get('num_workers', 0) == 0:
            loader.persistent_workers = False


def _enable_amp(cfg: Config) -> None:
    wrapper = cfg.optim_wrapper
    if wrapper.get('type', 'OptimWrapper') in ('OptimWrapper', 'mmengine.OptimWrapper'):
        # mmengine's wrapper asserts a GPU; ours runs bf16 on either.
        wrapper.type = 'AmpOptimWrapper' if torch.cuda.is_available() else 'mmpl.AutocastOptimWrapper'
    if wrapper.type == 'AmpOptimWrapper':
        wrapper.setdefault('loss_scale', 'dynamic')
    elif wrapper.type in ('mmpl.AutocastOptimWrapper', 'mmpl.GuardedOptimWrapper'):
        wrapper.type = 'mmpl.AutocastOptimWrapper'
        wrapper.dtype = 'bfloat16'
    else:
        raise ValueError(
            f'--amp: optim_wrapper.type={wrapper.type!r} is not known to run in mixed precision; allowed are '
            'OptimWrapper, AmpOptimWrapper, mmpl.GuardedOptimWrapper and mmpl.AutocastOptimWrapper'
        )


def train_config(options: argparse.Namespace) -> Config:
    """Read the config that ``options`` name and merge the options into it, ready for a Runner.

    Raises:
        ValueError: ``--amp`` or ``--auto-scale-lr`` is asked for and the config has no place for it.
    """
    cfg = load_config(options.config, options)
    resolve_length(cfg, options.config)
    if options.resume is not None:
        cfg.resume = True
        cfg.load_from = cfg.get('load_from') if options.resume == 'auto' else options.resume
    if options.auto_scale_lr:
        if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
            raise ValueError('--auto-scale-lr: the config lacks auto_scale_lr=dict(base_batch_size=...)')
        cfg.auto_scale_lr.enable = True
    if options.amp:
        _enable_amp(cfg)
    if options.cfg_options is not None:
        set_length(
            cfg, {key: option_value(cfg, key, options.cfg_options[key]) for key in LENGTHS & {*options.cfg_options}}
        )
        merge_options(cfg, options.cfg_options)
    if options.no_validate:  # after the options: those of validation fit, though nothing reads them
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    check_fields(cfg)
    check_work_dir(cfg.work_dir)
    set_loader_defaults(cfg, not options.no_pin_memory, not options.no_persistent_workers)
    return cfg


class _Shortened(logging.Formatter):
    """Leaves the first line of a long message, such as the whole config, on the console."""

    LINES = 16  # of a message that is shown whole; our choice

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self.inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        text = self.inner.format(record)
        first, *rest = text.splitlines() or ['']
        if record.levelno > logging.INFO or len(rest) < self.LINES:
            return text
        title = '' if first.endswith(':') else next((line for line in rest if line.strip(' -')), '')
        return f'{first}{title} ... ({len(rest)} lines, in the log file)'


class _ShortRunner(Runner):
    """mmengine's Runner; its console shows no dump of the config, the environment and the hooks, its log file does."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler and handler.formatter is not None:
                handler.setFormatter(_Shortened(handler.formatter))
        return logger


def build_runner(cfg: Config) -> Any:
    """Build mmengine's Runner, or the one that ``runner_type`` names."""
    return RUNNERS.build(cfg) if 'runner_type' in cfg else _ShortRunner.from_cfg(cfg)


def _has_own_checkpoint(cfg: Config) -> bool:
    """Whether ``resume=True`` alone would find a checkpoint of this run."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    kind = hook.get('type')
    if str(getattr(kind, '__name__', kind)).endswith('SafeCheckpointHook'):
        return bool(candidates(checkpoint_folder(cfg.work_dir, hook.get('out_dir'))))
    return Path(cfg.work_dir).is_dir() and find_latest_checkpoint(cfg.work_dir) is not None


def resume_after_restart(cfg: Config) -> None:
    """Let a run that torchrun started again resume by itself, if its work folder holds a checkpoint.

    A restart is counted on the machine whose process failed only, and a file system may show a new file late to some:
    the processes agree first, and the main one looks.

    Args:
        cfg: ``resume`` and ``load_from`` are changed in place, equally in all processes.
    """
    if not any(all_gather_object(int(os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')))):
        return
    if on_main(lambda: _has_own_checkpoint(cfg)):
        cfg.resume = True
        cfg.load_from = None


def start_or_resume(cfg: Config, options: argparse.Namespace) -> str:
    """Let a run with ``load_from`` start from these weights, and go on from its own checkpoints once it has some.

    mmengine reads ``resume=True`` with ``load_from`` as "resume *from* that file", which would end a run at once that
    starts from a finished one. That is kept for ``--resume PATH`` and ``--cfg-options resume=...``, which say so.

    Args:
        cfg: ``resume`` and ``load_from`` are changed in place, equally in all processes.
        options: As from :func:`parse_train_args`.

    Returns:
        What was chosen, for the log; empty where there was nothing to choose.
    """
    path_given = options.resume not in (None, 'auto')
    if path_given or 'resume' in (options.cfg_options or {}):
        return ''
    if not cfg.get('resume') or cfg.get('load_from') is None:
        return ''
    start = cfg.load_from
    if on_main(lambda: _has_own_checkpoint(cfg)):
        cfg.load_from = None
        return f'The run goes on from its own checkpoints in {cfg.work_dir}, not from `load_from` {start}.'
    cfg.resume = False
    return f'The run starts from the weights of `load_from` {start}: {cfg.work_dir} holds no checkpoint to go on from.'


def import_start(cfg: Config) -> str:
    """Let a run that starts from public weights start from a checkpoint that is made of them in its work folder.

    Args:
        cfg: ``load_from`` is changed in place, equally in all processes.

    Returns:
        What was imported, for the log, and whether the weights were fed otherwise; empty where there is nothing to say.

    Raises:
        CheckpointMismatchError: The encoder has another number of attention heads, which no tensor shows.
    """
    start = str(cfg.load_from)
    if cfg.get('resume') or '://' in start:
        return ''

    def imported() -> tuple[str, str]:
        found = read_checkpoint(start)
        said = _compare_start(cfg, found)
        if not found.is_foreign:
            return start, said
        Path(cfg.work_dir).mkdir(parents=True, exist_ok=True)
        path = str(Path(cfg.work_dir, f'imported_{Path(start).stem}.pth'))
        import_weights(found, path)
        return path, ' '.join(filter(None, [f'Imported {found.origin()}; the run starts from {path}.', said]))

    cfg.load_from, said = on_main(imported)
    return said


def _compare_start(cfg: Config, found: Checkpoint) -> str:
    """Refuse weights with other attention heads; say if they were fed otherwise than this run feeds them."""
    ours, theirs = (dict(config.get('model') or {}) for config in (cfg, found.config))
    encoder, other = ours.get('backbone'), theirs.get('backbone')
    if not isinstance(encoder, Mapping) or not isinstance(other, Mapping):
        return ''
    own, given = heads_of(encoder), heads_of(other)
    if own is not None and given is not None and own != given:
        raise CheckpointMismatchError(
            f'the encoder of `load_from` {found.path} has num_heads={given}, `model.backbone` num_heads={own}: every '
            'tensor fits, but the features would be others'
        )
    return _fed_otherwise(cfg, found, '`load_from`')


def compare_pretrained(cfg: Config) -> str:
    """Say if the weights that ``model.backbone`` is initialised with were fed otherwise than this run feeds them.

    What keeps them from being read is said where they are loaded.
    """
    backbone = (cfg.get('model') or {}).get('backbone')
    init_cfg = backbone.get('init_cfg') if isinstance(backbone, Mapping) else None
    if cfg.get('resume') or not isinstance(init_cfg, Mapping) or 'StrictPretrained' not in str(init_cfg.get('type')):
        return ''
    start = str(init_cfg.get('checkpoint'))
    if not os.path.exists(start):  # a URL is read once
        return ''

    def compared() -> str:
        try:
            found = read_checkpoint(start, init_cfg.get('trust'))
            return _fed_otherwise(cfg, found, f'`model.backbone.init_cfg` {start}')
        except (UserError, OSError, ValueError):
            return ''

    return on_main(compared)


def _fed_otherwise(cfg: Config, found: Checkpoint, weights: str) -> str:
    """A warning if a checkpoint's own config normalised images in another way than this run's; empty if it did not."""
    encoder, theirs = cfg.model.backbone, dict(found.config.get('model') or {})
    channels = int(encoder.get('in_channels', 3))
    try:
        fed = [preprocessing(config, channels) for config in (cfg.to_dict(), found.config)]
    except ExportError:  # what does not follow from a config is not compared
        return ''
    if None in fed or not (theirs.get('data_preprocessor') or found.config.get('data_preprocessor')):
        return ''
    texts = [f'mean {part.mean}, std {part.std}, {"BGR" if part.bgr else "RGB"}' for part in fed if part]
    if texts[0] == texts[1]:
        return ''
    return f'WARNING: the weights of {weights} were fed with {texts[1]}, this run feeds {texts[0]}.'


def train(argv: list[str] | None = None) -> Any:
    """Run ``tools/train.py``.

    Unless ``--trust`` is given, no checkpoint runs code: see :mod:`mmpl.compat.torch_load`. No annotation file reaches
    outside of its data root.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        The trained model.

    Raises:
        SystemExit: The config cannot be read, an option does not fit it, or there is no such checkpoint.
        ConfigError: Something cannot be built as the config says.
    """
    options = parse_train_args(argv)
    prepare_process(options)
    with user_errors():  # what fails later is for torchrun's record() to see
        cfg = train_config(options)
    init_distributed(cfg.launcher, cfg)
    resume_after_restart(cfg)
    choice = start_or_resume(cfg, options)
    if cfg.get('load_from') is not None:
        with user_errors():
            choice = ' '.join(filter(None, [choice, import_start(cfg)]))
            check_checkpoint_path(cfg.load_from)
    choice = ' '.join(filter(None, [choice, compare_pretrained(cfg)]))
    try:
        with explained_by(copy.deepcopy(cfg)), explained_by_data(cfg):
            runner = build_runner(cfg)
            if choice:
                runner.logger.info(choice)
            model = runner.train()
    except Preempted:
        shutdown_distributed()  # all ranks leave together
        raise
    shutdown_distributed()
    return model


def run_tool(tool: Callable[[], Any]) -> None:
    """Run :func:`train` or ``test`` as a script.

    A mistake of the user that shows while the run is built ends in one line, as one that shows before does; errors of
    data, iterations and evaluation keep their traceback. Under torchrun its summary names the rank that failed first.
    """
    try:
        record(tool)()
    except (UserError, ValueError, OSError) as error:
        if past_building(error):
            raise
        with user_errors():
            raise
