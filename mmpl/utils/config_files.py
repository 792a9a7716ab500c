"""What a config file and the files that it inherits from say themselves, before mmengine makes one config of them.

mmengine evaluates each file by itself: what a file made from a variable stays as it is where a file that inherits
from it gives the variable another value.
"""

import ast
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.utils import get_installed_path

_ENVIRONMENT = re.compile(r'\{\{[\'"]?\s*\$(\w+)\s*:\s*(\S*?)\s*[\'"]?\}\}')


@dataclass
class ConfigFile:
    """One file of a config.

    Attributes:
        path: Where it lies.
        assigned: The variables that it gives a value.
        loaded: The variables that it reads.
        of_base: The variables of its bases that it reads.
        bases: The files that it inherits from, as far as they can be read.
    """

    path: Path
    assigned: set[str] = field(default_factory=set)
    loaded: set[str] = field(default_factory=set)
    of_base: set[str] = field(default_factory=set)
    bases: list['ConfigFile'] = field(default_factory=list)

    def base_with(self, name: str) -> 'ConfigFile | None':
        """The nearest file below this one that gives a variable a value."""
        for base in reversed(self.bases):
            found = base if name in base.assigned else base.base_with(name)
            if found is not None:
                return found
        return None

    def packaged(self) -> set[str]:
        """The variables of the files that are part of an installed package."""
        own = self.assigned if '.mim' in self.path.parts else set()
        return own.union(*(base.packaged() for base in self.bases))

    def without_effect(self, heirs: tuple['ConfigFile', ...] = ()) -> Iterator[tuple['ConfigFile', str]]:
        """Variables of this file and those below it that are read nowhere, where they would have to be to matter.

        Files of installed packages are left out, and files without a base, as a run writes them.
        """
        for name in self.assigned if self.bases and '.mim' not in self.path.parts else ():
            if name not in self.loaded and not name.startswith('_') and not any(name in heir.of_base for heir in heirs):
                yield self, name
        for base in self.bases:
            yield from base.without_effect((*heirs, self))


def _path_of(base: str, folder: Path) -> Path:
    package, mark, rest = base.partition('::')
    return Path(get_installed_path(package), '.mim', 'configs', rest) if mark else folder / base


def read_files(path: str | os.PathLike) -> ConfigFile | None:
    """Read a config file and those that it inherits from.

    Returns:
        None: It cannot be told, as of a file in mmengine's newer style, whose bases are imported.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding='utf-8')
        text = _ENVIRONMENT.sub(lambda match: os.environ.get(match[1], match[2]), text)
        tree = ast.parse(re.sub(r'\{\{\s*fileDirname\s*\}\}', str(path.parent), text))
    except (OSError, SyntaxError, ValueError):
        return None
    if path.suffix != '.py' or 'read_base' in text:
        return None
    file = ConfigFile(path, of_base=set(re.findall(r'_base_\.(\w+)', text)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            file.loaded.add(node.id)
    for statement in tree.body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            continue
        name = statement.targets[0].id
        file.assigned.add(name)
        if name == '_base_':
            try:
                bases = ast.literal_eval(statement.value)
                bases = [bases] if isinstance(bases, str) else bases
                found = [read_files(_path_of(base, path.parent)) for base in bases]
            except Exception:  # computed, or of a package that is not installed; mmengine says so
                return None
            file.bases = [base for base in found if base is not None]
    return file
