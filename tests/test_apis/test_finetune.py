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
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image

import mmpl
from mmpl.apis import finetune as api
from mmpl.cli import main

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
        ('detection', lambda p: (p / 'boxes/b.json').write_text('{}'), 'must hold one COCO file, or one with the word'),
        ('detection', lambda p: (p / 'boxes/all.json').write_text('{'), 'is no JSON'),
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
    with pytest.raises(ValueError, match=said):
        config_of(task, tmp_path, checkpoint)
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
