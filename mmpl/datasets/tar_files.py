"""Members of tar files by paths of their own, ``tar://<shard>::<member>``, for what reads by ``mmengine.fileio``."""

import functools
import os
import tarfile
from typing import BinaryIO, cast

from .inside import InsideBackend, register_inside

PREFIX, SEPARATOR = 'tar://', '::'
LINK = (-1, 0)  # place of a symbolic link, which holds nothing


class ShardError(ValueError):
    """A shard cannot be read; the message names it and says why."""


def member_path(shard: str, member: str) -> str:
    """Path of a member of a shard."""
    return f'{PREFIX}{shard}{SEPARATOR}{member}'


@functools.cache
def _index(shard: str, size: int, changed: int) -> dict[str, tuple[int, int]]:
    """Where each file of a shard begins, and how long it is, in bytes; the shard is known by its size and time."""
    members: dict[str, tuple[int, int]] = {}
    end = 0
    try:
        with open(shard, 'rb') as file, tarfile.open(fileobj=file, mode='r:') as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE * member.isreg()
                if not (member.isfile() or member.islnk() or member.issym()):
                    continue
                if member.name in members:
                    raise ShardError(f'{shard!r} holds {member.name!r} twice')
                if member.issym():
                    members[member.name] = LINK
                    continue
                if member.islnk():  # to a file before it
                    if member.linkname not in members:
                        raise ShardError(f'{shard!r} holds {member.name!r}, a link to what it does not hold')
                    members[member.name] = members[member.linkname]
                    continue
                if member.offset_data + member.size > size:
                    raise ShardError(f'{shard!r} is truncated: {member.name!r} ends behind its end')
                members[member.name] = (member.offset_data, member.size)
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:  # tarfile stops there without a word
                raise ShardError(
                    f'{shard!r} has no end-of-archive mark behind byte {end}: it is truncated, damaged, or still being '
                    'written'
                )
    except tarfile.ReadError as error:
        raise ShardError(
            f'{shard!r} is no whole tar file ({error}); a compressed one (.tar.gz) cannot be read at random places: '
            'unpack it to a plain .tar'
        ) from error
    return members


def index_of(shard: str) -> dict[str, tuple[int, int]]:
    """Files of a shard: name -> (offset, length) in bytes, :data:`LINK` for a symbolic link.

    Raises:
        FileNotFoundError: There is no such shard.
        ShardError: It is compressed, truncated or no tar file, or holds a name twice.
    """
    found = os.stat(shard)
    return _index(shard, found.st_size, found.st_mtime_ns)


def _opened(path: str) -> tuple[BinaryIO, tuple[int, int]]:
    """The shard of a member, opened without a buffer, and the member's offset and length."""
    shard, _, member = path.removeprefix(PREFIX).partition(SEPARATOR)
    file = open(shard, 'rb', buffering=0)  # noqa: SIM115  (whoever asked closes it)
    found = os.fstat(file.fileno())
    try:
        place = _index(shard, found.st_size, found.st_mtime_ns).get(member)
        if place is None:
            raise FileNotFoundError(f'{shard!r} holds no {member!r}: was it changed since the run started?')
    except BaseException:
        file.close()
        raise
    return cast(BinaryIO, file), place


class TarBackend(InsideBackend):
    """Reads members of shards; every read opens the shard anew."""

    def get(self, filepath: str) -> bytes:
        """Content of ``tar://<shard>::<member>``.

        Raises:
            FileNotFoundError: The shard has no such member, or none any more.
        """
        file, (offset, length) = _opened(str(filepath))
        with file:
            file.seek(offset)
            content = file.read(length)
        if len(content) != length:
            raise OSError(f'{filepath!r}: {len(content)} of {length} bytes could be read')
        return content

    def size(self, filepath: str) -> int:
        """Bytes of a member."""
        file, (_, length) = _opened(str(filepath))
        file.close()
        return length


register_inside('tar', TarBackend)
