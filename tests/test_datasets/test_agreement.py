"""What data sets, annotations and evaluators may disagree in: each fault gets its sentence, sound data none."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.registry import DATASETS, METRICS, init_default_scope
from PIL import Image

from mmpl.datasets.agreement import Evaluator, Findings, check_data, difference, explained_by_data, sides_of

FIELD = {split: f'{split}_dataloader.dataset' for split in ('train', 'val')}


def _picture(path: Path, size: tuple[int, int] = (48, 64), **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path, **options)


def _look(train: Any, val: Any = None, **options: Any) -> Findings:
    sides = sides_of(FIELD['train'], train) + (sides_of(FIELD['val'], val) if val is not None else [])
    return check_data(sides, **options)


def _only(found: Findings, *patterns: str) -> None:
    """Each pattern matches an error, and there are no others."""
    for pattern in patterns:
        assert any(re.search(pattern, text) for text in found.errors), (pattern, found.errors)
    left = [text for text in found.errors if not any(re.search(p, text) for p in patterns)]
    assert not left


# names


@pytest.mark.parametrize(
    ('left', 'right', 'expected'),
    [
        (['cat', 'dog'], ['Cat', 'dog'], "only the first has 'cat'; only the second has 'Cat'; 'cat' and 'Cat' differ"),
        (['cat', 'dog'], ['dog', 'cat'], "another order: number 0 is 'cat' and 'dog'"),
        (['cat', 'dog'], ['cat'], "only the first has 'dog'"),
        (['traffic light'], ['traffic_light'], 'differ in case, spaces or signs alone'),
        (
            [f'c{i}' for i in range(50)],
            [f'c{i}' for i in range(49)] + ['x'],
            "first has 'c49'; only the second has 'x'",
        ),
    ],
)
def test_difference_shows_both_sides_and_what_differs(left, right, expected) -> None:
    """Also of long lists the place that differs is shown."""
    text = difference('`a`', left, '`b`', right)
    assert expected in text
    assert repr(left[-1]) in text and repr(right[-1]) in text
    assert difference('`a`', left, '`b`', list(left)) is None


# detection


def _annotation(number: int, image: int, category: int = 1, **changes: Any) -> dict:
    polygon = [[8, 8, 48, 8, 48, 38, 8, 38]]
    entry = dict(id=number, image_id=image, category_id=category, bbox=[8, 8, 40, 30], area=1200, iscrowd=0)
    return {**entry, 'segmentation': polygon, **changes}


class Coco:
    """Annotation files of one's own, with four pictures of 48 x 64 and an annotation of a cat and a dog in each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for i in range(4):
            _picture(root / 'img' / f'{i}.jpg')

    def content(self) -> dict:
        return dict(
            images=[dict(id=i, file_name=f'{i}.jpg', height=48, width=64) for i in range(4)],
            annotations=[_annotation(2 * i + c, i, c) for i in range(4) for c in (1, 2)],
            categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
        )

    def write(self, name: str, content: Any) -> str:
        path = self.root / name
        path.write_text(json.dumps(content))
        return str(path)

    def config(self, path: str, **changes: Any) -> dict:
        pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
        config = dict(type='CocoDataset', ann_file=path, data_prefix=dict(img=f'{self.root}/img'), pipeline=pipeline)
        return {**config, 'metainfo': dict(classes=('cat', 'dog')), **changes}

    def dataset(self, path: str, **changes: Any) -> Any:
        return DATASETS.build(self.config(path, **changes))


@pytest.fixture
def coco(tmp_path: Path) -> Coco:
    pytest.importorskip('mmdet')
    init_default_scope('mmdet')
    return Coco(tmp_path)


def _each(**changes: Any) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        for entry in content['annotations']:
            entry.update(changes)

    return change


def _first(**changes: Any) -> Callable[[dict], None]:
    return lambda content: content['annotations'][0].update(changes)


def _drop(field: str) -> Callable[[dict], None]:
    return lambda content: [entry.pop(field) for entry in content['annotations']]


def _categories(*names: str) -> Callable[[dict], None]:
    return lambda content: content.update(categories=[dict(id=i, name=n) for i, n in enumerate(names, 1)])


