"""A check that the data sets, the heads and what evaluates them agree, before a run begins."""

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmpl.datasets.agreement import LOOKED_AT, TOLERATED, Evaluator, Findings, Side, check_data, difference, sides_of
from mmpl.registry import HOOKS
from mmpl.utils.dist import on_main, unwrapped
from mmpl.utils.fields import Count, Share, checked

from .stride_check import check_strides


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Refuse to run when data sets, annotations, heads and evaluators do not agree; say what is only suspicious.

    The three projects number classes silently: by sorted folders, by the order of a COCO file, by values of pixels. A
    name in another case, a missing folder or a value that is ignored then costs a class, or all of them, and nothing is
    said. Before the first step, this looks at

    - class names and their order, of all data sets of the run, and ``num_classes`` of every module that has it;
    - images of class folders and lists: labels, empty classes, folders of the same name with other numbers;
    - COCO files, the evaluator's too: categories, what annotations refer to, boxes, masks, images and their sizes;
    - label maps: values, channels, sizes, ``reduce_zero_label``, what is ignored, files that are left out;
    - strides of anchors and RoIs, against those of the feature pyramid;
    - a checkpoint that is tested or resumed: the class names that it was trained with.

    Docs: ``docs/own_annotations.md``. The main process looks, the others wait for what it says.

    Args:
        looked_at: How many label maps of each data set are read, evenly spaced. Where a class is in none of them, eight
            times as many. Sizes are compared of up to 2,000 images.
        tolerated: Share of the annotations of a COCO file whose box or mask may be faulty; up to it there is a warning.
            COCO itself has a few.
    """

    @checked()
    def __init__(self, looked_at: Count = LOOKED_AT, tolerated: Share = TOLERATED) -> None:
        self.looked_at = looked_at
        self.tolerated = tolerated

    def before_run(self, runner: Runner) -> None:
        """Compare what will be trained, validated or tested; weights are not loaded yet."""
        found, strides = on_main(lambda: self._look(runner))
        if strides:
            runner.logger.info(f'{type(self).__name__}: {strides}')
        for warning in found.warnings:
            runner.logger.warning(f'{type(self).__name__}: {warning}')
        found.raise_errors()

    def _look(self, runner: Runner) -> tuple[Findings, str | None]:
        loops = {split: loop for split in ('train', 'val', 'test') if (loop := _built_loop(runner, split)) is not None}
        sides = [
            side for split, loop in loops.items() for side in sides_of(f'{split}_dataloader.dataset', _dataset(loop))
        ]
        model = unwrapped(runner.model)
        cfg = getattr(runner, 'cfg', {})
        counts = set(_class_counts(model).values())
        found = check_data(
            sides,
            looked_at=self.looked_at,
            tolerated=self.tolerated,
            evaluators={split: _evaluators(cfg, split, loop) for split, loop in loops.items()},
            ignored=_ignored(model, loops),
            head_classes=counts.pop()[0] if len(counts) == 1 else None,
        )
        _compare_heads(found, model, sides)
        _check_weights_of_classes(found, model)
        _check_topk(found, loops, sides)
        return found, check_strides(found, model)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the classes of a model that is tested, validated or resumed with those it was trained with."""
        trains = _built_loop(runner, 'train') is not None
        if trains and not getattr(runner, '_resume', False):
            return  # weights to start from may be of other classes
        known = ((checkpoint.get('meta') or {}).get('dataset_meta') or {}).get('classes')
        if known is None or isinstance(known, str):
            return
        for split in ('train', 'val', 'test'):
            loop = _built_loop(runner, split)
            for side in sides_of(f'{split}_dataloader.dataset', _dataset(loop)) if loop is not None else []:
                text = difference('the checkpoint', known, f'`{side.field}`', side.classes) if side.classes else None
                if text:
                    raise ValueError(text)


def _built_loop(runner: Runner, split: str) -> Any:
    """The loop of a split, if the run has it; it is not built for this."""
    loop = getattr(runner, f'_{split}_loop', None)
    return loop if isinstance(loop, BaseLoop) else None


