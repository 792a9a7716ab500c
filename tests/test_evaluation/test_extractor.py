"""Features from a checkpoint alone: those of the training's own pipeline, or an error that names what is missing."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from torch.utils.data import DataLoader

import mmpl
from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.checkpoints.named_code import refuse_code
from mmpl.evaluation import build_model, extract_features
from mmpl.evaluation.extractor import ExtractorError, ImageError
from mmpl.export import export_backbone, load_timm
from mmpl.export.spec import loader_of
from mmpl.methods import GreenMIM
from mmpl.registry import TRANSFORMS
from tests.test_evaluation.probe_helpers import LOAD, MEAN, PACK, RESIZE, STD, plmae_config, write_checkpoint


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp('extractor')
    (folder / 'images' / 'sub').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, shape in (('b.png', (40, 52, 3)), ('a.png', (16, 16, 3)), ('sub/c.png', (30, 20, 3))):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / 'images' / name)
    for name, preprocessor in (('rgb', dict(bgr_to_rgb=True)), ('bgr', {})):
        write_checkpoint(folder / f'{name}.pth', plmae_config(**preprocessor))
    return folder


def by_the_pipeline(config, checkpoint, path, target='student', scale=(16, 16)):
    """Raw tokens (1 + N, D) of a file through the parts that training itself uses."""
    model = build_model(config, checkpoint, target)
    item = Compose([LOAD, dict(RESIZE, scale=scale), PACK])(dict(img_path=str(path)))
    images = model.data_preprocessor(dict(inputs=item['inputs'][None], data_samples=None), False)['inputs']
    encoder = model.backbone if target == 'student' else getattr(model, target).backbone
    with torch.no_grad():
        tokens = encoder(images)
    return (tokens[-1] if isinstance(tokens, tuple) else tokens)[0].numpy()


def as_tokens(features, index=0):
    return np.concatenate((features.cls[index][None], features.patches[index].reshape(-1, features.mean.shape[1])))


@pytest.mark.parametrize('kind', ['rgb', 'bgr'])
@pytest.mark.parametrize('target', ['student', 'label_teacher'])
def test_a_file_has_the_features_of_the_configs_own_pipeline(place, kind, target):
    path = place / 'images' / 'b.png'
    extractor = mmpl.FeatureExtractor(place / f'{kind}.pth', target, device='cpu')
    features = extractor(path)
    config = plmae_config(**(dict(bgr_to_rgb=True) if kind == 'rgb' else {}))
    want = by_the_pipeline(config, place / f'{kind}.pth', path, target)
    np.testing.assert_allclose(as_tokens(features), want, rtol=0, atol=1e-5)
    np.testing.assert_allclose(features.mean[0], want[1:].mean(0), rtol=0, atol=1e-5)
    other = mmpl.FeatureExtractor(place / f'{kind}.pth', 'student' if target != 'student' else 'label_teacher')(path)
    assert np.abs(other.mean - features.mean).max() > 0.1 and features.paths == [str(path)]


def assert_same_rows(features):
    """All images of a batch are the same; on some processors their last bits depend on the row."""
    np.testing.assert_allclose(features, np.broadcast_to(features[:1], features.shape), rtol=0, atol=1e-5)


def test_an_image_in_memory_has_the_features_of_its_file(place):
    path = place / 'images' / 'b.png'
    image = Image.open(path)
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for kind in ('rgb', 'bgr'):
        extractor = mmpl.FeatureExtractor(place / f'{kind}.pth')
        features = extractor([image, array, tensor, tensor.float(), str(path), array[None], path])
        assert_same_rows(features.patches)
        assert features.paths == [None] * 4 + [str(path), None, str(path)]
    turned = image.getexif()
    turned[0x0112] = 6
    image.save(place / 'turned.png', exif=turned)
    features = extractor([place / 'turned.png', Image.open(place / 'turned.png'), image.rotate(-90, expand=True)])
    assert_same_rows(features.mean)


def test_a_folder_is_listed_and_batches_change_nothing(place):
    names = ['a.png', 'b.png', 'sub/c.png']
    features = mmpl.FeatureExtractor(place / 'rgb.pth', batch_size=2)(place / 'images')
    assert [path.removeprefix(f'{place}/images/') for path in features.paths] == names
    assert features.patches.shape[:3] == (3, 4, 4) and features.mean.dtype == np.float32
    for index, name in enumerate(names):
        alone = mmpl.FeatureExtractor(place / 'rgb.pth')(place / 'images' / name)
        np.testing.assert_allclose(features.patches[index], alone.patches[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize('to', ['mmpretrain', 'timm'])
def test_an_export_has_the_same_features(place, tmp_path, to):
    path = place / 'images' / 'b.png'
    want = mmpl.FeatureExtractor(place / 'rgb.pth', 'label_teacher')(path)
    if to == 'timm':
        pytest.importorskip('timm')
    export_backbone(place / 'rgb.pth', tmp_path / 'vit.pth', source='label_teacher', to=to)
    if to == 'mmpretrain':
        assert np.array_equal(mmpl.FeatureExtractor(tmp_path / 'vit.pth')(path).patches, want.patches)
        return
    timm = pytest.importorskip('timm')
    transform = timm.data.create_transform(**json.loads((tmp_path / 'vit.json').read_text())['transform'])
    with torch.no_grad():
        tokens = load_timm(tmp_path / 'vit.pth').forward_features(transform(Image.open(path))[None])[0].numpy()
    np.testing.assert_allclose(as_tokens(want), tokens, rtol=0, atol=1e-5)


def test_an_encoder_without_class_token_gives_means_and_its_last_map(place, tmp_path):
    """GreenMIM's Swin transformer, as it was trained and as mmpretrain gets it; tokens are of 2 x 2 pixels."""
    preprocessor = dict(type='SelfSupDataPreprocessor', mean=MEAN, std=STD, bgr_to_rgb=True)
    config = Config(dict(model=GreenMIM.tiny() | dict(data_preprocessor=preprocessor)))
    write_checkpoint(tmp_path / 'green.pth', config)
    path = place / 'images' / 'b.png'
    features = mmpl.FeatureExtractor(tmp_path / 'green.pth', device='cpu')(path)
    want = by_the_pipeline(config, tmp_path / 'green.pth', path)  # (D, 8, 8)
    assert features.cls is None and features.patches.shape == (1, 8, 8, 32)
    np.testing.assert_allclose(features.patches[0], want.transpose(1, 2, 0), rtol=0, atol=1e-5)
    np.testing.assert_allclose(features.mean[0], want.mean((1, 2)), rtol=0, atol=1e-5)
    export_backbone(tmp_path / 'green.pth', tmp_path / 'swin.pth')
    assert np.array_equal(mmpl.FeatureExtractor(tmp_path / 'swin.pth')(path).patches, features.patches)
    with pytest.raises(ValueError, match=r'`image_size` must be a multiple of the patch size \(2, 2\), but got 17'):
        mmpl.FeatureExtractor(tmp_path / 'green.pth', image_size=17)


