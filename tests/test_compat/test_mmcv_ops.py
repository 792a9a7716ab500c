"""mmcv's operators without a compiler, against torchvision, plain loops and, where built, the compiled ones."""

import importlib.machinery
import importlib.util
import pkgutil
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
import torchvision

from mmpl._mmcv_ext_finder import EXT_NAME, MMCVExtFinder, install
from mmpl.compat import mmcv_ops


def _compiled() -> bool:
    import mmcv

    return importlib.machinery.PathFinder.find_spec(EXT_NAME, mmcv.__path__) is not None


needs_compiled = pytest.mark.skipif(not _compiled(), reason="mmcv's compiled operators are not built here")
without_compiled = pytest.mark.skipif(_compiled(), reason="mmcv's compiled operators are built here")


@pytest.fixture
def ops(monkeypatch):
    """``mmcv.ops`` calling our extension module, also where the compiled one exists."""
    import mmcv.ops

    ext = ModuleType(EXT_NAME)
    mmcv_ops.fill_ext_module(ext)
    for name in ('nms', 'roi_align'):
        monkeypatch.setattr(sys.modules[f'mmcv.ops.{name}'], 'ext_module', ext)
    return mmcv.ops


def _boxes(n: int, seed: int = 0, size: float = 40.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * size
    return torch.cat([corner, corner + torch.rand(n, 2, generator=generator) * size * 0.6], dim=1)


def _rois(n: int, batch: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(batch, (n, 1), generator=generator).float()
    return torch.cat([index, _boxes(n, seed)], dim=1)


def _nms_reference(boxes: np.ndarray, scores: np.ndarray, threshold: float, offset: int) -> list[int]:
    """Greedy NMS, one box at a time."""
    keep: list[int] = []
    for i in np.argsort(-scores, kind='stable'):
        for j in keep:
            w = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0]) + offset
            h = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1]) + offset
            inter = max(w, 0) * max(h, 0)
            area = [(b[2] - b[0] + offset) * (b[3] - b[1] + offset) for b in (boxes[i], boxes[j])]
            if inter / (sum(area) - inter) > threshold:
                break
        else:
            keep.append(int(i))
    return keep


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.1, 0.3, 0.7])
def test_nms_equals_plain_loops(ops, offset, threshold) -> None:
    """Kept indices and their order are those of the definition; so are the returned boxes and scores."""
    boxes, scores = _boxes(200), torch.rand(200, generator=torch.Generator().manual_seed(1))
    dets, inds = ops.nms(boxes, scores, threshold, offset=offset)
    assert inds.tolist() == _nms_reference(boxes.double().numpy(), scores.numpy(), threshold, offset)
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[inds])
    assert 0 < len(inds) < 200
    if offset == 0:
        assert torch.equal(inds, torchvision.ops.nms(boxes, scores, threshold))


def test_nms_offset_changes_the_result(ops) -> None:
    """Two unit boxes side by side overlap only when coordinates are pixel indices."""
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 2.0, 1.0]])
    scores = torch.tensor([0.9, 0.8])
    # With offset 1 the boxes are 2x2, share 1x2 of a union of 6: IoU 1/3.
    assert ops.nms(boxes, scores, 0.3, offset=0)[1].tolist() == [0, 1]
    assert ops.nms(boxes, scores, 0.3, offset=1)[1].tolist() == [0]


def test_nms_empty_numpy_and_limits(ops) -> None:
    """Empty input, numpy arrays, a score threshold and a maximum number."""
    dets, inds = ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert dets.shape == (0, 5) and inds.shape == (0,) and inds.dtype == torch.long
    boxes, scores = _boxes(30), torch.linspace(0.0, 1.0, 30)
    full = ops.nms(boxes, scores, 0.5)[1]
    dets_np, inds_np = ops.nms(boxes.numpy(), scores.numpy(), 0.5)
    assert isinstance(dets_np, np.ndarray) and inds_np.tolist() == full.tolist()
    assert ops.nms(boxes, scores, 0.5, max_num=3)[1].tolist() == full[:3].tolist()
    high = ops.nms(boxes, scores, 0.5, score_threshold=0.5)[1]
    assert high.tolist() == [i for i in full.tolist() if scores[i] > 0.5]


@pytest.mark.parametrize('split_thr', [10000, 10])
def test_batched_nms(ops, split_thr) -> None:
    """Per class, as torchvision's batched NMS, through both code paths of mmcv."""
    boxes, scores = _boxes(80, 3), torch.rand(80, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(80) % 4
    dets, keep = ops.batched_nms(boxes, scores, labels, {'type': 'nms', 'iou_threshold': 0.4, 'split_thr': split_thr})
    expected = torchvision.ops.batched_nms(boxes, scores, labels, 0.4)
    assert torch.equal(keep, expected) and len(keep) > len(torchvision.ops.nms(boxes, scores, 0.4))
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[expected])