COCO_FAULTS = dict(
    case=(
        _categories('Cat', 'dog'),
        r"`train_dataloader.dataset.metainfo.classes` has the 2 classes .*'cat' and 'Cat' differ in case",
    ),
    missing=(_categories('cat', 'bird'), r"only the first has 'dog'; only the second has 'bird'"),
    order=(_categories('dog', 'cat'), r"another order: number 0 is 'cat' and 'dog'.* by their order in the file"),
    twice=(_categories('cat', 'dog', 'dog'), r"categories have the same name: 'dog'"),
    no_masks=(_drop('segmentation'), r'8 of 8 annotations have no `segmentation`.*id 1'),
    empty_mask=(_first(segmentation=[]), r'1 of 8 annotations have no `segmentation`'),
    short_polygon=(_first(segmentation=[[1, 2, 3, 4]]), r'1 of 8 .*`segmentation` that is none.*at least 6 numbers'),
    code_size=(_first(segmentation=dict(size=[64, 48], counts=[1])), r'`size` \[64, 48\], but the image has height 48'),
    elsewhere=(
        _each(segmentation=[[0.1, 0.1, 0.7, 0.1, 0.7, 0.7]]),
        r'8 of 8 .*polygons reach from 0\.1, 0\.1 to 0\.7, 0\.7, which is not where its bbox is',
    ),
    outside=(_first(bbox=[90, 8, 40, 30]), r'1 of 8 annotations \(12.50%.*without area inside.*\[90, 8, 40, 30\]'),
    flat=(_each(bbox=[8, 8, 0, 30]), r'8 of 8 annotations .*without area inside of the image'),
    shares=(
        _each(bbox=[0.1, 0.1, 0.5, 0.5]),
        r'8 of 8 annotations .*without area inside.*are these shares of the image, from 0 to 1',
    ),
    no_area=(_first(area=0), r'without area inside.*area 0'),
    corners=(_each(bbox=[30, 20, 60, 40]), r'8 of 8 .*leaves the image \(are these boxes \[x1, y1, x2, y2\]'),
    category=(_first(category_id=7), r'1 of 8 annotations have a `category_id` that is none of the ids.*: 7'),
    image=(_first(image_id=99), r'1 of 8 annotations have a `image_id` that is none of the ids of `images`.*: 99'),
    no_file=(
        lambda content: content['images'].append(dict(id=9, file_name='9.jpg', height=48, width=64)),
        r'1 of 5 images of `ann_file` are not in `data_prefix.img`: .*9\.jpg',
    ),
    size=(
        lambda content: [image.update(height=64, width=48) for image in content['images']],
        r'height 48 and width 64 \(turned.*`ann_file` says 64 and 48',
    ),
    nothing=(lambda content: content.update(annotations=[]), r'has no annotation of any of its classes'),
)


def test_sound_boxes(coco) -> None:
    """Nothing is said of them, of both splits, nor of the embedded scenes."""
    dataset, other = (coco.dataset(coco.write(name, coco.content())) for name in ('a.json', 'b.json'))
    found = _look(dataset, other)
    assert (found.errors, found.warnings) == ([], [])
    found = _look(dataset, dataset)
    assert found.errors == [] and 'says nothing about other images' in found.warnings[0]


@pytest.mark.parametrize('name', COCO_FAULTS)
def test_faults_of_coco_files(coco, name) -> None:
    """What mmdet leaves out silently, and what it fails on after an epoch."""
    change, pattern = COCO_FAULTS[name]
    content = coco.content()
    change(content)
    found = _look(coco.dataset(coco.write('a.json', content)))
    assert re.search(pattern, found.errors[0]), found.errors
    assert str(coco.root) in found.text()


def test_few_faulty_boxes_are_tolerated_as_told(coco) -> None:
    """One of eight is too much at 1 %, and a warning at 20 %."""
    content = coco.content()
    content['annotations'][3]['bbox'] = [8, 8, 0.5, 30]
    dataset = coco.dataset(coco.write('a.json', content))
    assert len(_look(dataset, tolerated=0.12).errors) == 1
    found = _look(dataset, tolerated=0.2)
    assert not found.errors and len(found.warnings) == 1


def test_a_subset_of_the_categories_is_said(coco) -> None:
    """Those left out are named with their number of annotations."""
    path = coco.write('a.json', coco.content())
    found = _look(coco.dataset(path, metainfo=dict(classes=('dog',))))
    assert not found.errors and "'cat' (4)" in found.warnings[0]


