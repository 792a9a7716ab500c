"""Images inside of other files, by addresses ``<kind>://...`` that everything here that reads image files takes."""

from abc import abstractmethod
from typing import cast

from mmengine.fileio import get_file_backend, register_backend
from mmengine.fileio.backends import BaseStorageBackend

_KINDS: list[str] = []


class InsideBackend(BaseStorageBackend):
    """Reads images that are no files of their own, for ``mmengine.fileio``. Processes share nothing of it."""

    @abstractmethod
    def size(self, filepath: str) -> int:
        """Bytes at an address.

        Raises:
            FileNotFoundError: There is nothing, or nothing any more.
        """

    def get_text(self, filepath: str, encoding: str = 'utf-8') -> str:
        """Content of an address as text."""
        return self.get(filepath).decode(encoding)


def register_inside(kind: str, backend: type[InsideBackend]) -> None:
    """Let a backend read what begins with ``<kind>://``."""
    register_backend(kind, backend, prefixes=kind, force=True)
    _KINDS.append(kind)


def is_inside(path: str) -> bool:
    """Whether a path is an address of an image inside of another file."""
    return path.startswith(tuple(f'{kind}://' for kind in _KINDS))


def size_inside(path: str) -> int:
    """Bytes at such an address; a FileNotFoundError if there is nothing."""
    return cast(InsideBackend, get_file_backend(path, enable_singleton=True)).size(path)
