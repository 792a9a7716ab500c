"""``mmpl finetune``: the configs that it writes train, and the inferencers of the three projects use what comes out."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, TRANSFORMS, init_default_scope
from PIL import Image

import mmpl
from mmpl.apis import finetune as api
from mmpl.cli import main
from mmpl.compat import set_load_policy
from mmpl.utils.paths import absolute
from mmpl.utils.user_errors import UserError

NAMES = ('washer', 'bolt')  # in this order in the COCO file, whose ids are not in order


def write_checkpoint(path: Path, patch_size: int = 8, config: str = '') -> Path:
    """An encoder as pre-training saves it: 48 wide, 4 blocks, images of 4 x 4 patches."""
    import mmpretrain.models  # noqa: F401

    arch = dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=96)
    cfg = dict(type='mmpl.MaskedViT', arch=arch, img_size=4 * patch_size, patch_size=patch_size)
    torch.manual_seed(0)
    state = {f'backbone.{key}': value for key, value in MODELS.build(cfg).state_dict().items()}
    fed = dict(type='SelfSupDataPreprocessor', mean=[120.0, 110.0, 100.0], std=[60.0, 61.0, 62.0], bgr_to_rgb=True)
    model = dict(type='mmpl.PLMAE', backbone=cfg, data_preprocessor=fed)
    torch.save(dict(meta=dict(cfg=f'model = {model!r}\n{config}'), state_dict=state), path)
    return path


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp('encoder') / 'epoch_1.pth')


def scenes(folder: Path, count: int = 24) -> None:
    """Red and blue squares on noise: boxes and masks as COCO, label maps, and folders of classes."""
    rng = np.random.default_rng(0)
    coco = dict(images=[], annotations=[], categories=[dict(id=7, name='washer'), dict(id=2, name='bolt')])
    for number in range(count):
        picture = rng.integers(90, 160, (64, 80, 3), dtype=np.uint8)
        values = np.zeros((64, 80), np.uint8)
        kind, x, y, side = number % 2, int(rng.integers(0, 50)), int(rng.integers(0, 40)), int(rng.integers(14, 24))
        picture[y : y + side, x : x + side] = [(230, 30, 30), (30, 30, 230)][kind]
        values[y : y + side, x : x + side] = 1 + kind
        for place in ('boxes/images', 'maps/images', f'classes/{NAMES[kind]}'):
            (folder / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / place / f'{number:02}.png')
        (folder / 'maps' / 'masks').mkdir(exist_ok=True)
        Image.fromarray(values).save(folder / 'maps' / 'masks' / f'{number:02}_mask.png')
        coco['images'].append(dict(id=number, file_name=f'{number:02}.png', height=64, width=80))
        corners = [x, y, x + side, y, x + side, y + side, x, y + side]
        coco['annotations'].append(
            dict(id=number + 1, image_id=number, category_id=(7, 2)[kind], bbox=[x, y, side, side], iscrowd=0)
            | dict(area=side**2, segmentation=[corners])
        )
    (folder / 'boxes' / 'all.json').write_text(json.dumps(coco))
    (folder / 'maps' / 'classes.txt').write_text('ground\nwasher\nbolt\n')


DATA = dict(detection='boxes', segmentation='maps', classification='classes')


def config_of(task: str, tmp_path: Path, checkpoint: Path, **asked) -> Config:
    place = tmp_path / 'run'
    asked = dict(work_dir=place, dry_run=True, say=lambda line: None) | asked
    return Config.fromfile(mmpl.finetune(task, tmp_path / DATA[task], checkpoint, **asked))


def test_what_is_read_of_data_and_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    for task in DATA:
        cfg = config_of(task, tmp_path / task, checkpoint) if scenes(tmp_path / task) is None else None
        backbone = cfg.model.backbone
        assert (backbone.patch_size, backbone.arch.embed_dims, backbone.arch.num_heads) == (8, 48, 3)
        assert backbone.init_cfg.checkpoint == str(checkpoint) and backbone.init_cfg.prefix == 'backbone.'
        fed = cfg.data_preprocessor if task == 'classification' else cfg.model.data_preprocessor
        assert (fed.mean, fed.std) == ([120.0, 110.0, 100.0], [60.0, 61.0, 62.0])
        assert fed.get('to_rgb', fed.get('bgr_to_rgb')) is True
        names = dict(
            detection=NAMES, segmentation=('ground', *NAMES), classification=tuple(sorted(NAMES))
        )  # COCO's order; folders by name
        assert tuple(cfg.train_dataloader.dataset.metainfo.classes) == names[task]


@pytest.mark.parametrize('task', DATA)
def test_a_split_is_a_partition_that_stays(task: str, tmp_path: Path, checkpoint: Path) -> None:
    """No image is in both parts, none is lost, and who adds images changes nobody else's part."""
    parts = []
    for count in (24, 40):
        scenes(tmp_path, count)
        config_of(task, tmp_path, checkpoint, work_dir=tmp_path / f'run_{count}')
        ending = '.json' if task == 'detection' else '.txt'
        found = []
        for split in ('train', 'val'):
            text = (tmp_path / f'run_{count}' / f'{split}{ending}').read_text()
            names = [i['file_name'] for i in json.loads(text)['images']] if ending == '.json' else text.split('\n')
            found.append({Path(name.split(' ')[0]).stem for name in names if name})
        assert not found[0] & found[1] and len(found[0] | found[1]) == count
        parts.append(found)
    if task != 'classification':  # there few images of a class may leave none for validation, and one is taken
        assert parts[0][1] <= parts[1][1]