def test_train_and_val_of_boxes(coco) -> None:
    """Other classes, and a class that only the validation set has boxes of."""
    path = coco.write('a.json', coco.content())
    content = coco.content()
    content['annotations'] = [entry for entry in content['annotations'] if entry['category_id'] == 1]
    cats = coco.write('b.json', content)
    found = _look(coco.dataset(cats), coco.dataset(path))
    _only(found, r"`val_dataloader.dataset` has annotations of 'dog', of which `train_dataloader.dataset` has none")
    found = _look(coco.dataset(path), coco.dataset(path, metainfo=dict(classes=('dog', 'cat'))))
    assert 'another order' in found.errors[0] and FIELD['val'] in found.errors[0]


def test_classes_that_are_a_text(coco) -> None:
    """('cat') is no tuple."""
    found = _look(coco.dataset(coco.write('a.json', coco.content()), metainfo=dict(classes=('cat'))))
    assert "`train_dataloader.dataset.metainfo.classes`='cat' is a text" in found.errors[0]


def test_short_palette(coco) -> None:
    """A colour for each class, or the visualiser fails."""
    path = coco.write('a.json', coco.content())
    found = _look(coco.dataset(path, metainfo=dict(classes=('cat', 'dog'), palette=[(1, 2, 3)])))
    _only(found, r'palette` has 1 colours for 2 classes')


def _evaluator(path: str) -> dict[str, list[Evaluator]]:
    metric = METRICS.build(dict(type='CocoMetric', ann_file=path, metric=['bbox', 'segm']))
    return dict(val=[Evaluator('val_evaluator', path, metric._coco_api.dataset, True)])


def test_evaluator_of_other_annotations(coco) -> None:
    """It needs the images, the classes and the fields; the same file by another path is the same."""
    path = coco.write('a.json', coco.content())
    dataset = coco.dataset(path)
    assert not _look(dataset, dataset, evaluators=_evaluator(f'{coco.root}/img/../a.json')).errors
    content = coco.content()
    content['images'].pop()
    content['annotations'] = [entry for entry in content['annotations'] if entry['image_id'] != 3]
    found = _look(dataset, dataset, evaluators=_evaluator(coco.write('b.json', content)))
    _only(found, r"`val_evaluator.ann_file` .*b\.json' lacks images of .*: 1, '3\.jpg'")
    found = _look(dataset, coco.dataset(f'{coco.root}/b.json'), evaluators=_evaluator(path))
    _only(found, r"`val_evaluator.ann_file` .*a\.json' has images that .*b\.json' has not: 1, '3\.jpg'")
    content = coco.content()
    content['images'][0]['file_name'], content['images'][1]['file_name'] = '1.jpg', '0.jpg'
    found = _look(dataset, dataset, evaluators=_evaluator(coco.write('c.json', content)))
    _only(found, r'has other images under the ids')
    content = coco.content()
    _categories('dog', 'cat')(content)
    found = _look(dataset, dataset, evaluators=_evaluator(coco.write('d.json', content)))
    _only(found, r'`val_evaluator.ann_file` .*another order')


def test_evaluator_of_other_boxes_in_images_of_the_same_names(coco) -> None:
    """As where train.json and val.json both begin to count at 0."""
    dataset = coco.dataset(coco.write('a.json', coco.content()))
    content = coco.content()
    content['annotations'][0]['bbox'] = [9, 8, 39, 30]
    found = _look(dataset, dataset, evaluators=_evaluator(coco.write('b.json', content)))
    _only(found, r"`val_evaluator.ann_file` .*b\.json' has other boxes than .*a\.json'.*: 1, '0\.jpg'")


def test_codes_where_polygons_are_asked_for(coco) -> None:
    """With poly2mask=False mmdet ignores the whole instance."""
    content = coco.content()
    _each(segmentation=dict(size=[48, 64], counts=[0, 10, 3062]))(content)
    path = coco.write('a.json', content)
    assert not _look(coco.dataset(path)).errors
    polygons = dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False)
    found = _look(coco.dataset(path, pipeline=[polygons]))
    _only(found, r'8 of 8 annotations .*`poly2mask`=False ignores together with its box')


