"""The report of bad files: one line a file, however many processes find it, however often a run is resumed."""

import json
import os
from contextlib import suppress
from typing import Any

from mmpl.utils.user_errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

REPORT_NAME = 'bad_files.jsonl'
LOSSES_NAME = 'lossy_files.jsonl'


class BadDataError(UserError, RuntimeError):
    """Too much of the data cannot be used."""


def too_many(bad: int, total: int, max_share: float) -> bool:
    """Whether so many of so many files are more than a share; one alone is so only if none may be."""
    return bad > max_share * total and (bad > 1 or max_share == 0)


class BadFileReport:
    """A file of JSON lines, ``{"path", "reason", "index"}``, that many processes may add to.

    Where files cannot be locked (Windows, some network file systems) a path may come twice; it is read once.

    Args:
        path: The file.
        key: The field that no two lines share.
    """

    def __init__(self, path: str, key: str = 'path') -> None:
        self.path = path
        self.key = key

    def add(self, entry: dict[str, Any]) -> bool:
        """Add a line unless its key is there already, under a lock between processes where there are locks.

        Returns:
            Whether it was new.
        """
        os.makedirs(os.path.dirname(self.path) or '.', exist_ok=True)
        with open(self.path, 'a+', encoding='utf-8') as file:
            if fcntl is not None:
                with suppress(OSError):  # the file system knows no locks
                    fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            if any(known[self.key] == entry[self.key] for known in self._entries(text)):
                return False
            # a line that a kill cut short is ended, and stays unread
            file.write(('\n' if text and not text.endswith('\n') else '') + json.dumps(entry, ensure_ascii=True) + '\n')
            file.flush()
            return True

    def read(self) -> list[dict[str, Any]]:
        """All lines so far, one a key; none if there is no file."""
        try:
            with open(self.path, encoding='utf-8') as file:
                return self._entries(file.read())
        except FileNotFoundError:
            return []

    def size(self) -> int:
        """Bytes so far: changes when a line is added."""
        try:
            return os.path.getsize(self.path)
        except FileNotFoundError:
            return 0

    def _entries(self, text: str) -> list[dict[str, Any]]:
        """The lines that are whole, the first of each key; a kill, or two writers without a lock, leave others."""
        found: dict[str, dict[str, Any]] = {}
        for line in text.split('\n'):
            with suppress(ValueError, TypeError, KeyError):
                entry = json.loads(line)
                found.setdefault(entry[self.key], entry)
        return list(found.values())


def losses(report: str) -> BadFileReport:
    """The report, beside that of bad files, of what is lost while loading: one line a kind of loss."""
    return BadFileReport(os.path.join(os.path.dirname(report), LOSSES_NAME), key='kind')


def listing(entries: list[dict[str, Any]], shown: int = 50) -> str:
    """Entries of a :class:`BadFileReport`, one a line, at most ``shown`` of them."""
    lines = [f'  {entry["path"]!r}: {entry["reason"]}' for entry in entries[:shown]]
    return '\n'.join(lines + ([f'  ... and {len(entries) - shown} more'] if len(entries) > shown else []))
