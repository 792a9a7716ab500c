"""Members of tar files by paths of their own, ``tar://<shard>::<member>``, for what reads by ``mmengine.fileio``."""

import functools
import os
import tarfile

from mmengine.fileio import register_backend
from mmengine.fileio.backends import BaseStorageBackend

PREFIX, SEPARATOR = 'tar://', '::'


class ShardError(ValueError):
    """A shard cannot be read; the message names it and says why."""


def member_path(shard: str, member: str) -> str:
    """Path of a member of a shard."""
    return f'{PREFIX}{shard}{SEPARATOR}{member}'


def in_shard(path: str) -> bool:
    """Whether a path is one of a member of a shard."""
    return path.startswith(PREFIX)


@functools.cache
def _index(shard: str, size: int, changed: int) -> dict[str, tuple[int, int]]:
    """Where each file of a shard begins, and how long it is, in bytes; the shard is known by its size and time."""
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(shard, 'r:') as tar:
            for member in tar:
                if not member.isfile():
                    continue
                if member.name in members:
                    raise ShardError(f'{shard!r} holds {member.name!r} twice')
                if member.offset_data + member.size > size:
                    raise ShardError(f'{shard!r} is truncated: {member.name!r} ends behind its end')
                members[member.name] = (member.offset_data, member.size)
    except tarfile.ReadError as error:
        raise ShardError(
            f'{shard!r} is no whole tar file ({error}); a compressed one (.tar.gz) cannot be read at random places: '
            'unpack it to a plain .tar'
        ) from error
    return members


def index_of(shard: str) -> dict[str, tuple[int, int]]:
    """Files of a shard: name -> (offset, length) in bytes.

    Raises:
        FileNotFoundError: There is no such shard.
        ShardError: It is compressed, truncated or no tar file, or holds a name twice.
    """
    found = os.stat(shard)
    return _index(shard, found.st_size, found.st_mtime_ns)


def _place(path: str) -> tuple[str, tuple[int, int]]:
    """The shard of a member, and its offset and length there."""
    shard, _, member = path.removeprefix(PREFIX).partition(SEPARATOR)
    place = index_of(shard).get(member)
    if place is None:
        raise FileNotFoundError(f'{shard!r} holds no {member!r}: was it changed since the run started?')
    return shard, place


def member_size(path: str) -> int:
    """Bytes of a member; a FileNotFoundError if there is none."""
    return _place(path)[1][1]


class TarBackend(BaseStorageBackend):
    """Reads members of shards for ``mmengine.fileio``; every read opens the shard anew, so processes share nothing."""

    def get(self, filepath: str) -> bytes:
        """Content of ``tar://<shard>::<member>``.

        Raises:
            FileNotFoundError: The shard has no such member, or none any more.
        """
        shard, (offset, length) = _place(str(filepath))
        with open(shard, 'rb') as file:
            file.seek(offset)
            return file.read(length)

    def get_text(self, filepath: str, encoding: str = 'utf-8') -> str:
        """The same as text."""
        return self.get(filepath).decode(encoding)


register_backend('tar', TarBackend, prefixes='tar', force=True)