@pytest.mark.parametrize('kind', ['swin', 'dense'])
def test_a_fine_tuned_checkpoint_has_the_features_of_its_encoder(place, tmp_path, kind):
    """What a task has behind the encoder, a pooling or a pyramid, is left out."""
    swin = dict(type='SwinTransformer', arch=dict(embed_dims=8, depths=[1, 1], num_heads=[1, 1]), img_size=16)
    pooled = dict(type='ImageClassifier', backbone=dict(swin, out_indices=(1,), window_size=2))
    vit = dict(arch=dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32), img_size=16, patch_size=4)
    dense = dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(type='mmpl.MaskedViT', out_type='featmap', out_indices=(0, 3), **vit),
        neck=dict(type='mmseg.Feature2Pyramid', embed_dim=16, rescales=[4, 0.5]),
        decode_head=dict(
            type='mmseg.FCNHead', in_channels=16, channels=8, num_classes=2, num_convs=1, norm_cfg=dict(type='BN')
        ),
    )
    head = dict(type='LinearClsHead', num_classes=2, in_channels=16)
    model = dict(pooled, neck=dict(type='GlobalAveragePooling'), head=head) if kind == 'swin' else dense
    kind_of = 'mmpretrain.ClsDataPreprocessor' if kind == 'swin' else 'mmseg.SegDataPreProcessor'
    model['data_preprocessor'] = dict(type=kind_of, mean=MEAN, std=STD)
    config = Config(dict(model=model, default_scope='mmpretrain'))
    path = tmp_path / 'tuned.pth'
    write_checkpoint(path, config)
    features = mmpl.FeatureExtractor(path, device='cpu')(place / 'images' / 'a.png')
    encoder = build_model(config, path).backbone
    image = torch.from_numpy(np.array(Image.open(place / 'images' / 'a.png'))[..., ::-1].copy()).permute(2, 0, 1)
    with torch.no_grad():
        want = encoder(((image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])[None])[-1]
    assert features.patches.shape == (1, *want.shape[2:], 16)
    np.testing.assert_allclose(features.patches[0], want[0].permute(1, 2, 0), rtol=0, atol=1e-5)


