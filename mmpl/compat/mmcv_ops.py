"""``mmcv._ext`` without a compiler: torchvision's operators under the names that mmcv's Python code calls.

``mmcv.ops`` reaches all its compiled operators through one extension module. Where that module was not built, this one
takes its place (see :mod:`mmpl._mmcv_ext_finder` for how) with the operators that UperNet and Mask R-CNN need: NMS and
RoIAlign, forward and backward, from torchvision, for CPU and CUDA. Every other operator can be imported, as mmcv's
modules require, and raises :class:`NotImplementedError` when it is called. mmengine's report of the environment, at the
head of every log, shows the replacement as mmcv's compiler.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torchvision
from torch import Tensor

HOW_TO_BUILD = (
    'To get the compiled operators, install mmcv with a C++ compiler and ninja present: '
    '`MMCV_WITH_OPS=1 pip install --no-build-isolation --no-binary :all: --no-deps onedl-mmcv` (where torch asks for '
    "C++20, with 'c++17' replaced in its setup.py), or, for upstream OpenMMLab, `mim install 'mmcv>=2.0.0'` where a "
    'wheel for your torch exists.'
)


def _computable(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast bfloat16, which torchvision's kernels lack, to float32; leave everything else alone."""
    return tuple(t.float() if t.dtype == torch.bfloat16 else t for t in tensors)


def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        bboxes: (N, 4) boxes as (x1, y1, x2, y2), in pixels.
        scores: (N,) scores.
        iou_threshold: A box is dropped when its IoU with a kept one is above this.
        offset: 0, or 1 where the coordinates are pixel indices, so that a width is ``x2 - x1 + 1``.

    Returns:
        (K,) indices of the kept boxes, by falling score.
    """
    bboxes, scores = _computable(bboxes, scores)
    if offset:
        bboxes = torch.cat([bboxes[:, :2], bboxes[:, 2:] + offset], dim=1)
    return torchvision.ops.nms(bboxes, scores.to(bboxes.dtype), iou_threshold)


def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, **settings: Any
) -> None:
    """Pool each region of interest from a feature map into ``output``.

    Args:
        input: (B, C, H, W) features.
        rois: (R, 5) regions as (index in the batch, x1, y1, x2, y2), in pixels of the image.
        output: (R, C, aligned_height, aligned_width), written in place.
        argmax_y: Unused; of max pooling only.
        argmax_x: Unused; of max pooling only.
        **settings: As in :func:`_roi_align`.
    """
    output.copy_(_roi_align(torch.ops.torchvision.roi_align, input, rois, (), **settings))


def roi_align_backward(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor, **settings: Any
) -> None:
    """Gradient of :func:`roi_align_forward` for its features, added to ``grad_input``, (B, C, H, W)."""
    kernel = torch.ops.torchvision._roi_align_backward
    grad_input += _roi_align(kernel, grad_output, rois, tuple(grad_input.shape), **settings)


def _roi_align(
    kernel: Callable,
    features: Tensor,
    rois: Tensor,
    shape: tuple[int, ...],
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> Tensor:
    """Call one of torchvision's kernels as mmcv calls its own.

    Args:
        kernel: Forward or backward.
        features: Features, or the gradient of what was pooled.
        rois: (R, 5), as in :func:`roi_align_forward`.
        shape: Of the features; of the backward pass only.
        aligned_height: Height of the output.
        aligned_width: Width of the output.
        spatial_scale: Feature map's size over the image's.
        sampling_ratio: Samples per output cell and direction; 0 means as many as there are input cells.
        pool_mode: 1 (average).
        aligned: Shift the region by half a pixel.
    """
    if pool_mode != 1:
        raise NotImplementedError(
            "mmcv's RoIAlign with pool_mode='max' has no counterpart in torchvision; use pool_mode='avg'. "
            + HOW_TO_BUILD
        )
    features, rois = _computable(features, rois)
    size = (float(spatial_scale), int(aligned_height), int(aligned_width))
    return kernel(features, rois.to(features.dtype), *size, *shape, int(sampling_ratio), bool(aligned))


def version_for_report() -> str:
    """What mmcv's environment report shows as its compiler, and as its CUDA version."""
    return 'none (operators of torchvision, provided by mmpl)'


PROVIDED: dict[str, Callable] = dict(
    nms=nms,
    roi_align_forward=roi_align_forward,
    roi_align_backward=roi_align_backward,
    get_compiler_version=version_for_report,
    get_compiling_cuda_version=version_for_report,
)


def missing_op(name: str) -> Callable:
    """A stand-in for the operator ``name`` that raises NotImplementedError when it is called."""

    def op(*args, **kwargs):
        raise NotImplementedError(
            f"mmcv's operator {name!r} needs mmcv's compiled extension, which is not installed; mmpl replaces only "
            f'nms and roi_align. {HOW_TO_BUILD}'
        )

    op.__name__ = op.__qualname__ = name
    return op


def fill_ext_module(module: ModuleType) -> None:
    """Give the new, empty ``mmcv._ext`` the operators of this file, and a stand-in for every other name."""

    def other(name: str) -> Callable:
        if name.startswith('__'):  # Python's own questions (__path__, __wrapped__, ...)
            raise AttributeError(f'module {module.__name__!r} has no attribute {name!r}')
        return missing_op(name)

    module.__dict__.update(PROVIDED, __doc__=__doc__, __getattr__=other)
