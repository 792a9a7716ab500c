"""What a GPU computes is what the CPU computes. Marked ``cuda`` is what needs one; the rest runs on either.

``tools/benchmarks/gpu_check.sh`` runs this file. The bounds are our choice, as many times what fp32 differs from fp64
on a CPU; no GPU was at hand when they were chosen.
"""

import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmpl.export.backbone import export_backbone
from mmpl.models.masking import BlockMasking, RandomMasking
from tests.faults.runs import EVERY, differences, final_state, run, stopped
from tests.test_models.helpers import msa_cfg, plmae_cfg, samples_of

os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # which cuBLAS wants before it computes the same twice

ROOT = Path(__file__).resolve().parents[1]
EITHER = pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.cuda)])
STEPS = 12


@pytest.fixture(autouse=True)
def exact():
    """No TF32; and what a run asks for is not left to the next test."""
    parts = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [part.allow_tf32 for part in parts]
    for part in parts:
        part.allow_tf32 = False
    yield
    for part, value in zip(parts, before, strict=True):
        part.allow_tf32 = value
    torch.use_deterministic_algorithms(False)


def curve(device: str, dtype: str = 'float32', method: str = 'plmae') -> list[float]:
    """The losses of some steps on two batches of noise; ``'float64'`` computes all in it."""
    torch.manual_seed(0)
    model = MODELS.build(dict(plmae=plmae_cfg, msa=msa_cfg)[method](masking=dict(num_masks=2)))
    model.init_weights()
    model.to(device, torch.float64 if dtype == 'float64' else torch.float32).train()
    model.attach_updater('the test')
    model.set_length(STEPS, 1)
    amp = dict(dtype='bfloat16' if dtype == 'bfloat16' else 'float32')
    optimizer = dict(type='AdamW', lr=1e-3, fused=True)
    wrapper = build_optim_wrapper(model, dict(type='mmpl.AutocastOptimWrapper', optimizer=optimizer, **amp))
    images = torch.randn(2, model.num_views, 8, 3, 16, 16).to(device, next(model.parameters()).dtype)
    samples = samples_of([None] * 8)
    losses = []
    for step in range(STEPS):
        with wrapper.optim_context(model):
            loss = sum(model.loss(list(images[step % 2]), samples).values())
        wrapper.update_params(loss)
        model.after_step((step + 1) / STEPS, 0)
        losses.append(loss.item())
    return losses


@pytest.mark.cuda
@pytest.mark.parametrize('method', ['plmae', 'msa'])
def test_losses_on_a_gpu_are_those_of_the_cpu(method) -> None:
    assert curve('cuda', method=method) == pytest.approx(curve('cpu', method=method), rel=1e-4)


@EITHER
@pytest.mark.parametrize('method, bound', [('msa', 1e-2), ('plmae', 0.3)])  # 0.001 and 0.19 were seen on a CPU
def test_losses_in_bf16_are_those_in_fp32(method, bound, device) -> None:
    """Sharp labels of random prototypes are another one at once: the first step, then, is what PL-MAE is judged by."""
    half, full = curve(device, 'bfloat16', method), curve(device, method=method)
    assert half[0] == pytest.approx(full[0], rel=5e-3)
    assert half == pytest.approx(full, rel=bound)


@pytest.mark.cuda
@pytest.mark.parametrize('kind', [RandomMasking, BlockMasking])
def test_masks_are_drawn_alike(kind) -> None:
    on_host, on_device = (kind(mask_ratio=0.5, num_masks=2, seed=3) for _ in range(2))
    on_device.to('cuda')
    for _ in range(3):
        ours, theirs = on_host(5, (14, 14)), on_device(5, (14, 14), 'cuda')
        for name in ('ids_keep', 'ids_masked', 'ids_predict', 'ids_restore'):
            assert torch.equal(getattr(ours, name), getattr(theirs, name).cpu()), name