def test_a_fine_tuned_classifier_of_mean_tokens(place, tmp_path):
    """Its norm is behind the mean: so are the means here."""
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    backbone = dict(type='VisionTransformer', arch=arch, img_size=16, patch_size=4, out_type='avg_featmap')
    head = dict(type='LinearClsHead', num_classes=2, in_channels=16)
    preprocessor = dict(type='mmpretrain.ClsDataPreprocessor', mean=MEAN, std=STD)
    model = dict(type='ImageClassifier', backbone=dict(backbone, final_norm=False), head=head)
    config = Config(dict(model=dict(model, data_preprocessor=preprocessor), default_scope='mmpretrain'))
    write_checkpoint(tmp_path / 'tuned.pth', config)
    features = mmpl.FeatureExtractor(tmp_path / 'tuned.pth', device='cpu')(place / 'images' / 'a.png')
    encoder = build_model(config, tmp_path / 'tuned.pth').backbone
    image = torch.from_numpy(np.array(Image.open(place / 'images' / 'a.png'))[..., ::-1].copy()).permute(2, 0, 1)
    with torch.no_grad():
        want = encoder(((image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])[None])[-1]
    np.testing.assert_allclose(features.mean, want, rtol=0, atol=1e-5)
    assert features.patches.shape == (1, 4, 4, 16) and features.cls.shape == (1, 16)


def test_other_image_sizes_interpolate_the_position_embedding(place):
    path = place / 'images' / 'b.png'
    wide = mmpl.FeatureExtractor(place / 'rgb.pth', image_size=(16, 24))(path)
    want = by_the_pipeline(plmae_config(bgr_to_rgb=True), place / 'rgb.pth', path, scale=(24, 16))
    assert wide.patches.shape[1:3] == (4, 6)
    np.testing.assert_allclose(as_tokens(wide), want, rtol=0, atol=1e-5)
    own = mmpl.FeatureExtractor(place / 'rgb.pth', image_size='own')(place / 'images')
    assert [patches.shape[:2] for patches in own.patches] == [(4, 4), (10, 13), (8, 5)]
    alone = mmpl.FeatureExtractor(place / 'rgb.pth', image_size=(40, 52))(path)
    np.testing.assert_allclose(own.patches[1], alone.patches[0], rtol=0, atol=1e-5)
    for size in (18, (16, 0), 'large', 16.0):
        with pytest.raises(ValueError, match=r'`image_size` must be'):
            mmpl.FeatureExtractor(place / 'rgb.pth', image_size=size)


def test_what_the_checkpoint_does_not_say_is_refused(place, tmp_path):
    config = plmae_config(bgr_to_rgb=True)
    config.model.data_preprocessor = dict(type='SelfSupDataPreprocessor', bgr_to_rgb=True)
    path = write_checkpoint(tmp_path / 'no_norm.pth', config)
    with pytest.raises(ExtractorError, match=r'no `model.data_preprocessor` with `mean` and `std`.*give mean='):
        mmpl.FeatureExtractor(path)
    image = place / 'images' / 'b.png'
    given = mmpl.FeatureExtractor(path, mean=MEAN, std=STD)(image)
    assert np.array_equal(given.mean, mmpl.FeatureExtractor(place / 'rgb.pth')(image).mean)
    with pytest.raises(ExtractorError, match='must be given together'):
        mmpl.FeatureExtractor(path, mean=MEAN)
    with pytest.raises(ExtractorError, match=r'must be in 0\.\.255'):
        mmpl.FeatureExtractor(path, mean=[0.5] * 3, std=[0.2] * 3)
    torch.save(dict(state_dict=torch.load(path, weights_only=True)['state_dict']), tmp_path / 'bare.pth')
    with pytest.raises(ExtractorError, match='carries no config'):
        mmpl.FeatureExtractor(tmp_path / 'bare.pth')
    with pytest.raises(CheckpointMismatchError, match="no encoder 'other'.*'student', 'label_teacher'"):
        mmpl.FeatureExtractor(path, 'other')


