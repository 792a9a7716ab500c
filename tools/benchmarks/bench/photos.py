"""JPEGs of any size out of real photographs, for benchmarks and tests of the input pipeline."""

from pathlib import Path

import numpy as np
from PIL import Image

from mmpl.datasets.embedded.sources import open_photo

PHOTOS = (  # all are colour and at least 400 pixels on a side
    'skimage/data/astronaut.png', 'skimage/data/coffee.png', 'skimage/data/rocket.jpg',
    'skimage/data/hubble_deep_field.jpg', 'skimage/data/retina.jpg', 'skimage/data/motorcycle_left.png',
    'sklearn/datasets/images/china.jpg', 'sklearn/datasets/images/flower.jpg',
)  # fmt: skip


def write_photos(
    folder: str | Path, count: int = 32, size: tuple[int, int] = (500, 375), quality: int = 97, seed: int = 0
) -> list[Path]:
    """Write random crops of the photographs.

    A crop has the wanted aspect ratio and at least 60 % of the largest such crop's sides; every second one is mirrored.
    Chroma is subsampled (4:2:0), as cameras and ImageNet do.

    Args:
        folder: Made if need be.
        count: How many.
        size: Width and height in pixels; (500, 375) is ImageNet's most frequent size.
        quality: Of the JPEG, 1 to 100; 97 gives about 90 kB at 500 x 375.
        seed: Of the crops.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    photos = [open_photo(name) for name in PHOTOS[:count]]
    paths = []
    for index in range(count):
        photo = photos[index % len(photos)]
        largest = min(photo.width / size[0], photo.height / size[1])
        scale = largest * rng.uniform(0.6, 1.0)
        width, height = int(size[0] * scale), int(size[1] * scale)
        left = int(rng.integers(0, photo.width - width + 1))
        top = int(rng.integers(0, photo.height - height + 1))
        crop = photo.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))
        if index % 2:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        paths.append(folder / f'{index:05d}.jpg')
        crop.save(paths[-1], quality=quality, subsampling='4:2:0')
    return paths