def test_evaluated_annotations_need_iscrowd(coco) -> None:
    """Training reads none, the evaluation fails without after an epoch."""
    content = coco.content()
    _drop('iscrowd')(content)
    path = coco.write('a.json', content)
    dataset = coco.dataset(path)
    assert not _look(dataset, dataset).errors
    found = _look(dataset, dataset, evaluators=_evaluator(path))
    _only(found, r'`val_dataloader.dataset.ann_file` .*8 of 8 annotations lack `iscrowd`')


@pytest.mark.parametrize('number', [0, 'a1', True, 1.5])
def test_evaluated_annotations_are_numbered_from_one(coco, number) -> None:
    """pycocotools takes a match with the annotation 0 for none: a perfect detector would not score 1."""
    content = coco.content()
    content['annotations'][0]['id'] = number
    content['annotations'][1]['id'] = 77
    path = coco.write('a.json', content)
    dataset = coco.dataset(path)
    assert not _look(dataset, dataset).errors
    found = _look(dataset, dataset, evaluators=_evaluator(path))
    told = found.errors if number != 0 else found.warnings
    assert any(
        f'1 of 8 annotations have an `id` that is no whole number above 0, such as {number!r}' in x for x in told
    )


def test_crowds_teach_nothing(coco) -> None:
    content = coco.content()
    for entry in content['annotations']:
        entry['iscrowd'] = int(entry['category_id'] == 2)
    found = _look(coco.dataset(coco.write('dogs.json', content)))
    assert not found.errors and "1 of 2 classes have no annotation, crowds left out: 'dog'" in str(found.warnings)
    _each(iscrowd=1)(content)
    _only(_look(coco.dataset(coco.write('all.json', content))), 'no annotation of any of its classes, but for crowds')


@pytest.mark.parametrize(
    ('change', 'pattern'),
    [
        (_first(image_id=[1]), r"an entry of `annotations` lacks 'image_id'"),
        (_drop('bbox'), r"an entry of `annotations` lacks 'bbox'"),
        (lambda content: content['images'][0].pop('height'), r"an entry of `images` lacks 'height'"),
        (lambda content: content.pop('categories'), r'holds no list `categories`'),
        (_each(id=1), r'ids of `annotations` occur more than once: 1'),
        (_drop('area'), r'lack `area`, which mmdet reads'),
    ],
)
def test_files_that_no_data_set_can_be_built_from(coco, change, pattern) -> None:
    """mmdet's error, such as KeyError: 'bbox', is replaced by what the file lacks."""
    content = coco.content()
    change(content)
    config = coco.config(coco.write('a.json', content))

    def build_dataloader() -> Any:
        return DATASETS.build(config)

    with pytest.raises(ValueError, match=pattern), explained_by_data(dict(train_dataloader=dict(dataset=config))):
        build_dataloader()


# segmentation