def test_a_mean_beside_the_model_counts_as_in_training(place, tmp_path):
    config = plmae_config()
    config.data_preprocessor = dict(type='SelfSupDataPreprocessor', mean=MEAN, std=STD, bgr_to_rgb=True)
    del config.model['data_preprocessor']
    path, image = write_checkpoint(tmp_path / 'beside.pth', config), place / 'images' / 'b.png'
    np.testing.assert_allclose(
        as_tokens(mmpl.FeatureExtractor(path)(image)), by_the_pipeline(config, path, image), rtol=0, atol=1e-5
    )
    want = mmpl.FeatureExtractor(place / 'rgb.pth')(image)
    assert np.array_equal(mmpl.FeatureExtractor(path)(image).mean, want.mean)


def test_the_configs_own_loader_reads_the_files(place):
    config = plmae_config(bgr_to_rgb=True)
    config.train_dataloader.dataset.dataset.pipeline[0] = dict(type='LoadImageFromFile', color_type='grayscale')
    assert loader_of(config)['color_type'] == 'grayscale'
    path = write_checkpoint(place / 'grey.pth', config)
    with pytest.raises(ImageError, match=r'b.png: `LoadImageFromFile` gave 1 channels, the encoder takes 3'):
        mmpl.FeatureExtractor(path)(place / 'images' / 'b.png')
    config.train_dataloader.dataset.dataset.pipeline[0] = dict(type='LoadOwnFormat')
    path = write_checkpoint(place / 'own.pth', config)
    with pytest.raises(ExtractorError, match="reads files by 'LoadOwnFormat'; import the module"):
        mmpl.FeatureExtractor(path)


@pytest.mark.parametrize(
    ('folder', 'first'),
    [
        ('UnlabelledFolder', dict(type='LoadImageFromFile')),
        ('UnlabelledFolder', dict(type='mmpl.LoadImage', scaling='percentile')),
        ('UnlabelledFolder', dict(type='mmpl.LoadRandomResizedCrop', scale=16, scaling='image', color_type='color')),
        ('mmpretrain.CustomDataset', dict(type='LoadImageFromFile')),
    ],
)
def test_files_of_many_bits_are_seen_as_in_training(tmp_path, folder, first):
    values = np.random.default_rng(0).integers(0, 20000, (16, 16), dtype=np.uint16)
    (tmp_path / 'images').mkdir()
    Image.fromarray(values).save(tmp_path / 'images' / 'a.png')
    if first['type'].endswith('Crop'):
        first = dict(first, crop_ratio_range=(1, 1), aspect_ratio_range=(1, 1))  # the whole image
    config = plmae_config(bgr_to_rgb=True)
    dataset = dict(type=folder, data_root=str(tmp_path / 'images'), pipeline=[first, PACK], with_label=False)
    config.train_dataloader.dataset = dict(type='RepeatDataset', times=1, dataset=dataset)
    path = write_checkpoint(tmp_path / 'c.pth', config)
    init_default_scope('mmpretrain')
    seen = DATASETS.build(dict(dataset, type=f'mmpl.{folder}' if folder == 'UnlabelledFolder' else folder))[0]['inputs']
    model = build_model(config, path)
    with torch.no_grad():
        want = model.backbone(model.data_preprocessor(dict(inputs=seen[None], data_samples=None), False)['inputs'])[0]
    features = mmpl.FeatureExtractor(path)(tmp_path / 'images' / 'a.png')
    np.testing.assert_allclose(as_tokens(features), np.squeeze(want.numpy()), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ('place_of', 'kind'),
    [('model', 'subprocess.run'), ('loader', 'ctypes.cdll.LoadLibrary'), ('scope', 'subprocess')],
)
def test_code_that_a_checkpoints_config_names_is_not_called(place, tmp_path, place_of, kind):
    called = tmp_path / 'called'
    config = plmae_config(bgr_to_rgb=True)
    named = dict(type=kind, args=['touch', str(called)])
    if place_of == 'model':
        config.model = dict(config.model, neck=named)
    elif place_of == 'scope':
        config.default_scope = kind
    else:
        config.train_dataloader.dataset.dataset.pipeline[0] = dict(type=kind, name='libm.so.6')
    path = write_checkpoint(tmp_path / 'own.pth', plmae_config(bgr_to_rgb=True))
    content = torch.load(path, weights_only=True)
    content['meta']['cfg'] = config.pretty_text
    torch.save(content, path)
    with pytest.raises(ExtractorError, match='import the module that registers it first'):
        mmpl.FeatureExtractor(path)
    assert not called.exists()


