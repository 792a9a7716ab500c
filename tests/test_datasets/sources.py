"""The same images in a folder, in shards, and as rows of a Hugging Face data set."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image as Picture

CROP = dict(type='mmpl.LoadRandomResizedCrop', scale=16, crop_ratio_range=(0.4, 1.0), flip_prob=0.5)
PIPELINE = [CROP, dict(type='PackInputs')]
COUNT = 26


def content(number: int) -> bytes:
    """A JPEG or a PNG, each of its own colours."""
    rng = np.random.default_rng(number)
    image = Picture.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)).resize((42, 36), Picture.BICUBIC)
    file = io.BytesIO()
    image.save(file, ('JPEG', 'PNG')[number % 2], **({} if number % 2 else dict(quality=95)))
    return file.getvalue()


def name_of(number: int) -> str:
    return f'{number:03}.{("jpg", "png")[number % 2]}'


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write_folder(path: Path) -> dict:
    path.mkdir()
    for number in range(COUNT):
        (path / name_of(number)).write_bytes(content(number))
    return dict(type='mmpl.UnlabelledFolder', data_root=str(path), pipeline=PIPELINE)


def write_shards(path: Path) -> dict:
    """Three, with labels beside the images."""
    path.mkdir()
    for shard in range(3):
        with tarfile.open(path / f'train-{shard:06}.tar', 'w') as tar:
            for number in range(shard * 10, min(COUNT, shard * 10 + 10)):
                add(tar, name_of(number), content(number))
                add(tar, f'{number:03}.cls', b'3')
    return dict(type='mmpl.ShardDataset', shards=str(path), pipeline=PIPELINE)


def write_rows(path: Path, contents: list[bytes | None] | None = None) -> dict:
    """A column ``picture`` of encoded files, and labels."""
    from datasets import Dataset, Features, Image, Value

    files = contents or [content(number) for number in range(COUNT)]
    rows = [None if file is None else dict(bytes=file, path=None) for file in files]
    features = Features(dict(label=Value('int64'), picture=Image()))
    Dataset.from_dict(dict(label=[3] * len(rows), picture=rows), features=features).save_to_disk(str(path))
    return dict(type='mmpl.HuggingFaceDataset', source=str(path), pipeline=PIPELINE)