class Maps:
    """Pictures of 48 x 64 with label maps of 0 and 1."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def make(self, name: str, *maps: np.ndarray, suffix: str = '.jpg') -> Path:
        for i, values in enumerate(maps or (self.plain(), self.plain())):
            _picture(self.root / name / 'img' / f'{i}{suffix}')
            path = self.root / name / 'ann' / f'{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
        return self.root / name

    def plain(self, value: int = 1, dtype: type = np.uint8) -> np.ndarray:
        values = np.zeros((48, 64), dtype)
        values[10:20, 10:50] = value
        return values

    def config(self, root: Path, reduce: bool = False, told: bool | None = None, **changes: Any) -> dict:
        pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=told)]
        config = dict(type='BaseSegDataset', data_root=str(root), metainfo=dict(classes=('bg', 'crack')))
        folders = dict(img_path='img', seg_map_path='ann')
        return {**config, 'data_prefix': folders, 'reduce_zero_label': reduce, 'pipeline': pipeline, **changes}

    def dataset(self, *args: Any, **changes: Any) -> Any:
        return DATASETS.build(self.config(*args, **changes))


@pytest.fixture
def maps(tmp_path: Path) -> Maps:
    pytest.importorskip('mmseg')
    init_default_scope('mmseg')
    return Maps(tmp_path)


def test_sound_maps(maps) -> None:
    """Nothing is said of them, with ignored pixels or a void that reduce_zero_label takes away."""
    values = maps.plain()
    values[0] = 255
    dataset = maps.dataset(maps.make('a', values, values))
    found = _look(dataset, dataset)
    assert (found.errors, found.warnings) == ([], [])
    values = maps.plain(2)
    values[30:] = 1
    found = _look(maps.dataset(maps.make('b', values), True))
    assert (found.errors, found.warnings) == ([], [])


MAP_FAULTS = dict(
    stray=(
        dict(value=5),
        r"ann/0\.png' has the value 5 in 400 pixels. Allowed are the 2 classes, 0 to 1 in the file .* and 255",
    ),
    v255=(dict(value=255), r"no pixel of 'crack' .*values in the files: 0, 255\), but 255, which is ignored"),
    empty=(dict(value=0), r"no pixel of 'crack' .*nothing to learn in maps of one value"),
    wide=(dict(value=300, dtype=np.uint16), r"ann/0\.png' has the value 300 in 400 pixels"),
    wrapped=(dict(value=257, dtype=np.uint16), r'has the value 257'),  # mmseg makes 1 of it
)


@pytest.mark.parametrize('name', MAP_FAULTS)
def test_values_of_maps(maps, name) -> None:
    """The file, the value and what is allowed."""
    options, pattern = MAP_FAULTS[name]
    found = _look(maps.dataset(maps.make('a', maps.plain(**options), maps.plain(**options))))
    _only(found, pattern)


def test_labels_that_count_from_one(maps) -> None:
    """As many as there are classes, but 1 and 2."""
    values = maps.plain(2)
    values[values == 0] = 1
    _only(_look(maps.dataset(maps.make('a', values))), r'has the value 2 .*count from 1\? Then set `reduce_zero_label`')


def test_reduce_zero_label_that_takes_a_class_away(maps) -> None:
    """0 is a class of one's own: it would be ignored, and 1 be called by its name."""
    _only(_look(maps.dataset(maps.make('a'), True)), r"no pixel of 'crack' .*1 the class 0, 'bg'\. If 0 is a class")


def test_reduce_zero_label_said_in_one_place_alone(maps) -> None:
    """Of the data set and its pipeline, and of train and val."""
    root = maps.make('a')
    found = _look(maps.dataset(root, False, True))
    _only(found, r'dataset.reduce_zero_label`=False, but `.*dataset.pipeline\[1\].reduce_zero_label`=True')
    found = _look(maps.dataset(root), maps.dataset(root, True))
    _only(found, r'`train_dataloader.dataset.reduce_zero_label`=False, but `val_dataloader.dataset.reduce_.*=True')


def test_ignored_labels_must_agree(maps) -> None:
    """Of heads, evaluators and data sets."""
    dataset = maps.dataset(maps.make('a'))
    fields = {'model.decode_head.ignore_index': 255, 'val_evaluator.ignore_index': 0}
    _only(_look(dataset, ignored=fields), r'`model.decode_head.ignore_index`=255, `val_evaluator.ignore_index`=0')
    assert not _look(dataset, ignored=dict.fromkeys(fields, 255)).errors
    other = maps.dataset(maps.make('a'), ignore_index=0)
    _only(_look(other, ignored=dict.fromkeys(fields, 255)), r'`train_dataloader.dataset.ignore_index`=0')


def test_maps_of_other_kinds(maps) -> None:
    """Colours, another size, a file that is none."""
    colour = np.dstack([maps.plain()] * 3)
    _only(_look(maps.dataset(maps.make('a', colour))), r"ann/0\.png' has the shape \(48, 64, 3\), of 2 colours")
    _only(_look(maps.dataset(maps.make('b', maps.plain()[::2]))), r'24 x 64 pixels, its image .* 48 x 64')
    found = _look(maps.dataset(maps.make('many', *[maps.plain()] * 17, maps.plain().T, *[maps.plain()] * 6)))
    _only(found, r"ann/17\.png' has 64 x 48 pixels, its image .* 48 x 64 \(24 of 24 label maps compared\)")
    root = maps.make('turned', maps.plain().T)  # mmseg reads maps as they are stored
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(root / 'ann' / '0.png').save(root / 'ann' / '0.png', exif=exif)
    _only(_look(maps.dataset(root)), r'64 x 48 pixels, its image .* 48 x 64')
    root = maps.make('c')
    (root / 'ann' / '1.png').write_bytes(b'none')
    _only(_look(maps.dataset(root)), r"ann/1\.png' cannot be read")