def test_types_of_any_library_are_known():
    for kind in ('mmpl.PLMAE', 'mmpretrain.models.VisionTransformer', 'LN', 'mmcv.LoadImageFromFile', 'TruncNormal'):
        refuse_code([dict(part=dict(type=kind))])
    for kind in ('json.load', 'json', 'mmengine.fileio.load', 'torch.hub.load', 'torch.VisionTransformer'):
        with pytest.raises(KeyError, match='registered nowhere'):
            refuse_code(dict(type=kind))


@pytest.mark.parametrize('fields', [dict(scaling='percentile'), dict(bands=[3, 2, 1]), dict(scaling=(100, 200))])
def test_an_export_reads_files_as_its_training_and_pixels_in_memory_are_refused(place, tmp_path, fields):
    config = plmae_config(bgr_to_rgb=True)
    config.train_dataloader.dataset.dataset.pipeline[0] = dict(type='mmpl.LoadImage', **fields)
    path, image = write_checkpoint(tmp_path / 'own.pth', config), place / 'images' / 'b.png'
    export_backbone(path, tmp_path / 'export.pth')
    want, got = (mmpl.FeatureExtractor(file)(image).mean for file in (path, tmp_path / 'export.pth'))
    assert np.array_equal(want, got)
    assert np.abs(got - mmpl.FeatureExtractor(place / 'rgb.pth')(image).mean).max() > 1e-3
    with pytest.raises(ImageError, match='in training files were read by .*give files'):
        mmpl.FeatureExtractor(path)(Image.open(image))


def test_what_mmpls_loader_cannot_read_whole_is_refused(tmp_path, place):
    config = plmae_config(bgr_to_rgb=False)
    config.train_dataloader.dataset.dataset.pipeline[0] = dict(type='mmpl.LoadImage')
    extractor = mmpl.FeatureExtractor(write_checkpoint(tmp_path / 'c.pth', config))
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.jpg')
    (tmp_path / 'cut.jpg').write_bytes((tmp_path / 'a.jpg').read_bytes()[:-5000])  # OpenCV makes the rest grey
    with pytest.raises(ImageError, match=r'cut\.jpg: truncated'):
        extractor(tmp_path / 'cut.jpg')
    path = place / 'images' / 'b.png'
    assert np.array_equal(extractor(Image.open(path)).mean, extractor(path).mean)  # its order of channels is known


def test_public_weights_are_taken_as_they_are(place, tmp_path):
    timm, path = pytest.importorskip('timm'), place / 'images' / 'b.png'
    torch.manual_seed(0)
    model = timm.create_model('vit_tiny_patch16_224', img_size=32, num_classes=0).eval()
    torch.save(model.state_dict(), tmp_path / 'timm.pth')
    with pytest.raises(ExtractorError, match='give mean='):
        mmpl.FeatureExtractor(tmp_path / 'timm.pth')
    features = mmpl.FeatureExtractor(tmp_path / 'timm.pth', mean=[127.5] * 3, std=[127.5] * 3)(path)
    image = np.asarray(Image.open(path).resize((32, 32), Image.Resampling.BICUBIC), np.float32) / 127.5 - 1
    with torch.no_grad():
        tokens = model.forward_features(torch.from_numpy(image).permute(2, 0, 1)[None])[0].numpy()
    np.testing.assert_allclose(as_tokens(features), tokens, rtol=0, atol=1e-4)