@pytest.mark.cuda
def test_attention_in_bf16_is_a_flash_kernel() -> None:
    """torch's own, or that of cuDNN, which torch prefers on some cards; neither holds the matrix of all pairs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        curve('cuda', 'bfloat16')
    used = {event.key for event in profiler.key_averages() if '_scaled_dot_product' in event.key}
    assert used and all('flash' in name or 'cudnn' in name for name in used), used
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):  # raises where this kernel cannot
        curve('cuda', 'bfloat16')


@EITHER
def test_mask_rcnn_takes_a_step_and_predicts(device) -> None:
    from mmdet.registry import MODELS as DETECTORS
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    cfg = Config.fromfile(ROOT / 'configs/downstream/detection/mask_rcnn_vit_embedded.py')
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = DETECTORS.build(cfg.model).to(device).train()
        boxes = torch.tensor([[8.0, 8, 40, 40], [50, 20, 90, 80]])
        masks = torch.zeros(2, 96, 96, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        truth = InstanceData(bboxes=boxes, labels=torch.tensor([1, 3]), masks=BitmapMasks(masks.numpy(), 96, 96))
        sample = DetDataSample(gt_instances=truth, metainfo=dict(img_shape=(96, 96), ori_shape=(96, 96)))
        sample.set_metainfo(dict(scale_factor=(1.0, 1.0), pad_shape=(96, 96), batch_input_shape=(96, 96)))
        batch = dict(inputs=[torch.randint(0, 255, (3, 96, 96), dtype=torch.uint8)], data_samples=[sample])
        losses = model(**model.data_preprocessor(batch, True), mode='loss')
        total, _ = model.parse_losses(losses)
        total.backward()
        norms = [p.grad.norm() for name, p in model.named_parameters() if p.grad is not None and 'mask_head' in name]
        assert total.isfinite() and norms and all(norm.isfinite() for norm in norms)
        with torch.no_grad():
            (found,) = model.eval()(**model.data_preprocessor(batch, False), mode='predict')
    assert found.pred_instances.bboxes.device.type == device and found.pred_instances.bboxes.isfinite().all()


@pytest.mark.cuda
def test_operators_of_torchvision_are_those_of_the_cpu() -> None:
    from mmcv.ops import RoIAlign, nms

    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(200, 2, generator=generator) * 40
    boxes = torch.cat([corners, corners + 1 + torch.rand(200, 2, generator=generator) * 24], 1)
    scores, features = torch.rand(200, generator=generator), torch.randn(2, 8, 32, 32, generator=generator)
    rois = torch.cat([torch.arange(200)[:, None] % 2, boxes], 1).float()
    pool = RoIAlign(7, spatial_scale=0.5, sampling_ratio=2)
    kept, pooled = [], []
    for device in ('cpu', 'cuda'):
        kept.append(nms(boxes.to(device), scores.to(device), 0.5)[1].cpu())
        inputs = features.to(device).requires_grad_()
        output = pool(inputs, rois.to(device))
        output.square().sum().backward()
        pooled.append((output.detach().cpu(), inputs.grad.cpu()))
    assert torch.equal(*kept)
    for ours, theirs in zip(*pooled, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_an_encoder_that_was_trained_here_is_exported(tmp_path) -> None:
    """On the GPU where there is one: mmengine trains there."""
    runner = run(tmp_path, epochs=1)
    assert next(runner.model.parameters()).is_cuda == torch.cuda.is_available()
    for library in ('mmpretrain', 'timm'):
        result = export_backbone(tmp_path / 'epoch_1.pth', tmp_path / f'{library}.pth', to=library)
        assert result.max_difference <= 1e-5


@pytest.mark.cuda
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_resumed_run_has_the_same_bits(dtype, tmp_path) -> None:
    """With ``randomness.deterministic=True``, as :func:`tests.faults.runs.fault_cfg` asks."""
    fields = dict(checkpoint=EVERY, epochs=2, optim_wrapper=dict(dtype=dtype))
    run(tmp_path / 'whole', **fields)
    stopped(tmp_path / 'again', 8, **fields)
    run(tmp_path / 'again', **fields)
    whole, again = (final_state(tmp_path / name / 'epoch_2.pth') for name in ('whole', 'again'))
    assert differences(whole, again) == []