def test_sizes_follow_the_patches(tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    cfg = config_of('detection', tmp_path, checkpoint)
    strides = cfg.model.rpn_head.anchor_generator.strides
    assert [8 / factor for factor in cfg.model.neck.scale_factors] == strides == [4, 8, 16, 32]
    assert cfg.model.roi_head.bbox_roi_extractor.featmap_strides == strides
    middle = cfg.model.rpn_head.anchor_generator.scales[0] * float(np.prod(strides)) ** (1 / 4)
    assert 10 < middle < 40, 'anchors are about as large as the boxes, 14 to 24 pixels'
    cfg = config_of('segmentation', tmp_path, checkpoint, work_dir=tmp_path / 'seg')
    assert cfg.model.test_cfg.crop_size == (64, 64) and cfg.model.backbone.out_indices == [0, 1, 2, 3]


def test_boxes_without_masks(tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    path = tmp_path / 'boxes' / 'all.json'
    content = json.loads(path.read_text())
    for annotation in content['annotations']:
        del annotation['segmentation']
    path.write_text(json.dumps(content))
    cfg = config_of('detection', tmp_path, checkpoint)
    assert cfg.model.roi_head.mask_head is None and cfg.val_evaluator.metric == ['bbox']
    assert cfg.train_dataloader.dataset.pipeline[1].with_mask is False


def changed(change) -> Any:
    """Spoils the COCO file."""

    def spoil(folder: Path) -> None:
        path = folder / 'boxes/all.json'
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return spoil


def twice(content: dict) -> None:
    content['images'][3]['file_name'] = content['images'][2]['file_name']


def spoil_map(folder: Path, value: int) -> None:
    path = folder / 'maps/masks/05_mask.png'
    values = np.asarray(Image.open(path)).copy()
    values[:2, :2] = value
    Image.fromarray(values).save(path)


def texts(content: dict) -> None:
    for image in content['images']:
        image['id'] = str(image['id'])


@pytest.mark.parametrize(
    ('task', 'spoil', 'said'),
    [
        ('detection', changed(twice), r"1 names of `images` occur more than once, such as '02\.png'"),
        ('detection', changed(texts), r"24 of 24 annotations have an `image_id` .* such as 0; ids are such as '0'"),
        (
            'segmentation',
            lambda p: (p / 'maps/classes.txt').write_text('a\na\nb\n'),
            r"but \['a'\] occur more than once",
        ),
        (
            'segmentation',
            lambda p: (p / 'maps/classes.txt').write_bytes(b'caf\xe9\nb\nc'),
            r'classes\.txt.* no text in UTF-8',
        ),
        ('classification', lambda p: (p / 'classes/nut').mkdir(), r"the folders \['nut'\] hold no image"),
        (
            'classification',
            lambda p: [f.unlink() for n in NAMES for f in sorted((p / 'classes' / n).iterdir())[2:]],
            '`epochs` must make at least 3 steps of .* images, but 1 make 1',
        ),
        ('detection', lambda p: (p / 'boxes/b.json').write_text('{}'), 'must hold one COCO file, or one with the word'),
        ('detection', lambda p: (p / 'boxes/all.json').write_text('{'), 'is no JSON'),
        ('detection', changed(lambda c: c['images'][1].pop('file_name')), r"entry of `images` lacks 'file_name': "),
        ('detection', changed(lambda c: c['images'][1].update(height=None)), r"entry of `images` lacks 'height': "),
        ('detection', changed(lambda c: c['images'][1].update(width='64')), r"entry of `images` lacks 'width': "),
        ('detection', changed(lambda c: c['annotations'][1].pop('image_id')), "`annotations` lacks 'image_id': "),
        ('detection', changed(lambda c: c['annotations'][1].update(bbox=None)), "`annotations` lacks 'bbox': "),
        ('detection', changed(lambda c: c['categories'][1].pop('name')), "entry of `categories` lacks 'name': "),
        ('detection', changed(lambda c: c['annotations'][1].update(image_id=[1])), "`annotations` lacks 'image_id': "),
        (
            'detection',
            changed(lambda c: [a.update(bbox=['1', 2, 3, 4]) for a in c['annotations']]),
            'no annotation has',
        ),
        (
            'detection',
            lambda p: (p / 'boxes/all.json').write_text('\ufeff' + (p / 'boxes/all.json').read_text()),
            'is no JSON.*save it without a byte-order mark',
        ),
        ('segmentation', lambda p: spoil_map(p, 7), r"has the values \[7\], but the classes \['ground', .* 0 to 2"),
        (
            'segmentation',
            lambda p: [x.unlink() for x in (p / 'maps/images').iterdir() if '23' not in x.name],
            'too few',
        ),
        ('detection', lambda p: (p / 'boxes/all.json').write_text('[]'), 'is no COCO file with boxes'),
        ('detection', lambda p: (p / 'boxes/images').rename(p / 'boxes/pictures'), 'is in none of'),
        ('segmentation', lambda p: (p / 'maps/classes.txt').unlink(), r'the label maps hold the values \[0, 1, 2\]'),
        (
            'segmentation',
            lambda p: (p / 'maps/images/03.png').rename(p / 'maps/images/03.PNG'),
            r'end in \.png \(23\), \.PNG \(1\), and',
        ),
        (
            'segmentation',
            lambda p: [shutil.copy(x, x.with_name(f'{x.stem}_shown.png')) for x in (p / 'maps/masks').iterdir()],
            r"which end in \['_mask.png', '_mask_shown.png'\]",
        ),
        ('segmentation', lambda p: (p / 'maps/masks').rename(p / 'maps/x'), 'must hold `images` and `annotations`'),
        ('classification', lambda p: (p / 'classes/bolt').rename(p / 'bolt'), 'must hold a folder of images for each'),
        ('classification', lambda p: (p / 'classes/bolt').rename(p / 'classes/val'), 'but lacks the other'),
    ],
)
def test_what_is_refused(task: str, spoil, said: str, tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    spoil(tmp_path)
    asked = dict(epochs=1, batch_size=2) if 'epochs' in said else {}
    with pytest.raises(ValueError, match=said):
        config_of(task, tmp_path, checkpoint, **asked)
    assert not (tmp_path / 'run.py').exists()


@pytest.mark.parametrize('task', DATA)
def test_files_are_read_as_in_pre_training(task: str, tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    crop = dict(type='mmpl.LoadRandomResizedCrop', scale=32, scaling='percentile', backend_args=None)
    loader = dict(dataset=dict(type='mmpl.UnlabelledFolder', pipeline=[crop]))
    scaled = write_checkpoint(tmp_path / 'scaled.pth', config=f'train_dataloader = {loader!r}\n')
    found = {}
    for name, path in dict(plain=checkpoint, scaled=scaled).items():
        cfg = config_of(task, tmp_path, path, work_dir=tmp_path / name)
        found[name] = [cfg[f'{split}_dataloader'].dataset.pipeline[0] for split in ('train', 'val', 'test')]
    assert found['plain'] == [dict(type='LoadImageFromFile')] * 3
    assert found['scaled'] == [dict(type='mmpl.LoadImage', scaling='percentile')] * 3


@pytest.mark.parametrize(
    ('patch', 'strides'),
    [(4, [4, 8, 16]), (8, [4, 8, 16, 32]), (12, [3, 6, 12, 24]), (14, [7, 14, 28]), (16, [4, 8, 16, 32])],
)
def test_pyramids_of_any_patch(patch: int, strides: list[int], tmp_path: Path) -> None:
    scenes(tmp_path)
    cfg = config_of('detection', tmp_path, write_checkpoint(tmp_path / 'encoder.pth', patch))
    assert cfg.strides == strides
    init_default_scope('mmdet')
    backbone, neck = (MODELS.build(dict(cfg.model[part], init_cfg=None)) for part in ('backbone', 'neck'))
    side = cfg.train_dataloader.dataset.pipeline[2].scale[0]
    with torch.no_grad():
        assert [side / level.shape[-1] for level in neck(backbone(torch.zeros(1, 3, side, side)))] == strides


def test_segmentation_of_few_images_takes_two_at_once(tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path, 6)
    assert config_of('segmentation', tmp_path, checkpoint).train_dataloader.batch_size == 2
    with pytest.raises(ValueError, match='`batch_size` must be at least 2 for segmentation, but got 1'):
        config_of('segmentation', tmp_path, checkpoint, batch_size=1)


def parts(folder: Path, names: dict[str, slice]) -> None:
    """The COCO file in several, by their paths."""
    content = json.loads((folder / 'all.json').read_text())
    (folder / 'all.json').unlink()
    for name, chosen in names.items():
        images = content['images'][chosen]
        ids = {image['id'] for image in images}
        part = dict(content, images=images, annotations=[a for a in content['annotations'] if a['image_id'] in ids])
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(part))


@pytest.mark.parametrize(
    ('train', 'val', 'other'),
    [
        ('instances_train2017.json', 'instances_val2017.json', None),
        ('voc07_trainval.json', 'voc07_test.json', None),
        ('latestTrain.json', 'latestVal.json', 'latestTest.json'),
        ('train/_annotations.coco.json', 'valid/_annotations.coco.json', 'test/_annotations.coco.json'),
    ],
)
def test_the_two_coco_files_are_told_by_words(train, val, other, tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    names = {train: slice(16), val: slice(16, 20)} | ({other: slice(20, 24)} if other else {})
    parts(tmp_path / 'boxes', names)
    cfg = config_of('detection', tmp_path, checkpoint)
    assert cfg.train_dataloader.dataset.ann_file == str(tmp_path / 'boxes' / train)
    assert cfg.val_dataloader.dataset.ann_file == str(tmp_path / 'boxes' / val)


@pytest.mark.parametrize('name', ['trainval.json', 'train_latest.json', 'train.json', 'val_of_train.json'])
def test_one_coco_file_is_split_whatever_its_name(name: str, tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    (tmp_path / 'boxes' / 'all.json').rename(tmp_path / 'boxes' / name)
    cfg = config_of('detection', tmp_path, checkpoint)
    train, val = (
        json.loads(Path(cfg[f'{split}_dataloader'].dataset.ann_file).read_text()) for split in ('train', 'val')
    )
    ids = [{image['id'] for image in part['images']} for part in (train, val)]
    assert not ids[0] & ids[1] and len(ids[0] | ids[1]) == 24


def test_label_maps_of_images_that_are_numbered(tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    for folder, rest in (('images', '.png'), ('masks', '_mask.png')):
        for path in sorted((tmp_path / 'maps' / folder).iterdir()):
            path.rename(path.with_name(f'{int(path.name[:2]) + 1}{rest}'))
    assert config_of('segmentation', tmp_path, checkpoint).train_dataloader.dataset.seg_map_suffix == '_mask.png'


def test_a_label_map_that_is_cut_off_is_named(tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    path = sorted((tmp_path / 'maps' / 'masks').iterdir())[3]
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(api.FinetuneError, match=f'{path.name}. cannot be read as a label map'):
        config_of('segmentation', tmp_path, checkpoint)


def test_classes_in_given_splits_of_any_format(tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    for number, path in enumerate(sorted((tmp_path / 'classes').rglob('*.png'))):
        place = tmp_path / 'classes' / ('Testing' if number % 12 > 9 else 'Training') / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(place / f'{path.stem}.webp')
        path.unlink()
    for name in NAMES:
        (tmp_path / 'classes' / name).rmdir()
    cfg = config_of('classification', tmp_path, checkpoint)
    init_default_scope('mmpretrain')
    counts = [len(DATASETS.build(cfg[f'{split}_dataloader'].dataset)) for split in ('train', 'val')]
    assert counts == [20, 4]


def test_names_of_classes_from_an_editor_of_windows(tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    (tmp_path / 'maps' / 'classes.txt').write_bytes(b'\xef\xbb\xbfground\r\nwasher\r\nbolt\r\n\r\n')
    cfg = config_of('segmentation', tmp_path, checkpoint)
    assert cfg.train_dataloader.dataset.metainfo.classes == ('ground', 'washer', 'bolt')


def test_images_beside_the_folders_of_classes_are_said(tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    picture = (tmp_path / 'classes' / 'bolt' / '01.png').read_bytes()
    (tmp_path / 'classes' / 'cover.png').write_bytes(picture)
    said: list[str] = []
    config_of('classification', tmp_path, checkpoint, say=said.append)
    assert "left out: 1 images that are in no folder of a class, such as 'cover.png'" in said


def test_files_that_are_no_images_are_said(tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    for place in ('classes/bolt', 'maps/images'):
        (tmp_path / place / 'a.gif').write_bytes(b'GIF89a')
    for task, place in (('classification', 'classes'), ('segmentation', 'maps/images')):
        said: list[str] = []
        config_of(task, tmp_path, checkpoint, say=said.append, work_dir=tmp_path / task)
        assert f'left out in {str(tmp_path / place)!r}: files of other kinds (1 .gif)' in said
    for split in ('train', 'val'):
        shutil.copytree(tmp_path / 'classes', tmp_path / 'split' / 'classes' / split)
    shutil.copy(tmp_path / 'classes' / 'bolt' / '01.png', tmp_path / 'split' / 'classes' / 'val' / 'loose.png')
    said = []
    config_of('classification', tmp_path / 'split', checkpoint, say=said.append)
    assert "left out: 1 images that are in no folder of a class, such as 'val/loose.png'" in said


def test_annotations_of_a_split_are_numbered_from_one(tmp_path: Path, checkpoint: Path) -> None:
    """Scoring needs that; those of the file begin with 0, or are words."""
    scenes(tmp_path)
    for name, number in (('zero', lambda i: i), ('words', lambda i: f'a{i}')):
        changed(lambda c, number=number: [a.update(id=number(i)) for i, a in enumerate(c['annotations'])])(tmp_path)
        config_of('detection', tmp_path, checkpoint, work_dir=tmp_path / name)
        for split in ('train', 'val'):
            annotations = json.loads((tmp_path / name / f'{split}.json').read_text())['annotations']
            assert [a['id'] for a in annotations] == list(range(1, len(annotations) + 1))


def test_the_number_of_workers_may_change(tmp_path: Path, checkpoint: Path) -> None:
    """It is no setting: a run goes on with what is asked for, edited or not; else with what it has."""
    scenes(tmp_path)
    for asked, number in ((0, 0), (2, 2), (None, 2)):
        cfg = config_of('classification', tmp_path, checkpoint, workers=asked)
        assert (cfg.train_dataloader.num_workers, cfg.train_dataloader.persistent_workers) == (number, number > 0)
    config = tmp_path / 'run.py'
    text = config.read_text().replace('# for', '# edited, for')
    config.write_text(text.replace('num_workers=2,  # of this machine', 'num_workers=2,'))  # as it was once written
    assert config_of('classification', tmp_path, checkpoint, workers=1).train_dataloader.num_workers == 1
    assert '# edited, for' in config.read_text()


def test_an_encoder_without_biases_of_queries(tmp_path: Path, checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content['state_dict'] = {k: v for k, v in content['state_dict'].items() if 'qkv.bias' not in k}
    torch.save(content, tmp_path / 'no_bias.pth')
    for task in DATA:
        scenes(tmp_path)
        cfg = config_of(task, tmp_path, tmp_path / 'no_bias.pth', work_dir=tmp_path / task)
        init_default_scope(dict(classification='mmpretrain', segmentation='mmseg', detection='mmdet')[task])
        MODELS.build(cfg.model.backbone).init_weights()


def test_an_image_size_that_patches_do_not_fill(tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    for task, said in (('classification', 'multiple of 8, .* such as 32 or 40'), ('detection', 'multiple of 32')):
        with pytest.raises(api.FinetuneError, match=f'`image_size` must be a {said}'):
            config_of(task, tmp_path, checkpoint, image_size=36)


def run(task: str, tmp_path: Path, checkpoint: Path, project: str, *options: str) -> tuple[str, str, np.ndarray]:
    """Train by the command: the config, its checkpoint, and a picture in BGR order with a red square."""
    pytest.importorskip(project)
    scenes(tmp_path)
    argv = ['finetune', task, str(tmp_path / DATA[task]), '--checkpoint', str(checkpoint), '--work-dir']
    assert main([*argv, str(tmp_path / 'run'), '--workers', '0', *options]) == 0
    picture = np.full((64, 80, 3), 125, np.uint8)
    picture[20:40, 30:50] = (30, 30, 230)
    files = sorted((tmp_path / 'run').glob('best_*.pth')) or sorted((tmp_path / 'run').glob('*.pth'))
    init_default_scope(project)
    return str(tmp_path / 'run.py'), str(files[-1]), picture


@pytest.mark.slow
def test_detection_is_used_by_its_inferencer(tmp_path: Path, checkpoint: Path) -> None:
    config, weights, picture = run('detection', tmp_path, checkpoint, 'mmdet', '--epochs', '2')
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(model=config, weights=weights, device='cpu', show_progress=False)
    (found,) = inferencer(picture, return_datasamples=False)['predictions']
    assert tuple(inferencer.model.dataset_meta['classes']) == NAMES
    assert len(found['bboxes']) == len(found['labels']) and set(found['labels']) <= {0, 1}


@pytest.mark.slow
def test_segmentation_is_used_by_its_inferencer(tmp_path: Path, checkpoint: Path) -> None:
    config, weights, picture = run('segmentation', tmp_path, checkpoint, 'mmseg', '--epochs', '2')
    from mmseg.apis import MMSegInferencer

    inferencer = MMSegInferencer(model=config, weights=weights, device='cpu')
    values = inferencer(picture)['predictions']
    assert values.shape == (64, 80) and set(np.unique(values)) <= {0, 1, 2}
    assert tuple(inferencer.model.dataset_meta['classes']) == ('ground', *NAMES)


@pytest.mark.slow
def test_classification_is_used_by_its_inferencer(tmp_path: Path, checkpoint: Path) -> None:
    """Red against blue is learnt, and the name that comes out is that of the folder."""
    config, weights, picture = run(
        'classification', tmp_path, checkpoint, 'mmpretrain', '--epochs', '40', '--batch-size', '8'
    )
    from mmpretrain import ImageClassificationInferencer

    inferencer = ImageClassificationInferencer(config, pretrained=weights, device='cpu')
    assert inferencer(picture)[0]['pred_class'] == 'washer'
    assert inferencer(picture[..., ::-1].copy())[0]['pred_class'] == 'bolt'


@pytest.mark.parametrize('task', DATA)
def test_encoders_that_no_config_is_written_for(task: str, tmp_path: Path, checkpoint: Path) -> None:
    """A Swin transformer is refused by name, with a config that takes it; so are two blocks where four are needed."""
    scenes(tmp_path)
    content = torch.load(checkpoint, weights_only=True)
    torch.save(dict(content, state_dict={'backbone.stages.0.x': torch.ones(1)}), tmp_path / 'swin.pth')
    with pytest.raises(
        api.FinetuneError, match=r'swin.pth: its encoder is a Swin transformer.*configs/\S+swinb\S+ takes'
    ) as end:
        config_of(task, tmp_path, tmp_path / 'swin.pth')
    (named,) = re.findall(r'configs/\S+\.py', str(end.value))
    assert 'checkpoint=' in (Path(__file__).parents[2] / named).read_text()
    if task == 'segmentation':
        state = {k: v for k, v in content['state_dict'].items() if 'layers.2.' not in k and 'layers.3.' not in k}
        torch.save(dict(content, state_dict=state), tmp_path / 'two.pth')
        with pytest.raises(api.FinetuneError, match='outputs of 4 blocks, but the encoder has 2'):
            config_of(task, tmp_path, tmp_path / 'two.pth')


@pytest.mark.parametrize('task', DATA)
def test_what_mmcv_reads_otherwise_is_left_to_mmpls_loader(task: str, tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 3
    for path in [*(tmp_path / DATA[task]).rglob('*.png')]:
        if path.parent.name in ('images', *NAMES):
            Image.open(path).save(path.with_suffix('.webp'), exif=exif)
            path.unlink()
    coco = tmp_path / 'boxes' / 'all.json'
    coco.write_text(coco.read_text().replace('.png', '.webp'))
    assert config_of(task, tmp_path, checkpoint).train_dataloader.dataset.pipeline[0] == dict(type='mmpl.LoadImage')


def test_a_loader_of_ones_own_is_imported_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes(tmp_path)
    (tmp_path / 'microscope.py').write_text(
        'from mmcv.transforms import LoadImageFromFile\n'
        'from mmengine.registry import TRANSFORMS\n'
        '@TRANSFORMS.register_module()\n'
        'class LoadMicroscopy(LoadImageFromFile):\n    pass\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    loader = dict(dataset=dict(type='CustomDataset', pipeline=[dict(type='LoadMicroscopy')]))
    imports = "custom_imports = dict(imports=['microscope'], allow_failed_imports=False)\n"
    for name, text, said in (
        ('a', '', 'has no `custom_imports`'),
        ('b', imports, r"`--trust` imports \['microscope'\]"),
    ):
        path = write_checkpoint(tmp_path / f'{name}.pth', config=f'train_dataloader = {loader!r}\n{text}')
        with pytest.raises(ValueError, match=f"read images by 'LoadMicroscopy', a transform of its own.*{said}"):
            config_of('classification', tmp_path, path)
    cfg = config_of('classification', tmp_path, path, trust=True)
    set_load_policy(False)
    assert cfg.train_dataloader.dataset.pipeline[0] == dict(type='LoadMicroscopy')
    assert cfg.custom_imports.imports == ['mmpl', 'microscope'] and 'LoadMicroscopy' in TRANSFORMS


@pytest.mark.parametrize('task', ['classification', 'detection'])
def test_what_is_refused_changes_nothing(task: str, tmp_path: Path, checkpoint: Path) -> None:
    """The split of a run stays that of its images when another folder of the same name is asked for."""
    for name in ('a', 'b'):
        scenes(tmp_path / name)
    (tmp_path / 'b/classes/bolt').rename(tmp_path / 'b/classes/ant')
    place = tmp_path / 'run'
    config_of(task, tmp_path / 'a', checkpoint, work_dir=place)
    (place / 'epoch_1.pth').touch()
    before = {path.name: path.read_text() for path in place.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=r'is there already, of other settings \(asked for now: .*; there: '):
        config_of(task, tmp_path / 'b', checkpoint, work_dir=place)
    assert {path.name: path.read_text() for path in place.iterdir() if path.is_file()} == before
    assert len([name for name in before if name.startswith(('train.', 'val.'))]) == 2


def test_other_weights_are_another_run(tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    path = tmp_path / 'mine.pth'
    shutil.copy(checkpoint, path)
    config = config_of('classification', tmp_path, path).filename
    config_of('classification', tmp_path, path)
    content = torch.load(path)
    content['state_dict']['backbone.ln1.weight'][0] += 1
    torch.save(content, path)
    (tmp_path / 'run' / 'epoch_1.pth').touch()
    with pytest.raises(UserError, match='encoder_sha256 = '):
        config_of('classification', tmp_path, path)
    Path(config).unlink()
    with pytest.raises(UserError, match=r'holds checkpoints, but .*run\.py, the config .* is gone'):
        config_of('classification', tmp_path, path)


def test_a_work_folder_inside_of_the_data_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    with pytest.raises(ValueError, match='lies inside of the data'):
        config_of('classification', tmp_path, checkpoint, work_dir=tmp_path / 'classes' / 'runs')


def test_a_rare_class_is_trained_on(tmp_path: Path, checkpoint: Path) -> None:
    """The only image of a class, be it one to train or to validate on; another has no mask, which is said."""
    scenes(tmp_path)
    path = tmp_path / 'boxes' / 'all.json'
    content = json.loads(path.read_text())
    content['categories'].append(dict(id=9, name='nut'))
    trained, validated = api._split([image['file_name'] for image in content['images']], '')
    for name in (trained[0], validated[0], validated[-1]):
        number = int(name[:2])
        annotations = [dict(a, category_id=9) if a['image_id'] == number else a for a in content['annotations']]
        annotations[3] = dict(annotations[3], segmentation=[])
        path.write_text(json.dumps(dict(content, annotations=annotations)))
        lines: list[str] = []
        cfg = config_of('detection', tmp_path, checkpoint, work_dir=tmp_path / str(number), say=lines.append)
        train, val = (json.loads(Path(cfg[f'{s}_dataloader'].dataset.ann_file).read_text()) for s in ('train', 'val'))
        assert {a['category_id'] for a in train['annotations']} == {2, 7, 9}
        assert not {i['id'] for i in train['images']} & {i['id'] for i in val['images']}
        assert len(train['images']) + len(val['images']) == 24
        assert '1 of 24 annotations have no `segmentation`: boxes alone are trained' in lines
        moved = '1 images are trained on instead of validated on: no other has their classes' in lines
        assert moved == (name in validated)


@pytest.mark.parametrize('name', ['train/_annotations.coco.json', 'annotations/instances_train2017.json'])
def test_one_coco_file_and_a_folder_of_a_split(name: str, tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    images = tmp_path / 'boxes' / ('train' if name.startswith('train') else 'train2017')
    (tmp_path / 'boxes' / 'images').rename(images)
    (tmp_path / 'boxes' / name).parent.mkdir(exist_ok=True)
    (tmp_path / 'boxes' / 'all.json').rename(tmp_path / 'boxes' / name)
    cfg = config_of('detection', tmp_path, checkpoint)
    assert cfg.train_dataloader.dataset.data_prefix.img == cfg.val_dataloader.dataset.data_prefix.img == f'{images}/'


def test_coco_as_it_is_downloaded(tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    names = {f'annotations/instances_{s}2017.json': p for s, p in dict(train=slice(16), val=slice(16, 24)).items()}
    parts(tmp_path / 'boxes', names)
    for name in names:
        for other in ('captions', 'person_keypoints'):
            (tmp_path / 'boxes' / name.replace('instances', other)).write_text('{}')
    cfg = config_of('detection', tmp_path, checkpoint)
    assert Path(cfg.train_dataloader.dataset.ann_file).name == 'instances_train2017.json'


def test_files_are_looked_at_as_they_are_read(tmp_path: Path) -> None:
    """Floats that pre-training scales are no fault, and files that OpenCV does not know go to mmpl's loader."""
    scenes(tmp_path)
    for path in [*(tmp_path / 'classes').rglob('*.png')]:
        values = np.asarray(Image.open(path).convert('L'), np.float32)
        Image.fromarray(values).save(path.with_suffix('.tif'))
        path.unlink()
    scaled = dict(type='mmpl.LoadRandomResizedCrop', scale=32, scaling=(0, 255))
    pipeline = dict(dataset=dict(type='mmpl.UnlabelledFolder', pipeline=[scaled]))
    path = write_checkpoint(tmp_path / 'scaled.pth', config=f'train_dataloader = {pipeline!r}\n')
    loader = config_of('classification', tmp_path, path).train_dataloader.dataset.pipeline[0]
    assert (loader.type, loader.scaling) == ('mmpl.LoadImage', [0, 255])
    with pytest.raises(ValueError, match='24 of 24 images of .* cannot be used'):
        config_of('classification', tmp_path, write_checkpoint(tmp_path / 'plain.pth'), work_dir=tmp_path / 'other')


def test_a_class_without_validation_images(tmp_path: Path, checkpoint: Path) -> None:
    """Its folder has to be there: mmpretrain numbers classes by the folders."""
    scenes(tmp_path)
    (tmp_path / 'classes').rename(tmp_path / 'train')
    for name in NAMES:
        shutil.copytree(tmp_path / 'train' / name, tmp_path / 'classes' / 'val' / name)
    (tmp_path / 'train').rename(tmp_path / 'classes' / 'train')
    shutil.rmtree(tmp_path / 'classes' / 'val' / 'bolt')
    with pytest.raises(ValueError, match=r"must have the same folders, .* but differ in \['bolt'\]"):
        config_of('classification', tmp_path, checkpoint)
    (tmp_path / 'classes' / 'val' / 'bolt').mkdir()
    cfg = config_of('classification', tmp_path, checkpoint)
    init_default_scope('mmpretrain')
    assert len(DATASETS.build(cfg.val_dataloader.dataset)) == 12


@pytest.mark.parametrize('task', DATA)
def test_files_that_are_no_images_are_refused(task: str, tmp_path: Path, checkpoint: Path) -> None:
    scenes(tmp_path)
    path = next((tmp_path / DATA[task]).rglob('13.png'))
    path.write_text('<html>not found</html>')
    with pytest.raises(ValueError, match=r"1 of 24 images of .* cannot be used, such as '.*13\.png': not an image"):
        config_of(task, tmp_path, checkpoint)


def test_a_finished_run_says_so(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture) -> None:
    scenes(tmp_path)
    asked = dict(dry_run=False, epochs=1, workers=0)
    config_of('classification', tmp_path, checkpoint, **asked)
    assert 'at its end already' not in capsys.readouterr().out
    config_of('classification', tmp_path, checkpoint, **asked)
    assert 'This run is at its end already, at epoch 1, iteration' in capsys.readouterr().out


def test_an_address_of_weights_stays_one() -> None:
    assert absolute('https://host/a/w.pth') == 'https://host/a/w.pth'
    assert absolute('w.pth') == str(Path.cwd() / 'w.pth')