def test_files_that_are_left_out(maps) -> None:
    """Images of another suffix, all or some, and images without a map."""
    config = maps.config(maps.make('a', suffix='.png'))

    def build_dataloader() -> Any:
        return DATASETS.build(config)

    pattern = r"`train_dataloader.dataset.img_suffix`='.jpg' finds 0 images in .* leaves out 2 of '.png'"
    with pytest.raises(ValueError, match=pattern), explained_by_data(dict(train_dataloader=dict(dataset=config))):
        build_dataloader()
    root = maps.make('b')
    (root / 'img' / '1.jpg').rename(root / 'img' / '1.JPG')
    _only(_look(maps.dataset(root)), r"finds 1 images .* leaves out 1 of '.JPG', also such with a label map: '1.JPG'")
    root = maps.make('c')
    (root / 'ann' / '1.png').rename(root / 'ann' / '1.bmp')
    _only(_look(maps.dataset(root)), r"1 of 2 images have no label map, .*1\.png'.*there are 1 .bmp, 1 .png")


def test_more_maps_are_looked_at_where_a_class_is_missing(maps) -> None:
    """The class of the third map alone is found, and a class of none is said, with how many were read."""
    values = [maps.plain(0), maps.plain(0), maps.plain(1), maps.plain(0)]
    found = _look(maps.dataset(maps.make('a', *values)), looked_at=1)
    assert (found.errors, found.warnings) == ([], [])
    three = maps.dataset(maps.make('a', *values), metainfo=dict(classes=('bg', 'crack', 'rust')))
    found = _look(three, looked_at=1)
    assert not found.errors and "no pixel of 'rust' (4 of 4 label maps looked at" in found.warnings[0]


def test_names_of_train_and_val_maps(maps) -> None:
    """The same values called otherwise."""
    root = maps.make('a')
    found = _look(maps.dataset(root), maps.dataset(root, metainfo=dict(classes=('crack', 'bg'))))
    _only(found, r"the same names in another order: number 0 is 'bg' and 'crack'")


# classification


class Folders:
    """Class folders with two pictures in each."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def make(self, name: str, *classes: str, suffix: str = '.png') -> Path:
        for part in classes:
            for i in range(2):
                _picture(self.root / name / part / f'{i}{suffix}', (8, 8))
        return self.root / name

    def dataset(self, root: Path, **changes: Any) -> Any:
        return DATASETS.build(dict(type='CustomDataset', data_root=str(root), pipeline=[], **changes))

    def listed(self, root: Path, lines: list[str], **changes: Any) -> Any:
        (root / 'list.txt').write_text('\n'.join(lines))
        return self.dataset(root, ann_file='list.txt', **changes)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    init_default_scope('mmpretrain')
    return Folders(tmp_path)


def test_sound_folders(folders) -> None:
    """Nothing is said of equal folders, nor of readable names for folders called otherwise."""
    train, val = folders.make('train', 'ant', 'bee', 'cow'), folders.make('val', 'ant', 'bee', 'cow')
    found = _look(folders.dataset(train), folders.dataset(val))
    assert (found.errors, found.warnings) == ([], [])
    names = dict(classes=('an ant', 'a bee', 'a cow'))
    found = _look(folders.dataset(train, **names), folders.dataset(val, **names))
    assert (found.errors, found.warnings) == ([], [])


def test_a_folder_missing_in_val_shifts_the_numbers(folders) -> None:
    """With names from the folders, and with names given for both."""
    train = folders.make('train', 'ant', 'bee', 'cow')
    val = folders.dataset(folders.make('val', 'ant', 'cow'))
    _only(_look(folders.dataset(train), val), r"only the first has 'bee'", r"'cow' is 2 and 1")
    names = dict(classes=('one', 'two', 'three'))
    val = folders.dataset(folders.make('val3', 'ant', 'cow', 'dog'), **names)
    found = _look(folders.dataset(train, **names), val)
    _only(found, r"the folders of `train_dataloader.dataset` has.*only the first has 'bee'; only the second has 'dog'")


def test_names_in_another_order_than_the_folders(folders) -> None:
    """Numbers follow the sorted folders, whatever the names say."""
    dataset = folders.dataset(folders.make('a', 'cat', 'dog'), classes=('dog', 'cat'))
    _only(_look(dataset), r"`train_dataloader.dataset.metainfo.classes` has.*order: number 0 is 'dog' and 'cat'")


def test_folders_that_are_no_class(folders) -> None:
    """They sort before all others."""
    root = folders.make('a', 'cat', 'dog')
    (root / '.ipynb_checkpoints').mkdir()
    _only(_look(folders.dataset(root)), r"'.ipynb_checkpoints' would be counted as a class")


def test_lists_of_labels(folders) -> None:
    """Labels beyond the classes, counted from 1, of other numbers than the folders', and files that are not there."""
    root = folders.make('a', 'ant', 'bee')
    lines = ['ant/0.png 1', 'bee/0.png 2']
    dataset = folders.listed(root, lines, classes=('ant', 'bee'))
    _only(_look(dataset), r"the labels 2, but its 2 classes allow 0 to 1; .*bee/0\.png': do the labels count from 1")
    _only(_look(folders.listed(root, lines), head_classes=2), r'the 2 classes of the head allow 0 to 1')
    swapped = folders.listed(root, ['ant/0.png 1', 'bee/0.png 0'], classes=('ant', 'bee'))
    _only(_look(folders.dataset(root), swapped), r"other labels: 'ant' is 0 and 1, 'bee' is 1 and 0")
    absent = folders.listed(root, ['ant/0.png 0', 'bee/7.png 1'], classes=('ant', 'bee'))
    _only(_look(absent), r'lists 1 images without a file: .*bee/7\.png')