def test_five_channels_come_from_files_by_the_configs_loader(tmp_path):
    @TRANSFORMS.register_module(force=True)
    class LoadFiveBands(BaseTransform):
        def transform(self, results):
            return dict(results, img=np.load(results['img_path']))

    config = plmae_config()
    config.model.backbone.in_channels = 5
    config.model.data_preprocessor = dict(mean=[1.0, 2.0, 3.0, 4.0, 5.0], std=[5.0, 4.0, 3.0, 2.0, 1.0])
    config.train_dataloader.dataset.dataset.pipeline[0] = dict(type='mmpl.LoadFiveBands')
    extractor = mmpl.FeatureExtractor(write_checkpoint(tmp_path / 'five.pth', config), device='cpu')
    bands = np.random.default_rng(0).normal(size=(16, 16, 5)).astype(np.float32)
    np.save(tmp_path / 'bands.npy', bands)
    inputs = (bands - np.float32([1, 2, 3, 4, 5])) / np.float32([5, 4, 3, 2, 1])
    with torch.no_grad():
        want = extractor.encoder(torch.from_numpy(inputs).permute(2, 0, 1)[None])[0][0].numpy()
    np.testing.assert_allclose(as_tokens(extractor(tmp_path / 'bands.npy')), want, rtol=0, atol=1e-5)
    with pytest.raises(ImageError, match='the encoder takes 5 channels, not RGB'):
        extractor(np.zeros((16, 16, 3), np.uint8))


GREY16 = Image.fromarray(np.full((8, 8), 40000, np.uint16))


@pytest.mark.parametrize(
    ('image', 'error', 'said'),
    [
        (np.zeros((8, 8, 3), np.float32), ImageError, r'numpy array of shape \(8, 8, 3\) and type float32'),
        (np.zeros((3, 8, 8), np.uint8), ImageError, r'\(3, 8, 8\).*expected \(H, W, 3\)'),
        (np.zeros((8, 8), np.uint8), ImageError, r'\(8, 8\).*expected \(H, W, 3\)'),
        (torch.rand(3, 8, 8), ImageError, r'values are in 0\.\.1'),
        (torch.full((3, 8, 8), -1.0), ImageError, r'must be in 0\.\.255, but are in -1\.\.-1'),
        (torch.full((3, 8, 8), float('nan')), ImageError, r'must be in 0\.\.255'),
        (torch.zeros(8, 8, 3), ImageError, r'expected \(3, H, W\)'),
        (GREY16, ImageError, r'mode .I;16.* 8 bits'),
        ('no_such_file.png', FileNotFoundError, "'no_such_file.png' is neither a file nor a folder"),
        ([], ValueError, 'at least one image'),
        (5, TypeError, 'but got int'),
    ],
)
def test_an_image_that_cannot_be_meant_is_refused(extractor, image, error, said):
    with pytest.raises(error, match=said):
        extractor(image)


@pytest.fixture(scope='module')
def extractor(place):
    return mmpl.FeatureExtractor(place / 'rgb.pth')


def test_unreadable_files_are_named(place, extractor, tmp_path):
    (tmp_path / 'broken.png').write_bytes((place / 'images' / 'b.png').read_bytes()[:900])
    Image.open(place / 'images' / 'a.png').save(tmp_path / 'whole.png')
    with pytest.raises(ImageError, match=r'broken\.png: (truncated|damaged)'):
        extractor(tmp_path)
    skipped = []
    features = extractor(tmp_path, skipped)
    assert features.paths == [f'{tmp_path}/whole.png'] and [path for path, _ in skipped] == [f'{tmp_path}/broken.png']
    assert np.array_equal(features.mean, extractor(place / 'images' / 'a.png').mean)


def test_the_process_is_left_as_it_was(place):
    torch.manual_seed(3)
    want = torch.rand(3)
    torch.manual_seed(3)
    mmpl.FeatureExtractor(place / 'rgb.pth')(place / 'images' / 'a.png')
    assert torch.equal(torch.rand(3), want)


def test_labels_that_are_missing_are_an_error_that_says_what_to_use(place):
    from mmpl.datasets import UnlabelledFolder

    init_default_scope('mmpretrain')
    images = UnlabelledFolder(data_root=str(place / 'images'), pipeline=[LOAD, RESIZE, PACK])
    model = build_model(plmae_config(bgr_to_rgb=True), place / 'rgb.pth')
    with pytest.raises(ValueError, match=r'without labels come from mmpl\.FeatureExtractor'):
        extract_features(model, DataLoader(images, 2, collate_fn=pseudo_collate))


def test_import_mmpl_stays_light():
    code = "import sys, mmpl; assert 'torch' not in sys.modules and 'typing' not in dir(mmpl); mmpl.cli"
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert "module 'mmpl' has no attribute 'cli'" in run.stderr
