"""Histories of logged numbers end where the log's windows end, and what is logged stays the same."""

import json
from pathlib import Path

import pytest
from mmengine.runner import LogProcessor

from mmpl.compat import load_checkpoint
from mmpl.engine import LogHistoryHook
from mmpl.engine.hooks.log_history_hook import widest_window
from tests.faults.runs import run


@pytest.mark.parametrize(
    ('windows', 'expected'),
    [((), 10), ((25,), 25), (('epoch',), 40), (('epoch', 50), 50), (('global',), None), ((None,), None)],
)
def test_the_widest_window_counts(windows: tuple, expected: int | None) -> None:
    custom = [dict(data_src='loss', log_name=str(w), window_size=w, method_name='mean') for w in windows]
    assert widest_window(LogProcessor(custom_cfg=custom), epoch_length=40) == expected


def logged(work_dir: Path) -> list[dict]:
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [{key: value for key, value in line.items() if 'time' not in key} for line in lines]


@pytest.mark.parametrize(('window', 'kept'), [('epoch', 10), ('global', 18)])
def test_bounded_histories_change_no_log(window: str, kept: int, tmp_path: Path, monkeypatch) -> None:
    custom = [dict(data_src='loss', log_name='smooth', window_size=window, method_name='mean')]
    fields = dict(log_processor=dict(window_size=4, custom_cfg=custom))
    monkeypatch.setattr(LogHistoryHook, 'after_train_iter', lambda *args, **kwargs: None)
    run(tmp_path / 'all', **fields)
    monkeypatch.undo()
    monkeypatch.setattr('mmpl.engine.hooks.log_history_hook.MIN_LENGTH', 10)
    run(tmp_path / 'bounded', **fields)
    assert len(logged(tmp_path / 'all')) == 18 and logged(tmp_path / 'all') == logged(tmp_path / 'bounded')
    for name, length in (('all', 18), ('bounded', kept)):
        hub = load_checkpoint(tmp_path / name / 'epoch_3.pth')['message_hub']
        assert len(hub['log_scalars']['train/loss'].data[0]) == length


def test_the_config_in_a_checkpoint_is_formatted_again_when_it_changes(tmp_path: Path) -> None:
    runner = run(tmp_path, epochs=1)
    text = runner.cfg.pretty_text
    assert runner.cfg.pretty_text is text and load_checkpoint(tmp_path / 'epoch_1.pth')['meta']['cfg'] == text
    runner.cfg.model.backbone.drop_rate = 0.25
    assert 'drop_rate=0.25' in runner.cfg.pretty_text and 'drop_rate=0.25' not in text
