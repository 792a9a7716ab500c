"""The rooms of the house: imports go down only."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / 'mmpl'
ORDER = [  # a room may import those before it
    'registry',
    'version',
    'utils',
    'compat',
    'checkpoints',
    'models',
    'methods',
    'datasets',
    'export',
    'evaluation',
    'visualization',
    'engine',
    'apis',
]
NOT_EVEN = {'engine': {'models', 'methods'}, 'evaluation': {'methods'}, 'datasets': {'models', 'methods'}}


def imports_of(path: Path) -> set[str]:
    """The rooms that a file imports anywhere, also inside of functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = [*path.relative_to(PACKAGE.parent).with_suffix('').parts]
            base = '.'.join(parts[: len(parts) - node.level]) if node.level else ''
            names = [f'{base}.{node.module or ""}'.strip('.')]
            names += [f'{names[0]}.{alias.name}' for alias in node.names] if names[0] == 'mmpl' else []
        else:
            continue
        found |= {name.split('.')[1] for name in names if name.startswith('mmpl.')}
    return found


@pytest.mark.parametrize('room', [room for room in ORDER if (PACKAGE / room).is_dir()])
def test_a_room_imports_lower_rooms_only(room):
    allowed = set(ORDER[: ORDER.index(room) + 1]) - NOT_EVEN.get(room, set())
    wrong = {
        str(path.relative_to(PACKAGE)): sorted(extra)
        for path in sorted((PACKAGE / room).rglob('*.py'))
        if (extra := imports_of(path) - allowed)
    }
    assert not wrong, f'{room} may import {sorted(allowed)}'


def test_every_room_has_its_place():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / '__init__.py').is_file()}
    assert rooms <= set(ORDER), rooms - set(ORDER)
