"""The report of bad files: one line a file, however many processes find it, however often a run is resumed."""

import json
import os
from contextlib import suppress
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

REPORT_NAME = 'bad_files.jsonl'


class BadDataError(RuntimeError):
    """Too much of the data cannot be used."""


class BadFileReport:
    """A file of JSON lines, ``{"path", "reason", "index"}``, that many processes may add to.

    Where files cannot be locked (Windows, some network file systems) a path may come twice; it is read once.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def add(self, entry: dict[str, Any]) -> bool:
        """Add a line unless its path is there already, under a lock between processes where there are locks.

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
            if any(known['path'] == entry['path'] for known in _entries(text)):
                return False
            # a line that a kill cut short is ended, and stays unread
            file.write(('\n' if text and not text.endswith('\n') else '') + json.dumps(entry, ensure_ascii=True) + '\n')
            file.flush()
            return True

    def read(self) -> list[dict[str, Any]]:
        """All lines so far, one a path; none if there is no file."""
        try:
            with open(self.path, encoding='utf-8') as file:
                return _entries(file.read())
        except FileNotFoundError:
            return []

    def size(self) -> int:
        """Bytes so far: changes when a line is added."""
        try:
            return os.path.getsize(self.path)
        except FileNotFoundError:
            return 0


def _entries(text: str) -> list[dict[str, Any]]:
    """The lines that are whole, the first of each path; a kill, or two writers without a lock, leave others."""
    found: dict[str, dict[str, Any]] = {}
    for line in text.split('\n'):
        with suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            found.setdefault(entry['path'], entry)
    return list(found.values())


def listing(entries: list[dict[str, Any]], shown: int = 50) -> str:
    """Entries of a :class:`BadFileReport`, one a line, at most ``shown`` of them."""
    lines = [f'  {entry["path"]!r}: {entry["reason"]}' for entry in entries[:shown]]
    return '\n'.join(lines + ([f'  ... and {len(entries) - shown} more'] if len(entries) > shown else []))
