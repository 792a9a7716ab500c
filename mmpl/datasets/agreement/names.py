"""Class names: what differs between two lists of them."""

from collections.abc import Sequence
from typing import Any

from .findings import Findings, Side, listed, repeated

_ALL = 20


def _shown(names: Sequence, around: int = 0) -> str:
    """A list of names, of many those around the first that differs."""
    if len(names) <= _ALL:
        return str(list(names))
    start = max(0, min(around - 2, len(names) - 5))
    inner = listed(names[start : start + 5])
    return f'[{"..., " if start else ""}{inner}{", ..." if start + 5 < len(names) else ""}]'


def difference(left_field: str, left: Sequence, right_field: str, right: Sequence) -> str | None:
    """A sentence that shows both lists and exactly what differs; None if nothing does."""
    if list(left) == list(right):
        return None
    first = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    only = [[n for n in left if n not in set(right)], [n for n in right if n not in set(left)]]
    parts = [
        f'only the {side} has {listed(names)}' for side, names in zip(('first', 'second'), only, strict=True) if names
    ]
    folded = {_fold(n): n for n in only[1]}
    alike = [(n, folded[_fold(n)]) for n in only[0] if _fold(n) in folded]
    if alike:
        pairs = ', '.join(f'{a!r} and {b!r}' for a, b in alike[:5])
        parts.append(f'{pairs} differ in case, spaces or signs alone')
    if not any(only) and len(left) == len(right):
        parts.append(f'the same names in another order: number {first} is {left[first]!r} and {right[first]!r}')
    elif not parts:
        parts.append('a name occurs more than once')
    return (
        f'{left_field} has the {len(left)} classes {_shown(left, first)}, '
        f'{right_field} the {len(right)} {_shown(right, first)}: {"; ".join(parts)}'
    )


def _fold(name: Any) -> str:
    return ''.join(c for c in str(name).casefold() if c.isalnum())


def check_names(found: Findings, side: Side) -> None:
    """Class names that cannot be any: a text instead of a list, and names that occur twice where they are looked up.

    Classes of images may share a name, as two of ImageNet's do: only their numbers count.
    """
    classes = (getattr(side.dataset, 'metainfo', None) or {}).get('classes')
    if isinstance(classes, str):
        found.error(
            f'`{side.field}.metainfo.classes`={classes!r} is a text, not a list of names (nor a file that holds one): '
            f'for one class write ({classes!r},)'
        )
    elif classes is not None and side.kind_of('CocoDataset', 'BaseSegDataset') and repeated(map(str, classes)):
        found.error(f'`{side.field}.metainfo.classes` names {listed(repeated(map(str, classes)))} more than once')


def compare_names(found: Findings, sides: Sequence[Side]) -> None:
    """All data sets must have the classes of the first of them that has any, in the same order."""
    named = [side for side in sides if side.classes is not None]
    for side in named[1:]:
        text = difference(f'`{named[0].field}`', named[0].classes or (), f'`{side.field}`', side.classes or ())
        if text:
            found.error(text)
