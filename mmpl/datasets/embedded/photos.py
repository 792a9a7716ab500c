"""Real photographs from inside pip packages, as JPEGs of any size: for benchmarks and tests of the input pipeline."""

from pathlib import Path

import numpy as np
from PIL import Image

PHOTOS = (  # of scikit-image and scikit-learn; all are colour and at least 400 pixels on a side
    'skimage:astronaut.png',
    'skimage:coffee.png',
    'skimage:rocket.jpg',
    'skimage:hubble_deep_field.jpg',
    'skimage:retina.jpg',
    'skimage:motorcycle_left.png',
    'sklearn:china.jpg',
    'sklearn:flower.jpg',
)


def load_photo(name: str) -> Image.Image:
    """One photograph in RGB.

    Args:
        name (str): One of :data:`PHOTOS`.

    Returns:
        Image.Image: The picture.
    """
    package, file = name.split(':')
    if package == 'skimage':
        import skimage

        path = Path(skimage.__file__).parent / 'data' / file
    else:
        import sklearn.datasets

        path = Path(sklearn.datasets.__file__).parent / 'images' / file
    return Image.open(path).convert('RGB')


def write_photos(
    folder: str | Path, count: int = 32, size: tuple[int, int] = (500, 375), quality: int = 97, seed: int = 0
) -> list[Path]:
    """Write JPEGs that are random crops of real photographs.

    A crop has the wanted aspect ratio and at least 60 % of the largest such crop's sides; every second one is mirrored.
    Chroma is subsampled (4:2:0), as cameras and ImageNet do.

    Args:
        folder (str | Path): Where to; made if need be.
        count (int): How many. Defaults to 32.
        size (tuple[int, int]): Width and height in pixels. Defaults to (500, 375), ImageNet's most frequent size.
        quality (int): Of the JPEG, 1 to 100. Defaults to 97: about 90 kB at 500 x 375.
        seed (int): Of the crops. Defaults to 0.

    Returns:
        list[Path]: The files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    photos = [load_photo(name) for name in PHOTOS[:count]]
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