def test_batched_nms_class_agnostic(ops) -> None:
    """Class-agnostic: the classes play no part; nothing in, nothing out."""
    boxes, scores = _boxes(80, 3), torch.rand(80, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(80) % 4
    cfg = {'type': 'nms', 'iou_threshold': 0.4, 'class_agnostic': True}
    assert torch.equal(ops.batched_nms(boxes, scores, labels, cfg)[1], torchvision.ops.nms(boxes, scores, 0.4))
    empty, none = ops.batched_nms(boxes[:0], scores[:0], labels[:0], cfg)
    assert empty.shape == (0, 5) and none.numel() == 0


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('size', [7, (3, 5)])
def test_roi_align_equals_torchvision(ops, aligned, sampling_ratio, size) -> None:
    """Forward and gradient, to the last bit."""
    features = torch.randn(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    rois = _rois(9, 2)
    a, b = features.clone().requires_grad_(), features.clone().requires_grad_()
    ours = ops.roi_align(a, rois, size, 0.5, sampling_ratio, 'avg', aligned)
    theirs = torchvision.ops.roi_align(b, rois, size, 0.5, sampling_ratio or -1, aligned)
    assert torch.equal(ours, theirs)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    ours.backward(upstream)
    theirs.backward(upstream)
    assert torch.equal(a.grad, b.grad) and a.grad.abs().sum() > 0


@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_roi_align_of_a_ramp(ops, sampling_ratio) -> None:
    """Bilinear sampling of a linear function is exact: each cell holds the ramp's value at its centre."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing='ij')
    features = torch.stack([x, y])[None]
    rois = torch.tensor([[0.0, 8.0, 12.0, 40.0, 28.0]])
    out = ops.RoIAlign((4, 8), 0.5, sampling_ratio, 'avg', True)(features, rois)[0]
    # In feature cells the region is x 4..20, y 6..14; pixel i's centre lies at i + 0.5.
    expect_x = 4 + 16 * (torch.arange(8) + 0.5) / 8 - 0.5
    expect_y = 6 + 8 * (torch.arange(4) + 0.5) / 4 - 0.5
    torch.testing.assert_close(out[0], expect_x.expand(4, 8))
    torch.testing.assert_close(out[1], expect_y[:, None].expand(4, 8))


def test_roi_align_gradcheck(ops) -> None:
    """The gradient is the derivative of the forward pass (double precision, finite differences)."""
    features = torch.randn(1, 2, 6, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    rois = torch.tensor([[0.0, 0.7, 0.4, 4.6, 5.3]], dtype=torch.double)
    assert torch.autograd.gradcheck(
        lambda f: ops.roi_align(f, rois, 2, 1.0, 2, 'avg', True), (features.requires_grad_(),)
    )


def test_roi_align_empty(ops) -> None:
    """No region: an empty output and a zero gradient."""
    features = torch.randn(2, 3, 8, 8, requires_grad=True)
    out = ops.roi_align(features, torch.zeros(0, 5), 7, 1.0, 0, 'avg', True)
    assert out.shape == (0, 3, 7, 7)
    out.sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_bfloat16(ops) -> None:
    """Features in bfloat16 are computed in float32 and rounded once."""
    features = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    rois = torch.tensor([[0.0, 1.0, 1.0, 6.0, 6.0]])
    a, b = features.clone().requires_grad_(), features.float().requires_grad_()
    out, reference = (ops.roi_align(f, rois.type_as(f), 2, 1.0, 2, 'avg', True) for f in (a, b))
    assert out.dtype == torch.bfloat16 and torch.equal(out, reference.bfloat16())
    out.float().sum().backward()
    reference.sum().backward()
    torch.testing.assert_close(a.grad.float(), b.grad, atol=0.02, rtol=0.02)
    assert ops.nms(_boxes(9).bfloat16(), torch.rand(9).bfloat16(), 0.5)[1].numel() > 0


def test_max_pooling_and_other_ops_name_themselves(ops) -> None:
    """What torchvision does not offer fails by name and says where to get it."""
    with pytest.raises(NotImplementedError, match="pool_mode='max'"):
        ops.roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), 2, 1.0, 2, 'max', True)
    ext = ModuleType(EXT_NAME)
    mmcv_ops.fill_ext_module(ext)
    with pytest.raises(NotImplementedError, match=r"'ms_deform_attn_forward'.*MMCV_WITH_OPS=1 pip install"):
        ext.ms_deform_attn_forward(torch.zeros(1))
    with pytest.raises(AttributeError):
        _ = ext.__path__


@without_compiled
def test_finder_answers_everyone_who_asks() -> None:
    """A real spec (mmcv and mmengine ask for the loader), the import, and mmcv's report of its compiler."""
    from mmengine.utils.dl_utils import mmcv_full_available

    assert importlib.util.find_spec(EXT_NAME).loader is MMCVExtFinder
    assert pkgutil.find_loader(EXT_NAME) is not None
    assert mmcv_full_available()
    ext = importlib.import_module(EXT_NAME)
    assert ext.__spec__.name == EXT_NAME and ext.nms is mmcv_ops.nms
    from mmcv.ops import get_compiler_version

    assert 'torchvision' in get_compiler_version()


def test_finder_stands_last_once_and_answers_one_name() -> None:
    """Everything else is found before it, so a compiled extension is never replaced."""
    install()
    assert sys.meta_path.count(MMCVExtFinder) == 1
    assert sys.meta_path.index(MMCVExtFinder) > sys.meta_path.index(importlib.machinery.PathFinder)
    assert MMCVExtFinder.find_spec('mmcv.ops') is None
    assert MMCVExtFinder.find_spec('_ext') is None


def test_a_built_extension_wins(tmp_path) -> None:
    """With an ``_ext`` in mmcv's folder, ours is not asked; with MMPL_MMCV_EXT=0 it is not there at all."""
    package = tmp_path / 'mmcv'
    package.mkdir()
    (package / '__init__.py').write_text('')
    code = 'import sys; sys.path.insert(0, sys.argv[1]); import mmpl, mmcv._ext as e; print(e.__spec__.origin)'

    def run(**env: str) -> subprocess.CompletedProcess:
        import os

        path = os.pathsep.join(p for p in sys.path if p)
        return subprocess.run(
            [sys.executable, '-c', code, str(tmp_path)],
            capture_output=True,
            text=True,
            env={**os.environ, 'PYTHONPATH': path, **env},
        )

    off = run(MMPL_MMCV_EXT='0')
    assert off.returncode == 1 and "No module named 'mmcv._ext'" in off.stderr
    (package / '_ext.py').write_text('')
    assert run().stdout.strip() == str(package / '_ext.py')


def test_start_up_is_cheap() -> None:
    """What runs at every start of the interpreter imports neither torch nor mmengine nor mmcv."""
    code = "import mmpl, sys; print([m for m in ('torch', 'mmengine', 'mmcv', 'numpy') if m in sys.modules])"
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == '[]'


@needs_compiled
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_equals_compiled(aligned, sampling_ratio) -> None:
    """Forward, gradient and NMS equal mmcv's own kernels."""
    import mmcv.ops

    assert not isinstance(sys.modules[EXT_NAME].__spec__.loader, type)
    features = torch.randn(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    for rois in (_rois(9, 2), torch.zeros(0, 5)):
        compiled_in = features.clone().requires_grad_()
        compiled = mmcv.ops.roi_align(compiled_in, rois, 7, 0.5, sampling_ratio, 'avg', aligned)
        upstream = torch.randn(compiled.shape, generator=torch.Generator().manual_seed(1))
        compiled.backward(upstream)
        empty = torch.zeros(0)
        out, grad = torch.zeros_like(compiled), torch.zeros_like(features)
        cfg = (7, 7, 0.5, sampling_ratio, 1, aligned)
        mmcv_ops.roi_align_forward(features, rois, out, empty, empty, *cfg)
        mmcv_ops.roi_align_backward(upstream, rois, empty, empty, grad, *cfg)
        torch.testing.assert_close(out, compiled, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(grad, compiled_in.grad, atol=1e-6, rtol=1e-6)
    for n in (0, 50):
        boxes, scores = _boxes(n), torch.rand(n, generator=torch.Generator().manual_seed(1))
        for offset in (0, 1):
            kept = mmcv.ops.nms(boxes, scores, 0.4, offset=offset)[1]
            assert torch.equal(kept, mmcv_ops.nms(boxes, scores, 0.4, offset))


@needs_compiled
@pytest.mark.parametrize(('n', 'class_agnostic'), [(60, False), (60, True), (0, True)])
def test_batched_nms_equals_compiled(n, class_agnostic, monkeypatch) -> None:
    """mmcv's ``batched_nms`` gives the same with its own kernel and with ours."""
    import mmcv.ops

    boxes, generator = _boxes(n), torch.Generator().manual_seed(1)
    scores, classes = torch.rand(n, generator=generator), torch.randint(4, (n,), generator=generator)
    args = (boxes, scores, classes, dict(type='nms', iou_threshold=0.4), class_agnostic)
    compiled_boxes, compiled_kept = mmcv.ops.batched_nms(*args)
    assert len(compiled_kept) < n or n == 0  # some are dropped, or there is nothing to compare
    fallback = ModuleType('fallback')
    mmcv_ops.fill_ext_module(fallback)
    monkeypatch.setattr(sys.modules['mmcv.ops.nms'], 'ext_module', fallback)
    ours, kept = mmcv.ops.batched_nms(*args)
    assert torch.equal(ours, compiled_boxes)
    assert torch.equal(kept, compiled_kept)
