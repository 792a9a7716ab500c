"""Pictures of what a fine-tuned model predicts, drawn by the OpenMMLab visualizers, and one sheet of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from .pictures import resize_nearest

SCORE_THRESHOLD = 0.3
"""Detections below this confidence are not drawn (mmdet's default)."""
_SIDE = 288  # pixels of the shorter side that is drawn on: the visualizers' lines and letters have fixed sizes
_GOOD, _BAD, _INK = '#009E73', '#D55E00', '#222222'


def _read(sample: Any) -> tuple[np.ndarray, int]:
    """The sample's image, RGB (H * k, W * k, 3) uint8, and the whole factor k by which it was enlarged."""
    with Image.open(sample.img_path) as file:
        pixels = np.asarray(file.convert('RGB'))
    height, width = pixels.shape[:2]
    factor = max(1, round(_SIDE / min(height, width)))
    return resize_nearest(pixels, height * factor, width * factor), factor


def _enlarge(masks: torch.Tensor, factor: int) -> torch.Tensor:
    """Repeat the last two dimensions of (..., H, W)."""
    return masks.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)


def _semantic(sample: Any, meta: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Ground truth and prediction of an mmseg ``SegDataSample``, each (H, W, 3) uint8."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    from mmseg.visualization import SegLocalVisualizer

    image, factor = _read(sample)
    visualizer = SegLocalVisualizer(alpha=0.6)
    visualizer.dataset_meta = dict(meta)

    def draw(pixel_data: Any) -> np.ndarray:
        shown = SegDataSample(gt_sem_seg=PixelData(data=_enlarge(pixel_data.data.cpu(), factor)))
        visualizer.add_datasample('', image, shown, draw_pred=False, with_labels=False)
        return visualizer.get_image()

    return {'image': image, 'truth': draw(sample.gt_sem_seg), 'prediction': draw(sample.pred_sem_seg)}


def _instances(sample: Any, meta: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Ground truth and prediction of an mmdet ``DetDataSample``, each (H, W, 3) uint8."""
    from mmdet.structures import DetDataSample
    from mmdet.visualization import DetLocalVisualizer
    from mmengine.structures import InstanceData

    image, factor = _read(sample)
    visualizer = DetLocalVisualizer(line_width=2, alpha=0.6)
    visualizer.dataset_meta = dict(meta)

    def draw(instances: Any) -> np.ndarray:
        if len(instances) == 0:
            return image
        boxes, masks = instances.bboxes, instances.masks
        boxes = torch.as_tensor(getattr(boxes, 'tensor', boxes)).cpu().float()
        masks = torch.as_tensor(masks.to_ndarray() if hasattr(masks, 'to_ndarray') else masks).cpu()
        names = [meta['classes'][label].removeprefix('digit_') for label in instances.labels]
        if 'scores' in instances:
            names = [f'{name} {score:.2f}' for name, score in zip(names, instances.scores, strict=True)]
        shown = InstanceData(
            bboxes=boxes * factor, labels=instances.labels.cpu(), masks=_enlarge(masks, factor), label_names=names
        )
        visualizer.add_datasample('', image, DetDataSample(gt_instances=shown), draw_pred=False)
        return visualizer.get_image()

    found = sample.pred_instances
    return {
        'image': image,
        'truth': draw(sample.gt_instances),
        'prediction': draw(found[found.scores >= SCORE_THRESHOLD]),
    }


def draw_predictions(samples: Sequence[Any], meta: Mapping[str, Any], folder: str | Path) -> list[dict[str, Any]]:
    """Draw ground truth and prediction of each sample into a folder.

    Args:
        samples: What ``model.test_step`` returned: data samples of mmpretrain, mmseg or mmdet, with ``img_path``.
        meta: ``metainfo`` of the data set: ``classes`` and, for maps and instances, ``palette``.
        folder: Where to.

    Returns:
        One dict per sample with file names: ``image``; ``truth`` and ``prediction`` for maps and instances; ``caption``
        and ``correct`` for classification.

    Raises:
        TypeError: If a sample holds no prediction that can be drawn.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    described = []
    for index, sample in enumerate(samples):
        entry: dict[str, Any] = {}
        if 'pred_sem_seg' in sample:
            drawn = _semantic(sample, meta)
        elif 'pred_instances' in sample:
            drawn = _instances(sample, meta)
        elif 'pred_label' in sample:
            drawn = {'image': _read(sample)[0]}
            label = int(sample.pred_label)
            name = meta['classes'][label].removeprefix('digit_')
            entry = {
                'caption': f'{name}  {float(sample.pred_score[label]):.2f}',
                'correct': label == int(sample.gt_label),
            }
        else:
            raise TypeError(f'{type(sample).__name__} holds none of pred_sem_seg, pred_instances, pred_label')
        for what, pixels in drawn.items():
            entry[what] = f'{index}_{what}.png'
            Image.fromarray(pixels).save(folder / entry[what])
        described.append(entry)
    return described


class _Sheet:
    """A figure that is filled with pictures; lengths in units of one picture's side."""

    def __init__(self, width: float, height: float, inches: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width * inches, height * inches), facecolor='white')
        self.canvas = FigureCanvasAgg(self.figure)

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        self.figure.text(x / self.width, 1 - y / self.height, text, parse_math=False, **style)

    def image(self, x: float, y: float, side: float, path: Path, frame: str | None = None) -> None:
        box = (x / self.width, 1 - (y + side) / self.height, side / self.width, side / self.height)
        axes = self.figure.add_axes(box)
        with Image.open(path) as file:
            axes.imshow(np.asarray(file.convert('RGB')), interpolation='antialiased')
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(visible=frame is not None, color=frame or 'none', linewidth=2.5)


def draw_sheet(
    blocks: Mapping[str, Mapping[str, tuple[Path, Sequence[Mapping[str, Any]]]]], out: str | Path, colours: int = 255
) -> Path:
    """Put the pictures of all tasks and encoders onto one sheet.

    Maps and instances get a column of ground truth and a column for each encoder; classified images a row for each
    encoder, with the predicted class and its probability, framed green if right and red if wrong.

    Args:
        blocks: Heading -> encoder -> folder of its pictures and what :func:`draw_predictions` returned. All encoders of
            a heading must show the same images.
        out: The PNG to write.
        colours: Size of the PNG's palette; it keeps the file small.

    Returns:
        The file.
    """
    maps = {k: v for k, v in blocks.items() if all('truth' in e for _, entries in v.values() for e in entries)}
    labels = {k: v for k, v in blocks.items() if k not in maps}
    gap, top = 0.06, 0.34
    widths = {
        heading: max((len(entries) for _, entries in encoders.values()), default=0) * (1 + gap)
        for heading, encoders in maps.items()
    }
    names = list(dict.fromkeys(name for encoders in blocks.values() for name in encoders))
    side = 0.5
    left = 0.3
    height = (len(names) + 1) * (1 + gap) + top if maps else 0.0
    width = left + sum(widths.values()) + 0.15 * max(len(maps) - 1, 0)
    per_row = max((len(entries) for v in labels.values() for _, entries in v.values()), default=0)
    width = max(width, left + per_row * (side + gap))
    sheet = _Sheet(width + gap, height + len(labels) * (top + len(names) * (side + 0.16)) + gap, inches=2.0)

    x = left
    for heading, encoders in maps.items():
        sheet.text(x, 0.06, heading, fontsize=12, fontweight='bold', color=_INK, va='top')
        first = next(iter(encoders.values()))
        rows = [('ground truth', first, 'truth'), *((name, encoders[name], 'prediction') for name in encoders)]
        for row, (_, (folder, entries), what) in enumerate(rows):
            for column, entry in enumerate(entries):
                sheet.image(x + column * (1 + gap), top + row * (1 + gap), 1, Path(folder) / entry[what])
        x += widths[heading] + 0.15
    for row, name in enumerate(['ground truth', *names] if maps else []):
        middle = top + row * (1 + gap) + 0.5
        sheet.text(left / 2, middle, name, fontsize=11, color=_INK, rotation=90, ha='center', va='center')
    y = height
    for heading, encoders in labels.items():
        sheet.text(left, y + 0.06, heading, fontsize=12, fontweight='bold', color=_INK, va='top')
        y += top
        for name, (folder, entries) in encoders.items():
            sheet.text(left / 2, y + side / 2, name, fontsize=8, color=_INK, rotation=90, ha='center', va='center')
            for column, entry in enumerate(entries):
                colour = _GOOD if entry['correct'] else _BAD
                at = left + column * (side + gap)
                sheet.image(at, y, side, Path(folder) / entry['image'], colour)
                sheet.text(
                    at + side / 2, y + side + 0.02, entry['caption'], fontsize=8, color=colour, ha='center', va='top'
                )
            y += side + 0.16
    sheet.canvas.draw()
    pixels = np.asarray(sheet.canvas.buffer_rgba())[..., :3]
    out = Path(out)
    Image.fromarray(pixels).quantize(colours, dither=Image.Dither.NONE).save(out, optimize=True)
    return out
