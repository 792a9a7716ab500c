"""``mmcv._ext`` without a compiler: torchvision's operators under the names that mmcv's Python code calls.

``mmcv.ops`` reaches all its compiled operators through one extension module. Where that module was not built, this one
takes its place (see :mod:`mmpl._mmcv_ext_finder` for how) with the operators that UperNet and Mask R-CNN need: NMS and
RoIAlign, forward and backward, from torchvision, for CPU and CUDA. Every other operator can be imported, as mmcv's
modules require, and raises :class:`NotImplementedError` when it is called. mmengine's report of the environment, at the
head of every log, shows the replacement as mmcv's compiler.
"""

from collections.abc import Callable
from types import ModuleType

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


def _check_average(pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError(
            "mmcv's RoIAlign with pool_mode='max' has no counterpart in torchvision; use pool_mode='avg'. "
            + HOW_TO_BUILD
        )


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pool each region of interest from a feature map into ``output``.

    Args:
        input: (B, C, H, W) features.
        rois: (R, 5) regions as (index in the batch, x1, y1, x2, y2), in pixels of the image.
        output: (R, C, aligned_height, aligned_width), written in place.
        argmax_y: Unused; of max pooling only.
        argmax_x: Unused; of max pooling only.
        aligned_height: Height of the output.
        aligned_width: Width of the output.
        spatial_scale: Feature map's size over the image's.
        sampling_ratio: Samples per output cell and direction; 0 means as many as there are input cells.
        pool_mode: 1 (average).
        aligned: Shift the region by half a pixel.

    Raises:
        NotImplementedError: ``pool_mode`` asks for max pooling.
    """
    _check_average(pool_mode)
    input, rois = _computable(input, rois)
    output.copy_(
        torch.ops.torchvision.roi_align(
            input,
            rois.to(input.dtype),
            float(spatial_scale),
            int(aligned_height),
            int(aligned_width),
            int(sampling_ratio),
            bool(aligned),
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of :func:`roi_align_forward` for its features, added to ``grad_input``.

    Args:
        grad_output: (R, C, aligned_height, aligned_width).
        rois: As in the forward pass.
        argmax_y: Unused.
        argmax_x: Unused.
        grad_input: (B, C, H, W), written in place.
        aligned_height: As in the forward pass.
        aligned_width: As in the forward pass.
        spatial_scale: As in the forward pass.
        sampling_ratio: As in the forward pass.
        pool_mode: As in the forward pass.
        aligned: As in the forward pass.

    Raises:
        NotImplementedError: ``pool_mode`` asks for max pooling.
    """
    _check_average(pool_mode)
    grad_output, rois = _computable(grad_output, rois)
    grad_input += torch.ops.torchvision._roi_align_backward(
        grad_output,
        rois.to(grad_output.dtype),
        float(spatial_scale),
        int(aligned_height),
        int(aligned_width),
        *grad_input.shape,
        int(sampling_ratio),
        bool(aligned),
    )


def get_compiler_version() -> str:
    """What mmcv's environment report shows as its compiler."""
    return 'none (operators of torchvision, provided by mmpl)'


def get_compiling_cuda_version() -> str:
    """What mmcv's environment report shows as its CUDA version."""
    return 'none (operators of torchvision, provided by mmpl)'


_OPS = (nms, roi_align_forward, roi_align_backward, get_compiler_version, get_compiling_cuda_version)
PROVIDED: dict[str, Callable] = {op.__name__: op for op in _OPS}


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
    """Give ``module`` the operators of this file, and a stand-in for every other name.

    Args:
        module: The new, empty module object for ``mmcv._ext``.
    """

    def other(name: str) -> Callable:
        if name.startswith('__'):  # Python's own questions (__path__, __wrapped__, ...)
            raise AttributeError(f'module {module.__name__!r} has no attribute {name!r}')
        return missing_op(name)

    module.__dict__.update(PROVIDED, __doc__=__doc__, __getattr__=other)
