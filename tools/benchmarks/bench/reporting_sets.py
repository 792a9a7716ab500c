"""Data that no setting was ever chosen on: class folders made of what pip packages carry, none of it in a tuning set.

``letters``: 26 capitals in the typefaces of matplotlib, turned, of any size and colour, on parts of two photographs;
the typefaces of train, val and test differ. ``regions``: colour crops of three photographs, the class is the part of
the photograph; the splits share no pixel. ``shapes``: the pictures of easy-vqa, the class is the shape, whatever its
colour, size and place. All numbers are our choice, made before any method was run on them.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.results import write_json
from mmpl.datasets.embedded.build import GENERATOR, build_once, count_files
from mmpl.datasets.embedded.sources import open_photo, package_file

Sample = tuple[str, str, Image.Image]  # split, class, picture

SPLITS = ('train', 'val', 'test')
PHOTOS = ('sklearn/datasets/images/china.jpg', 'sklearn/datasets/images/flower.jpg')
FACES = (  # those of matplotlib that have all capitals, in three splits
    ('DejaVuSans', 'DejaVuSans-BoldOblique', 'DejaVuSansMono-Bold', 'DejaVuSerif', 'DejaVuSerif-BoldItalic',
     'DejaVuSansMono-Oblique', 'STIXGeneral', 'STIXGeneralBolIta', 'cmr10', 'cmtt10', 'cmss10'),
    ('DejaVuSans-Bold', 'DejaVuSerif-Italic', 'STIXGeneralItalic', 'DejaVuSansMono'),
    ('DejaVuSans-Oblique', 'DejaVuSerif-Bold', 'STIXGeneralBol', 'cmb10', 'cmti10'),
)  # fmt: skip
LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
OF_LETTER = (240, 40, 40)  # images of a class and split
OF_REGION = (300, 50, 50)
SIDE = 48


def letters() -> Iterator[Sample]:
    """Capitals on parts of photographs."""
    photos = [open_photo(name) for name in PHOTOS]
    for number, split in enumerate(SPLITS):
        fonts = [package_file(f'matplotlib/mpl-data/fonts/ttf/{face}.ttf') for face in FACES[number]]
        for label, letter in enumerate(LETTERS):
            rng = np.random.default_rng([number, label])
            for _ in range(OF_LETTER[number]):
                photo = photos[rng.integers(len(photos))]
                x, y = (int(rng.integers(0, limit - SIDE)) for limit in photo.size)
                ground = photo.crop((x, y, x + SIDE, y + SIDE))
                font = ImageFont.truetype(str(fonts[rng.integers(len(fonts))]), int(rng.integers(28, 45)))
                ink = Image.new('L', (2 * SIDE, 2 * SIDE))
                ImageDraw.Draw(ink).text((SIDE, SIDE), letter, 255, font, anchor='mm')
                ink = ink.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC)
                left, top = (SIDE // 2 + int(rng.integers(-4, 5)) for _ in range(2))
                level = np.asarray(ground).mean()
                colour = (
                    rng.integers(0, 100, 3) if level > 128 else rng.integers(156, 256, 3)
                )  # to be read on the ground
                ground.paste(tuple(colour.tolist()), mask=ink.crop((left, top, left + SIDE, top + SIDE)))
                yield split, letter, ground


def regions() -> Iterator[Sample]:
    """Crops of the parts of photographs: 2 x 3 parts each, cut into tiles that belong to one split."""
    tile = 52
    for name in (*PHOTOS, 'matplotlib/mpl-data/sample_data/grace_hopper.jpg'):
        photo = open_photo(name)
        height, width = photo.height // 2, photo.width // 3
        for part in range(6):
            label = f'{Path(name).stem}_{part}'
            x0, y0 = part % 3 * width, part // 3 * height
            corners = [
                (x0 + x, y0 + y) for y in range(0, height - tile + 1, tile) for x in range(0, width - tile + 1, tile)
            ]
            rng = np.random.default_rng([part, len(corners), photo.width])
            order = rng.permutation(len(corners))
            held = max(2, len(corners) // 5)
            chosen = dict(train=order[2 * held :], val=order[:held], test=order[held : 2 * held])
            for split, count in zip(SPLITS, OF_REGION, strict=True):
                for _ in range(count):
                    x, y = corners[chosen[split][rng.integers(len(chosen[split]))]]
                    side = int(rng.integers(30, tile + 1))
                    x, y = (int(corner + rng.integers(0, tile - side + 1)) for corner in (x, y))
                    crop = photo.crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                    yield split, label, crop


def shapes() -> Iterator[Sample]:
    """Circles, rectangles and triangles of easy-vqa, 64 x 64."""
    for part in ('train', 'test'):
        folder = package_file(f'easy_vqa/data/{part}/questions.json').parent
        known = {'circle', 'rectangle', 'triangle'}
        of_image = {
            image: answer
            for _, answer, image in json.loads((folder / 'questions.json').read_text(encoding='utf-8'))
            if answer in known
        }
        for number, label in sorted(of_image.items()):
            held = part == 'train' and number % 5 == 0
            with Image.open(folder / 'images' / f'{number}.png') as image:
                yield 'val' if held else part, label, image.convert('RGB')


SETS: dict[str, Callable[[], Iterator[Sample]]] = dict(letters=letters, regions=regions, shapes=shapes)


def make(name: str, cache: Path) -> Path:
    """Write a set as ``<split>/<class>/<number>.png`` on first use, and return its folder."""
    root = cache / 'reporting' / name

    def write(out: Path) -> None:
        for number, (split, label, image) in enumerate(SETS[name]()):
            folder = out / split / label
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f'{number:06d}.png')
        write_json(out / 'meta.json', dict(request, files=count_files(out)))

    request = dict(generator=GENERATOR, set=name, version=1)
    build_once(root, request, write)
    return root