def _dataset(loop: Any) -> Any:
    return loop.dataloader.dataset


def _class_counts(model: nn.Module) -> dict[str, tuple[int, str]]:
    """``num_classes`` and type of all modules that have it, by their names."""
    return {
        name: (count, type(module).__name__)
        for name, module in model.named_modules()
        # mmdet's RPN tells objects from background only, whatever its num_classes says.
        if isinstance(count := getattr(module, 'num_classes', None), int) and not name.endswith('rpn_head')
    }


def _compare_heads(found: Findings, model: nn.Module, sides: list[Side]) -> None:
    named = [s for s in sides if s.classes is not None and not isinstance(s.dataset.metainfo['classes'], str)]
    for side in named[:1]:  # the others must have the same classes
        classes = side.classes or ()
        for name, (count, kind) in _class_counts(model).items():
            if count != len(classes):
                found.error(
                    f'`model.{name}.num_classes`={count} ({kind}), but `{side.field}` ({type(side.dataset).__name__}) '
                    f'has {len(classes)} classes: {list(classes)[:5]}{" ..." if len(classes) > 5 else ""}'
                )


def _check_weights_of_classes(found: Findings, model: nn.Module) -> None:
    """A loss weighs each class, mmdet's also the background."""
    modules = dict(model.named_modules())
    for name, module in modules.items():
        weights, head = getattr(module, 'class_weight', None), modules.get(name.rpartition('.')[0])
        count = getattr(head, 'num_classes', None)
        if isinstance(weights, (list, tuple)) and isinstance(count, int) and len(weights) not in (count, count + 1):
            found.error(f'`model.{name}.class_weight` has {len(weights)} weights for {count} classes: {list(weights)}')


def _check_topk(found: Findings, loops: Mapping[str, Any], sides: list[Side]) -> None:
    """An accuracy among the best k needs as many classes."""
    for side in sides:
        for metric in getattr(getattr(loops[side.split], 'evaluator', None), 'metrics', []):
            topk = getattr(metric, 'topk', None)
            if isinstance(topk, (list, tuple)) and side.classes is not None and max(topk) > len(side.classes):
                found.error(
                    f'`{side.split}_evaluator.topk`={tuple(topk)} ({type(metric).__name__}), but `{side.field}` has '
                    f'{len(side.classes)} classes'
                )


def _ignored(model: nn.Module, loops: Mapping[str, Any]) -> dict[str, int | None]:
    """Labels of pixels that are ignored, by the fields that say so: decode heads, evaluators, what fills borders."""
    found: dict[str, int | None] = {}
    for name, module in model.named_modules():
        if hasattr(module, 'num_classes') and hasattr(module, 'ignore_index'):
            found[f'model.{name}.ignore_index'] = module.ignore_index
    filling = getattr(getattr(model, 'data_preprocessor', None), 'seg_pad_val', None)
    if found and filling is not None:
        found['model.data_preprocessor.seg_pad_val'] = filling
    for split, loop in loops.items():
        for metric in getattr(getattr(loop, 'evaluator', None), 'metrics', []):
            if hasattr(metric, 'ignore_index'):
                found[f'{split}_evaluator.ignore_index'] = metric.ignore_index
    return found


def _evaluators(cfg: Mapping, split: str, loop: Any) -> list[Evaluator]:
    """What scores boxes and masks with COCO's tools, and the annotation file it has read."""
    written = cfg.get(f'{split}_evaluator')
    given = [
        part for part in (written if isinstance(written, (list, tuple)) else [written]) if isinstance(part, Mapping)
    ]
    metrics = getattr(getattr(loop, 'evaluator', None), 'metrics', [])
    result = []
    for index, metric in enumerate(metrics):
        if hasattr(metric, '_coco_api'):
            path = given[index].get('ann_file') if len(given) == len(metrics) else None
            content = getattr(metric._coco_api, 'dataset', None)
            field = f'{split}_evaluator' + (f'[{index}]' if len(metrics) > 1 else '')
            result.append(Evaluator(field, path, content, 'segm' in metric.metrics))
    return result
