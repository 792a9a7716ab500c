"""Pictures of what a fine-tuned model predicts, drawn by the OpenMMLab visualizers, and one sheet of them."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from mmpl.visualization.drawing import BAD, GOOD, draw_images, draw_text, join, rasterise, theme
from mmpl.visualization.pictures import resize_nearest

SCORE_THRESHOLD = 0.3
"""Detections below this confidence are not drawn (mmdet's default)."""
_CAPTION = 15  # letters in a line below a picture
_SIDE = 288  # pixels of the shorter side that is drawn on: the visualizers' lines and letters have fixed sizes


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
        names = [_class_name(meta, label) for label in instances.labels]
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


def _class_name(meta: Mapping[str, Any], label: Any) -> str:
    return meta['classes'][label].removeprefix('digit_')


def draw_predictions(samples: Sequence[Any], meta: Mapping[str, Any], folder: str | Path) -> list[dict[str, Any]]:
    """Draw ground truth and prediction of each sample into a folder.

    Args:
        samples: What ``model.test_step`` returned: data samples of mmpretrain, mmseg or mmdet, with
            ``img_path``, or questions with their answers.
        meta: ``metainfo`` of the data set: ``classes`` and, for maps and instances, ``palette``.
        folder: Where to.

    Returns:
        One dict per sample with file names: ``image``; ``truth`` and ``prediction`` for maps and instances; ``caption``
        and ``correct`` for classification and questions.

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
            entry['caption'] = f'{_class_name(meta, label)}  {float(sample.pred_score[label]):.2f}'
            entry['correct'] = label == int(sample.gt_label)
        elif 'pred_answer' in sample:
            drawn = {'image': _read(sample)[0]}
            entry['correct'] = sample.pred_answer in sample.answers
            entry['caption'] = f'{textwrap.fill(sample.question, _CAPTION)}\n→ {sample.pred_answer}'
        else:
            raise TypeError(
                f'{type(sample).__name__} holds none of pred_sem_seg, pred_instances, pred_label, pred_answer'
            )
        for what, pixels in drawn.items():
            entry[what] = f'{index}_{what}.png'
            Image.fromarray(pixels).save(folder / entry[what])
        described.append(entry)
    return described


def draw_sheet(
    blocks: Mapping[str, Mapping[str, tuple[Path, Sequence[Mapping[str, Any]]]]], out: str | Path, colours: int = 255
) -> Path:
    """Put the pictures of all tasks and encoders onto one sheet.

    A block has a row for each encoder. Maps and instances stand below their ground truth, one block beside the other;
    below them stand classified images, with the predicted class and its probability, or the question and the answer,
    framed green if right and orange-red if wrong.

    Args:
        blocks: Heading -> encoder -> folder of its pictures and what :func:`draw_predictions` returned. All encoders of
            a heading must show the same images.
        out: The PNG to write.
        colours: Size of the PNG's palette; it keeps the file small.

    Returns:
        The file.
    """
    maps: list[Image.Image] = []
    classified: list[Image.Image] = []
    with theme():
        for heading, encoders in blocks.items():
            rows = [draw_text(heading, 4, 11, 'ink', 'bold')]
            has_truth = all('truth' in entry for _, entries in encoders.values() for entry in entries)
            if has_truth:
                folder, entries = next(iter(encoders.values()))
                rows.append(_draw_row('ground truth', [(folder / entry['truth'], '', '') for entry in entries], 1.35))
            for name, (folder, entries) in encoders.items():
                if has_truth:
                    rows.append(_draw_row(name, [(folder / entry['prediction'], '', '') for entry in entries], 1.35))
                else:
                    shown = [(folder / e['image'], e['caption'], GOOD if e['correct'] else BAD) for e in entries]
                    rows.append(_draw_row(name, shown, 0.9))
            (maps if has_truth else classified).append(join(rows))
    sheet = join([join(row, horizontal=True, gap=0.1) for row in (maps, *([block] for block in classified)) if row])
    sheet = ImageOps.expand(sheet, 12, 'white')
    sheet.quantize(colours, dither=Image.Dither.NONE).save(out, optimize=True)
    return Path(out)


def _draw_row(name: str, files: Sequence[tuple[Path, str, str]], side: float) -> Image.Image:
    """Pictures with captions and the colours of their frames, and a name upright beside them."""
    images = [(np.asarray(Image.open(file).convert('RGB')), caption, colour) for file, caption, colour in files]
    label = Figure(figsize=(0.3, side))
    label.text(0.6, 0.5, textwrap.fill(name, int(13 * side)), rotation=90, ha='center', va='center', size=8)
    pictures = [rasterise(draw_images(images, side * len(images)))] if images else []
    return join([rasterise(label), *pictures], horizontal=True)
