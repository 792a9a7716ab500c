"""An exported encoder sees a picture file as the original does: order of the channels, mean and std."""

import json
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from PIL import Image

from mmpl.export import ExportError, export_backbone
from mmpl.export.backbone import LIBRARIES, load_timm
from mmpl.export.spec import Preprocessing, preprocessing
from tests.test_export.test_backbone import CFG, MEAN, STD, make_vit, save

ORDERS = {  # fields of the preprocessor -> what OpenCV's channels are put through, and mean and std in their order
    'rgb': (f'mean={MEAN}, std={STD}, bgr_to_rgb=True', True, MEAN, STD),
    'bgr': (f'mean={MEAN[::-1]}, std={STD[::-1]}, bgr_to_rgb=False', False, MEAN[::-1], STD[::-1]),
    'bgr by default': (f'mean={MEAN[::-1]}, std={STD[::-1]}', False, MEAN[::-1], STD[::-1]),
    'not normalised': ("type='SelfSupDataPreprocessor'", False, [0.0] * 3, [1.0] * 3),
}


def config(fields: str) -> str:
    return CFG.replace(f'mean={MEAN}, std={STD}, to_rgb=True', fields)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    pixels[..., 0] //= 4  # little red
    Image.fromarray(pixels).save(tmp_path / 'picture.png')
    return tmp_path / 'picture.png'


@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('to', list(LIBRARIES))
@torch.no_grad()
def test_a_picture_has_the_same_features(to: str, order: str, picture: Path, tmp_path: Path) -> None:
    """Through the target library's own preprocessing, and through arithmetic on what OpenCV reads."""
    fields, swapped, mean, std = ORDERS[order]
    model, scale = make_vit(), 1 if order == 'not normalised' else None
    with torch.no_grad():
        model.patch_embed.projection.weight.mul_(1 / 255 if scale else 1)
    out = tmp_path / ('vit' if to == 'huggingface' else 'vit.pth')
    result = export_backbone(save(tmp_path / 'c.pth', {'student': model}, config(fields)), out, to=to)
    assert result.from_picture and result.max_difference <= 1e-4
    assert result.channels_swapped == (not swapped and to != 'mmpretrain')

    pixels = mmcv.imread(picture)[..., ::-1] if swapped else mmcv.imread(picture)
    inputs = (pixels.astype(np.float32) - np.float32(mean)) / np.float32(std)
    want = model(torch.from_numpy(inputs.transpose(2, 0, 1).copy())[None])[0]
    if to == 'timm':
        timm = pytest.importorskip('timm')
        transform = timm.data.create_transform(**json.loads(out.with_suffix('.json').read_text())['transform'])
        got = load_timm(out).forward_features(transform(Image.open(picture))[None])
    elif to == 'huggingface':
        transformers = pytest.importorskip('transformers')
        processor = transformers.ViTImageProcessor.from_pretrained(out)
        values = processor(Image.open(picture), return_tensors='pt')['pixel_values']
        got = transformers.ViTModel.from_pretrained(out, add_pooling_layer=False).eval()(values).last_hidden_state
    else:
        got = LIBRARIES[to].load(result.files, result.spec)(LIBRARIES[to].read(picture, result.files))[0]
    torch.testing.assert_close(got, want, atol=1e-3, rtol=0)
    other = model(torch.from_numpy(inputs.transpose(2, 0, 1)[::-1].copy())[None])[0]
    assert (other - want).abs().max() > 0.01, 'the order matters'


