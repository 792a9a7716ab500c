"""Images of one, four and thirteen channels: sizes that follow, what disagrees, weights made for three."""

import pytest
import torch
from mmengine.registry import MODELS

import mmpl.methods  # noqa: F401
from mmpl.checkpoints.encoders import fit_channels
from mmpl.checkpoints.fit import CheckpointMismatchError
from mmpl.export import export_backbone

CASES = dict(
    plmae=dict(type='mmpl.PLMAE'),
    plmae_pixel=dict(type='mmpl.PLMAE', head=dict(type='mmpl.TokenReconHead', target='pixel')),
    msa=dict(type='mmpl.MSA'),
    sdae=dict(type='mmpl.SdAE'),
    mixed_ae=dict(type='mmpl.MixedAE'),
    cae=dict(type='mmpl.CAE'),
    green_mim=dict(type='mmpl.GreenMIM'),
)


def config(case: str, channels: int, field: str = 'in_channels', **preprocessor) -> dict:
    cfg = MODELS.get(CASES[case]['type']).tiny() | CASES[case]
    of_patches = channels if field == 'in_channels' else dict(in_channels=channels)
    cfg['backbone'] = dict(cfg['backbone'], **{field: of_patches})
    if preprocessor:
        cfg['data_preprocessor'] = preprocessor
    return cfg


def build(cfg: dict) -> torch.nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    model.attach_updater('test')
    return model


@pytest.mark.parametrize('channels', [1, 4, 13])
@pytest.mark.parametrize(
    ('case', 'field'),
    [
        (case, field)
        for case in CASES
        for field in ('in_channels', 'patch_cfg')
        if (case, field) != ('green_mim', 'patch_cfg')
    ],
)
def test_every_method_learns_from_them(case: str, channels: int, field: str) -> None:
    numbers = torch.arange(1.0, 1 + channels)
    model = build(config(case, channels, field, mean=numbers.tolist(), std=(10 * numbers).tolist()))
    raw = torch.randint(0, 256, (4, channels, 16, 16), generator=torch.Generator().manual_seed(0))
    images = model.data_preprocessor(dict(inputs=raw, data_samples=None), True)['inputs']
    torch.testing.assert_close(images, (raw - numbers.view(-1, 1, 1)) / (10 * numbers.view(-1, 1, 1)))
    losses = model.loss([images, images] if model.num_views == 2 else images)
    sum(losses.values()).backward()
    gradient = model.backbone.patch_embed.projection.weight.grad
    assert gradient.shape[1] == channels and bool((gradient.abs().sum((0, 2, 3)) > 0).all())
    if hasattr(model.head, 'in_channels'):
        assert model.head.out_dims == channels * model.backbone.token_size**2


@pytest.mark.parametrize('mean', [[100.0], None])
def test_one_number_and_none_do(mean: list | None) -> None:
    fields = dict(mean=mean, std=[50.0]) if mean else dict(type='SelfSupDataPreprocessor')
    raw = torch.full((1, 4, 16, 16), 200)
    made = build(config('plmae', 4, **fields)).data_preprocessor(dict(inputs=raw, data_samples=None), True)['inputs']
    assert made.unique().tolist() == [2.0 if mean else 200.0]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(data_preprocessor=dict(mean=[1.0] * 3, std=[1.0] * 3)), r'`data_preprocessor.mean` .* each of the 1 '),
        (dict(data_preprocessor=dict(mean=[1.0], std=[1.0] * 3)), '`data_preprocessor.std`'),
        (
            dict(data_preprocessor=dict(mean=[1.0], std=[1.0], bgr_to_rgb=True)),
            '`data_preprocessor.bgr_to_rgb` must be',
        ),
        (dict(data_preprocessor=dict(mean=[1.0])), '`data_preprocessor.mean` and `std` must be given both or neither'),
        (dict(data_preprocessor=dict(mean=[1.0], std=[0.0])), '`data_preprocessor.std` must be above 0'),
        (dict(backbone=dict(patch_cfg=dict(in_channels=4))), '`backbone.in_channels` must be that .* 4.* but got 1'),
        (dict(head=dict(target='pixel', in_channels=3)), '`head.in_channels` must be 1, the channels of `backbone`'),
    ],
)
def test_what_disagrees_is_refused_when_it_is_built(change: dict, message: str) -> None:
    cfg = config('plmae', 1)
    for part, fields in change.items():
        cfg[part] = dict(cfg.get(part, {}), **fields)
    with pytest.raises(ValueError, match=message):
        MODELS.build(cfg)