def test_a_list_with_names_instead_of_numbers(folders) -> None:
    """mmpretrain's "invalid literal for int()" becomes the line."""
    root = folders.make('a', 'ant', 'bee')
    (root / 'list.txt').write_text('ant/0.png 0\nbee/0.png bee\n')
    config = dict(type='CustomDataset', data_root=str(root), ann_file='list.txt', pipeline=[])

    def build_dataloader() -> Any:
        return DATASETS.build(config)

    with (
        pytest.raises(ValueError, match=r"line 2 of .*list\.txt' is 'bee/0.png bee': expected 'path label'"),
        explained_by_data(dict(val_dataloader=dict(dataset=config))),
    ):
        build_dataloader()


def test_classes_without_images(folders) -> None:
    """In both splits a warning; of a class that is asked for, an error; other suffixes are said."""
    train, val = folders.make('train', 'ant', 'bee'), folders.make('val', 'ant', 'bee')
    for name in ('0', '1'):
        (train / 'bee' / f'{name}.png').rename(train / 'bee' / f'{name}.webp')
    found = _look(folders.dataset(train), folders.dataset(val))
    _only(found, r"`val_dataloader.dataset` has images of 'bee', of which `train_dataloader.dataset` has none")
    assert any("1 of 2 classes have no image: 'bee'" in text for text in found.warnings)
    assert any('are left out: 2 .webp' in text for text in found.warnings)
    found = _look(folders.dataset(train), folders.dataset(train))
    assert not found.errors


@pytest.mark.parametrize('wrapper', ['RepeatDataset', 'ConcatDataset'])
def test_wrapped_data_sets_are_found(folders, wrapper) -> None:
    """Their fields say where they are."""
    dataset = folders.dataset(folders.make('a', 'cat', 'dog'), classes=('dog', 'cat'))
    options = dict(dataset=dataset, times=2) if wrapper == 'RepeatDataset' else dict(datasets=[dataset])
    inner = 'dataset.dataset' if wrapper == 'RepeatDataset' else r'dataset.datasets\[0\]'
    _only(_look(DATASETS.build(dict(type=wrapper, **options))), rf'train_dataloader.{inner}.metainfo.classes` has')


def test_one_image_of_many_that_is_turned_is_found(coco: Coco) -> None:
    """Sizes are compared of all, from the heads of the files."""
    exif = Image.Exif()
    exif[0x0112] = 6
    content = coco.content()
    for number in range(4, 30):
        _picture(coco.root / 'img' / f'{number}.jpg')
        content['images'].append(dict(id=number, file_name=f'{number}.jpg', height=48, width=64))
    with Image.open(coco.root / 'img' / '17.jpg') as image:
        image.load()
    image.save(coco.root / 'img' / '17.jpg', exif=exif)
    dataset = coco.dataset(coco.write('a.json', content))
    _only(_look(dataset), r"17\.jpg' has height 64 and width 48 \(turned, as its EXIF orientation says\)")
