"""The report of bad files: one line a file, however many processes find it, however often a run is resumed."""

import fcntl
import json
import os
from typing import Any

REPORT_NAME = 'bad_files.jsonl'


class BadDataError(RuntimeError):
    """Too much of the data cannot be used."""


class BadFileReport:
    """A file of JSON lines, ``{"path", "reason", "index"}``, that many processes may add to."""

    def __init__(self, path: str) -> None:
        self.path = path

    def add(self, entry: dict[str, Any]) -> bool:
        """Add a line unless its path is there already, under a lock that holds between processes.

        Returns:
            Whether it was new.
        """
        os.makedirs(os.path.dirname(self.path) or '.', exist_ok=True)
        with open(self.path, 'a+', encoding='utf-8') as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            lines = file.read().split('\n')
            if any(json.loads(line)['path'] == entry['path'] for line in lines if _complete(line)):
                return False
            # a line that a kill cut short is ended, and stays unread
            file.write(('\n' if lines[-1] else '') + json.dumps(entry, ensure_ascii=True) + '\n')
            file.flush()
            return True

    def read(self) -> list[dict[str, Any]]:
        """All lines so far; none if there is no file."""
        try:
            with open(self.path, encoding='utf-8') as file:
                return [json.loads(line) for line in file.read().split('\n') if _complete(line)]
        except FileNotFoundError:
            return []

    def size(self) -> int:
        """Bytes so far: changes when a line is added."""
        try:
            return os.path.getsize(self.path)
        except FileNotFoundError:
            return 0


def _complete(line: str) -> bool:
    return line.startswith('{') and line.endswith('}')


def listing(entries: list[dict[str, Any]], shown: int = 50) -> str:
    """Entries of a :class:`BadFileReport`, one a line, at most ``shown`` of them."""
    lines = [f'  {entry["path"]!r}: {entry["reason"]}' for entry in entries[:shown]]
    return '\n'.join(lines + ([f'  ... and {len(entries) - shown} more'] if len(entries) > shown else []))