def test_images_with_other_channels_are_refused_in_the_first_step() -> None:
    with pytest.raises(ValueError, match=r'`backbone.in_channels` is 1, but the images have \[3\] channels'):
        build(config('plmae', 1)).loss(torch.randn(2, 3, 16, 16))


@pytest.mark.parametrize('given', [1, 4])
@pytest.mark.parametrize('views', [False, True])
def test_no_channel_is_dropped_or_made_up_before_the_first_step(given: int, views: bool) -> None:
    """Swapping the first three of four, or subtracting three means from one, gives three."""
    model = build(config('msa' if views else 'plmae', 3, mean=[1.0] * 3, std=[1.0] * 3, bgr_to_rgb=given == 4))
    raw = torch.zeros(2, given, 16, 16)
    with pytest.raises(ValueError, match=f'`backbone.in_channels` is 3, but the images have .{given}. channels'):
        model.data_preprocessor(dict(inputs=[raw, raw] if views else raw, data_samples=None), True)


# ---------------------------------------------------------------------- weights for three channels


def dense(in_channels: int, **init_cfg) -> torch.nn.Module:
    arch = MODELS.get('mmpl.PLMAE').tiny()['backbone']['arch']
    cfg = dict(type='mmpretrain.VisionTransformer', arch=arch, img_size=16, patch_size=4, in_channels=in_channels)
    model = MODELS.build(dict(cfg, out_type='raw', init_cfg=dict(type='mmpl.StrictPretrained', **init_cfg)))
    model.init_weights()
    model.eval()
    return model


@pytest.mark.parametrize(('channels', 'how'), [(1, 'average'), (4, 'average'), (4, 'inflate'), (13, 'inflate')])
def test_grey_images_have_the_features_of_grey_images(channels: int, how: str, tmp_path) -> None:
    source = build(config('plmae', 3))
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'rgb.pth')
    grey = torch.randn(2, 1, 16, 16)
    options = dict(checkpoint=str(tmp_path / 'rgb.pth'), prefix='backbone.')
    got = dense(channels, channels=how, **options)(grey.expand(-1, channels, -1, -1))[0]
    want = source.eval().backbone(grey.expand(-1, 3, -1, -1))[0]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    with pytest.raises(
        CheckpointMismatchError, match=f"is for 3 channels, the module for {channels}: `channels='average'`"
    ):
        dense(channels, **options)


def test_inflated_channels_stay_in_their_order() -> None:
    weight = torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1, 1)
    assert fit_channels(weight, 5, 'inflate').flatten().tolist() == [0.5, 5.0, 100.0, 0.5, 5.0]
    assert fit_channels(weight, 2, 'average').flatten().tolist() == pytest.approx([55.5, 55.5])
    with pytest.raises(CheckpointMismatchError, match="'average' can"):
        fit_channels(weight, 1, 'inflate')


@pytest.mark.parametrize('to', ['mmpretrain', 'timm', 'huggingface'])
def test_one_channel_is_exported(to: str, tmp_path) -> None:
    model = build(config('plmae', 1))
    cfg = f'model = dict(backbone={config("plmae", 1)["backbone"]!r}, data_preprocessor=dict(mean=[1.0], std=[2.0]))'
    torch.save(dict(state_dict=model.state_dict(), meta=dict(cfg=cfg)), tmp_path / 'c.pth')
    result = export_backbone(tmp_path / 'c.pth', tmp_path / 'out', to=to)
    assert result.spec.in_channels == 1 and result.max_difference <= 1e-5


@pytest.mark.parametrize('views', [1, 2])
def test_mean_and_std_for_pixels_from_0_to_1(views: int) -> None:
    """As torchvision has them, for images of 8 bits; a loader that gives 0 to 1 may have them."""
    model = build(config('plmae', 3, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]))
    raw = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    feed = dict(inputs=raw if views == 1 else [raw, raw], data_samples=None)
    with pytest.raises(ValueError, match=r'`data_preprocessor.std` \[0.229, .* from 0 to 1, .* multiply'):
        model.data_preprocessor(feed, True)
    model.data_preprocessor(dict(inputs=raw / 255, data_samples=None), True)
