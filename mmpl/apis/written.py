"""Configs that commands write: from templates, beside what they inherit from."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import mmpl
from mmpl.checkpoints.files import candidates
from mmpl.utils.user_errors import UserError

OF_MACHINE = '# of this machine'
"""Ends a line that may differ where a run goes on."""
_SIGN = '# as mmpl wrote it:'
_WORKERS = re.compile(r'^( *((?:num|persistent)_workers)=\w+,)(?: *#.*)?$', re.MULTILINE)


def config_folder() -> Path:
    """The folder ``configs`` of mmpl, in the repository or in the installed package.

    Raises:
        UserError: There is none.
    """
    package = Path(mmpl.__file__).resolve().parent
    places = [package.parent / 'configs', package / '.mim' / 'configs']
    found = next((place for place in places if (place / '_base_' / 'default_runtime.py').is_file()), None)
    if found is None:
        raise UserError(f'the configs of mmpl are in none of {", ".join(map(str, places))}: install mmpl with pip')
    return found


def render(template: str, **fields: Any) -> str:
    """Text of a config from one of the templates beside this file."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / 'templates'),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # Python, no page
    )
    environment.filters['repr'] = repr
    return environment.get_template(template).render(fields)


def publish(path: Path, text: str, workers_asked: bool = False) -> None:
    """Write a config, unless there is one of other settings that somebody has edited or that a run was made with.

    Args:
        path: The file.
        text: Of the config.
        workers_asked: Whether the number of workers was asked for: it then takes the place of the one that is there.

    Raises:
        UserError: There is such a one; or its folder holds checkpoints of another; or the text holds ``{{``, where
            mmengine would put something else.
    """
    if braces := re.search(r'\{\{.*', text):
        raise UserError(f'a path or name holds `{{{{`, which configs take for a variable of their own: {braces[0]!r}')
    folder = path.with_suffix('')
    made, old = candidates(folder), path.read_text(encoding='utf-8') if path.is_file() else ''
    if old and _settings(old) == _settings(text):
        if workers_asked:
            new = old
            for line, name in _WORKERS.findall(text):
                new = re.sub(rf'^ *{name}=\w+,', line, new, count=1, flags=re.MULTILINE)
            _replace(path, _signed(new.rpartition(_SIGN)[0]) if _is_unedited(old) else new)
        return
    if made and not old:
        raise UserError(
            f'{folder} holds checkpoints, but {path}, the config that they were made with, is gone: name another work '
            'folder, or delete this one'
        )
    started = any(folder.glob('*/vis_data'))  # its first checkpoint comes later
    if old and (made or started or not _is_unedited(old)):
        now, there = ({line.strip() for line in _settings(content)} for content in (text, old))
        told = [
            f'{what}: {"; ".join(sorted(lines)[:4])}'
            for what, lines in (('asked for now', now - there), ('there', there - now))
            if lines
        ]
        raise UserError(
            f'{path} is there already, of other settings ({"; ".join(told)}): name another '
            f'work folder, delete it and its folder, or run it as it is with tools/train.py'
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, _signed(text))


def _replace(path: Path, text: str) -> None:
    rough = path.with_name(f'.{path.name}.tmp')
    rough.write_text(text, encoding='utf-8')
    os.replace(rough, path)


def _is_unedited(text: str) -> bool:
    return text == _signed(text.rpartition(_SIGN)[0])


def _signed(text: str) -> str:
    return f'{text}{_SIGN} {hashlib.sha256(text.encode()).hexdigest()[:16]}\n'


def _settings(text: str) -> list[str]:
    """Lines of a config without its comments, and without those that are marked as of the machine."""
    lines = [line.split('  #')[0].rstrip() for line in text.splitlines() if not line.endswith(OF_MACHINE)]
    lines = [line for line in lines if not _WORKERS.match(line)]
    return [line for line in lines if line and not line.startswith('#')]
