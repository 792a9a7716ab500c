"""Read the scalars that a run logged, across resumes."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_AXES = frozenset({'step', 'epoch', 'iter'})


@dataclass
class Scalars:
    """Everything a run logged.

    Attributes:
        series: Name -> list of (iterations done, value), in rising order. Iterations are those of the last start: if a
            run went on with epochs of another length, earlier ones are scaled.
        iters_per_epoch: None if the log tells no epochs.
        epochs: Epoch of the last line of training, 0 if none.
        iterations: Iterations done at that line.
    """

    series: dict[str, list[tuple[float, float]]]
    iters_per_epoch: float | None = None
    epochs: int = 0
    iterations: int = 0

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """Series as (x, y); x in epochs where the log tells them, else in iterations."""
        points = self.series.get(name, [])
        scale = self.iters_per_epoch or 1.0
        return [step / scale for step, _ in points], [value for _, value in points]

    @property
    def x_label(self) -> str:
        """What x of :meth:`curve` counts."""
        return 'epoch' if self.iters_per_epoch else 'iteration'


def log_files(work_dir: str | Path) -> list[Path]:
    """The JSON log of each start of a run, oldest first.

    mmengine makes a folder named by the time of each start, with ``vis_data/scalars.json`` and, with the same lines,
    ``vis_data/<time>.json``; the first that exists is taken.
    """
    files = []
    for folder in sorted(path.parent for path in Path(work_dir).glob('*/vis_data') if path.is_dir()):
        candidates = [folder / 'vis_data' / 'scalars.json', folder / 'vis_data' / f'{folder.name}.json']
        files += [path for path in candidates if path.is_file()][:1]
    return files


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    lines = path.read_text(encoding='utf-8').splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                return  # a killed run may leave half a line at the end
            raise ValueError(f'line {number} of {path.name} is not JSON: {error}') from error
        if isinstance(entry, dict):
            yield entry


def _iteration(entry: Mapping[str, Any]) -> int | None:
    """Iterations done. Lines of mmengine's validation loop have only a step, which counts epochs: None."""
    step = entry.get('iter', entry.get('step') if 'loss' in entry else None)
    return step if isinstance(step, int) else None


def _epoch_lengths(starts: Sequence[Sequence[Mapping[str, Any]]]) -> list[float | None]:
    """Iterations per epoch in each start of a run, from its training lines.

    A line (epoch e, iteration i) says that e epochs have at least i iterations, and e - 1 have fewer. What one start
    says counts for the others that it does not contradict: one that ended early says little. None: not known.
    """
    bounds = []
    for entries in starts:
        told = [(e['epoch'], e['iter']) for e in entries if isinstance(e.get('epoch'), int) and e.get('iter', 0) > 0]
        least = max((iteration / epoch for epoch, iteration in told if epoch > 0), default=None)
        most = min((iteration / (epoch - 1) for epoch, iteration in told if epoch > 1), default=math.inf)
        bounds.append((least, most))
    return [
        None
        if least is None or least >= most  # it went on inside of an epoch of another length: nothing follows
        else max(other for other, _ in bounds if other is not None and least <= other < most)
        for least, most in bounds
    ]


def read_scalars(work_dir: str | Path, by_epoch: bool = True) -> Scalars:
    """Read all scalars of a run, of all its starts; without any log, no series.

    A run that was killed and resumed has one log per start. What an earlier start logged at or after the first step of
    a later one was done again, and only the later values are kept. ``by_epoch`` is whether the run counts epochs:
    mmengine writes ``epoch`` 1 into each line of one that counts iterations.

    Raises:
        ValueError: If a line before the last of a log is not JSON.
    """
    starts = [
        [(step, entry) for entry in _lines(path) if (step := _iteration(entry)) is not None]
        for path in log_files(work_dir)
    ]
    training = [[entry for _, entry in timed if 'loss' in entry] for timed in starts]
    lengths = _epoch_lengths(training) if by_epoch else [None] * len(training)
    last = next((length for length in reversed(lengths) if length is not None), None)
    series: dict[str, dict[float, float]] = {}  # name -> step -> value
    for timed, length in zip(starts, lengths, strict=True):
        scale = 1 if length is None or last is None or length == last else last / length
        start = min((scale * step for step, _ in timed), default=None)
        if start is not None:
            kept = {name: {step: y for step, y in points.items() if step < start} for name, points in series.items()}
            series = {name: points for name, points in kept.items() if points}
        for step, entry in timed:
            for name, value in entry.items():
                if name not in _AXES and isinstance(value, int | float) and not isinstance(value, bool):
                    series.setdefault(name, {})[scale * step] = float(value)
    ordered = {name: sorted(points.items()) for name, points in series.items()}
    newest: Mapping[str, Any] = next((entries[-1] for entries in reversed(training) if entries), {})
    epochs, iterations = newest.get('epoch') if by_epoch else 0, _iteration(newest)
    return Scalars(ordered, last, epochs if isinstance(epochs, int) else 0, iterations or 0)