@pytest.mark.parametrize('to', list(LIBRARIES)[1:])
def test_a_wrong_order_is_found(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Preprocessing.in_rgb_order
    monkeypatch.setattr(Preprocessing, 'in_rgb_order', lambda self: {k: v[::-1] for k, v in right(self).items()})
    path = save(tmp_path / 'c.pth', {'student': make_vit()})
    with pytest.raises(ExportError, match='other features of a picture'):
        export_backbone(path, tmp_path / 'out', to=to)
    assert not (tmp_path / 'out').is_file()


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ('rgb_to_bgr=True', 'data_preprocessor.rgb_to_bgr=True'),
        ('mean=[1.0, 2.0], std=[1.0]', r'data_preprocessor.mean=\[1.0, 2.0\] must have one number for each of the 3'),
    ],
)
def test_refusals(fields: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export_backbone(save(tmp_path / 'c.pth', {'student': make_vit()}, config(fields)), tmp_path / 'out.pth')


@pytest.mark.parametrize('kind', ['Normalize', 'mmpretrain.NumpyToPIL'])
def test_a_pipeline_that_prepares_images_by_itself_is_refused(kind: str, tmp_path: Path) -> None:
    pipeline = (
        f"train_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='{kind}')]))\n"
    )
    with pytest.raises(ExportError, match=rf'dataset\.pipeline\[1\] is {kind}'):
        export_backbone(save(tmp_path / 'c.pth', {'student': make_vit()}, CFG + pipeline), tmp_path / 'out.pth')
    part = f"dict(pipeline=[dict(type='MultiView', transforms=[[dict(type='torchvision/{kind.split('.')[-1]}')]])])"
    deep = f"train_dataloader = dict(dataset=dict(type='ConcatDataset', datasets=[{part}]))\n"
    with pytest.raises(ExportError, match=r'datasets\[0\]\.pipeline\[0\]\.transforms\[0\]\[0\] is torchvision/'):
        export_backbone(save(tmp_path / 'd.pth', {'student': make_vit()}, CFG + deep), tmp_path / 'out.pth')


def test_a_whole_model_without_a_preprocessor_was_fed_as_images_are_loaded() -> None:
    """That is BGR and not normalised; of an encoder alone nothing is known."""
    fed = preprocessing(dict(model=dict(type='MAE', backbone={})), 3)
    assert fed is not None and fed.bgr and fed.in_rgb_order()['std'] == [1 / 255] * 3
    assert preprocessing(dict(model=dict(backbone={})), 3) is None


def test_one_number_for_all_channels() -> None:
    fed = preprocessing(dict(data_preprocessor=dict(mean=[51.0], std=102.0)), 3)
    assert fed is not None and fed.bgr
    assert fed.in_rgb_order() == dict(mean=[0.2] * 3, std=[0.4] * 3)
    assert preprocessing(dict(model=dict(backbone={})), 3) is None


@pytest.mark.parametrize('to', list(LIBRARIES))
def test_other_channels_have_no_order(to: str, tmp_path: Path) -> None:
    fields = 'type="VisionTransformer", in_channels=4, arch'
    cfg = config('mean=[100.0, 90.0, 80.0, 70.0], std=[50.0]').replace('type="mmpl.MaskedViT", arch', fields)
    path = save(tmp_path / 'c.pth', {'student': make_vit(in_channels=4)}, cfg)
    result = export_backbone(path, tmp_path / 'out', to=to)
    assert not result.from_picture and not result.channels_swapped and result.max_difference <= 1e-5


def test_the_config_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / 'c.pth', {'student': make_vit(patch_size=8)})
    with pytest.raises(ExportError, match='model.backbone of the config in the checkpoint does not fit'):
        export_backbone(path, tmp_path / 'out.pth')


@pytest.mark.parametrize('fields', ['pre_norm=True', 'final_norm=False'])
def test_what_the_config_adds_to_a_plain_encoder_is_found(fields: str, tmp_path: Path) -> None:
    """Such as a norm that the tensors of the checkpoint do not hold."""
    cfg = CFG.replace('type="mmpl.MaskedViT"', f'type="VisionTransformer", {fields}')
    with pytest.raises(ExportError, match='does not fit its tensors'):
        export_backbone(save(tmp_path / 'c.pth', {'student': make_vit()}, cfg), tmp_path / 'out.pth')
