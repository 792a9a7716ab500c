"""Checkpoint files that are whole or not there, and how to find the newest whole one.

Beside ``epoch_3.pth`` lies ``epoch_3.pth.sha256`` in the format of ``sha256sum``, written first; the pointer file
``last_checkpoint``, which mmengine resumes from, moves last. Each of the three is written to a temporary file, synced
and renamed, so a kill at any moment leaves either the old or the new state.
"""

import hashlib
import os
import re
import zipfile
from pathlib import Path

POINTER = 'last_checkpoint'
_NAME = re.compile(r'(epoch|iter)_\d+\.pth')


def sync_file(path: str | os.PathLike) -> None:
    """Wait until a file's content, or a folder's list of files, is on the disk."""
    if os.name == 'nt' and os.path.isdir(path):  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDWR if os.name == 'nt' else os.O_RDONLY)  # and syncs only what may be written
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a small file so that it is always whole, or as it was."""
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.tmp')
    try:
        temporary.write_text(text, encoding='utf-8')
        sync_file(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_file(path.parent)


def sha256(path: str | os.PathLike) -> str:
    """Checksum of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def record_of(path: str | os.PathLike) -> Path:
    """Where a checkpoint's checksum is."""
    return Path(f'{path}.sha256')


def publish(temporary: str | os.PathLike, path: str | os.PathLike) -> None:
    """Turn a written file of the same folder into a checkpoint: sync it, record its checksum, rename it."""
    path = Path(path)
    sync_file(temporary)
    record = record_of(path)
    new = f'{sha256(temporary)}  {path.name}\n'
    old = record.read_text(encoding='utf-8') if path.is_file() and record.is_file() else ''
    write_text(record, new + old)  # while the file of this name is replaced, either of the two is right
    os.replace(temporary, path)
    sync_file(path.parent)
    if old:
        write_text(record, new)


def remove(path: str | os.PathLike) -> None:
    """Remove a checkpoint and its record, as far as they are there."""
    for name in (Path(path), record_of(path)):
        name.unlink(missing_ok=True)


def damage(path: str | os.PathLike) -> str:
    """What is wrong with a checkpoint file; empty if it is whole.

    Without a record beside it, the checksums inside of torch's zip format count.
    """
    path, record = Path(path), record_of(path)
    if not path.is_file():
        return 'it does not exist'
    if path.stat().st_size == 0:
        return 'it is empty'
    try:
        if record.is_file():
            found = sha256(path)
            recorded = [line[:64] for line in record.read_text(encoding='utf-8').splitlines()]
            return '' if found in recorded else f'its SHA-256 is {found[:12]}..., not the recorded one'
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        return '' if broken is None else f'its part {broken!r} is damaged'
    except zipfile.BadZipFile as error:
        return f'it is no whole file of torch.save ({error})'
    except OSError as error:
        return f'it cannot be read ({error})'


def checkpoint_folder(work_dir: str | os.PathLike, out_dir: str | os.PathLike | None = None) -> str:
    """Where a run's checkpoints are, as mmengine's ``CheckpointHook`` has it, whose ``out_dir`` is given."""
    return str(work_dir) if out_dir is None or out_dir == work_dir else str(Path(out_dir, Path(work_dir).name))


def candidates(folder: str | os.PathLike) -> list[Path]:
    """Checkpoints of a folder that a run could be resumed from, the best first.

    That is what the pointer names, but for files that were published after the pointer was moved, as a kill between
    the two leaves them; then all others, newest first. Whoever edits the pointer gets what it says, a file of
    this name beside it first. As times do not
    outlive a plain copy of the folder, only files of the pointer's kind, ``epoch_`` or ``iter_``, and with larger
    numbers count as later.
    """
    folder = Path(folder)
    pointer = folder / POINTER
    found = [path for path in folder.glob('*.pth') if _NAME.fullmatch(path.name) and path.is_file()]
    newest_first = sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    text = pointer.read_text(encoding='utf-8', errors='replace').strip().strip('\0') if pointer.is_file() else ''
    target = folder / Path(text).name  # beside the pointer: the folder may have been moved, and another have its place
    if text and not target.is_file():
        target = Path(text)
    first = []
    if pointer.is_file():
        moved = pointer.stat().st_mtime_ns
        published_later = [path for path in newest_first if path.stat().st_mtime_ns > moved]
        first = [path for path in published_later if _after(path, target) and record_of(path).is_file()]
        first += [target] if text and target.is_file() else []
    return first + [path for path in newest_first if path not in first]


def _after(path: Path, other: Path) -> bool:
    """Whether a checkpoint is a later one of the same kind, ``epoch_`` or ``iter_``."""
    (kind, _, number), (other_kind, _, other_number) = (name.stem.rpartition('_') for name in (path, other))
    return kind == other_kind and number.isdigit() and other_number.isdigit() and int(number) > int(other_number)


def find_whole_checkpoint(folder: str | os.PathLike) -> tuple[str | None, list[str]]:
    """The checkpoint of a folder to resume from, and what is wrong with each that was passed over."""
    passed_over: list[str] = []
    for path in candidates(folder):
        wrong = damage(path)
        if not wrong:
            return str(path), passed_over
        passed_over.append(f'{path}: {wrong}')
    return None, passed_over
