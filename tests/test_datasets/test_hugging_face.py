"""Rows of Hugging Face data sets: what is refused, what is bad, and other ways to store them."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope

from mmpl.apis.check_dataset import main as check
from mmpl.datasets import GuardedDataset
from mmpl.datasets.hugging_face import RowsError, row_path
from tests.test_datasets.sources import content, write_rows

datasets = pytest.importorskip('datasets')


@pytest.fixture(autouse=True)
def _scope() -> None:
    init_default_scope('mmpretrain')


def test_bad_rows_are_replaced_and_found_by_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One without an image, and one that is cut off."""
    contents: list[bytes | None] = [content(number) for number in range(12)]
    contents[3], contents[4] = None, content(4)[:400]
    cfg = write_rows(tmp_path / 'rows', contents)
    report = tmp_path / 'bad.jsonl'
    dataset = GuardedDataset(cfg, report=str(report))
    for index in range(len(dataset)):
        assert dataset[index]['inputs'].shape == (3, 16, 16)
    paths = [row_path(str(tmp_path / 'rows'), '', '', 'picture', row) for row in range(12)]
    text = report.read_text()
    assert text.count('\n') == 2 and all(f'{paths[row]}"' in text for row in (3, 4))
    config = tmp_path / 'config.py'
    config.write_text(f"default_scope = 'mmpretrain'\ntrain_dataloader = dict(dataset={cfg})\n")
    assert check([str(config)]) == 1
    said = capsys.readouterr().out
    assert [row for row in range(12) if repr(paths[row]) in said] == [3, 4]


def test_folders_of_images_and_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``load_dataset`` makes of a folder of images, and what ``save_to_disk`` makes of several splits."""
    monkeypatch.setenv('HF_DATASETS_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
    pictures = tmp_path / 'pictures' / 'train' / 'cat'
    pictures.mkdir(parents=True)
    for number in (1, 3, 5):
        (pictures / f'{number}.png').write_bytes(content(number))
    load = [dict(type='mmpl.LoadImage')]
    cfg = dict(type='mmpl.HuggingFaceDataset', source=str(tmp_path / 'pictures'), split='train', pipeline=load)
    loaded = [sample['img'] for sample in DATASETS.build(cfg)]
    both = datasets.load_dataset(str(tmp_path / 'pictures'))
    both['test'] = both['train'].select([1])
    both.save_to_disk(str(tmp_path / 'saved'))
    saved = DATASETS.build(dict(cfg, source=str(tmp_path / 'saved')))
    theirs = [np.asarray(row['image'])[..., ::-1] for row in both['train']]
    for own, again, other in zip(loaded, (sample['img'] for sample in saved), theirs, strict=True):
        assert np.array_equal(own, other) and np.array_equal(again, other)
    assert len(DATASETS.build(dict(cfg, source=str(tmp_path / 'saved'), split='test'))) == 1
    (pictures / '3.png').unlink()  # the first names files, the second holds them
    with pytest.raises(FileNotFoundError):
        DATASETS.build(cfg)[1]
    assert np.array_equal(saved[1]['img'], loaded[1])
    with pytest.raises(RowsError, match="`split` must be one of 'train', 'test' of .*, but got 'val'"):
        DATASETS.build(dict(cfg, source=str(tmp_path / 'saved'), split='val'))
    with pytest.raises(RowsError, match='`name` .* is not allowed'):
        DATASETS.build(dict(cfg, source=str(tmp_path / 'saved'), name='plain'))


@pytest.mark.parametrize('form', [dict(type='torch', columns=['label']), dict(type='pandas'), dict(type='arrow')])
def test_a_format_that_was_saved_changes_nothing(form: dict, tmp_path: Path) -> None:
    rows = dict(picture=[dict(bytes=content(number), path=None) for number in range(3)], label=[0, 1, 2])
    features = datasets.Features(picture=datasets.Image(), label=datasets.Value('int64'))
    made = datasets.Dataset.from_dict(rows, features=features)
    images = []
    for name in ('plain', 'formed'):
        if name == 'formed':
            made.set_format(**form)
        made.save_to_disk(str(tmp_path / name))
        cfg = dict(type='mmpl.HuggingFaceDataset', source=str(tmp_path / name), pipeline=[dict(type='mmpl.LoadImage')])
        images.append([sample['img'] for sample in DATASETS.build(cfg)])
    assert all(np.array_equal(one, other) for one, other in zip(*images, strict=True))


def test_what_is_refused(tmp_path: Path) -> None:
    cfg = write_rows(tmp_path / 'rows')
    for fields, said in (
        (dict(column='label'), "`column` must be one of those that hold images .'picture'.*, but got 'label'"),
        (dict(split='train'), "`split` must be left out: .* holds one data set, but got 'train'"),
        (dict(source=''), "`source` must be a folder, .* but got ''"),
        (dict(source='s3://x'), '`source` must be a folder, '),
    ):
        with pytest.raises(RowsError, match=said):
            DATASETS.build(dict(cfg, **fields))
    rows = datasets.load_from_disk(str(tmp_path / 'rows'))
    other = rows.select_columns('picture').rename_column('picture', 'other')
    for name, wrong, said in (
        ('two', datasets.concatenate_datasets([rows, other], axis=1), "'picture', 'other'.*and has to be said"),
        ('none', rows.remove_columns('picture'), "none; there are 'label'"),
    ):
        wrong.save_to_disk(str(tmp_path / name))
        with pytest.raises(RowsError, match=said):
            DATASETS.build(dict(cfg, source=str(tmp_path / name)))
