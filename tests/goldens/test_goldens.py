"""What the package computes stays the same to the bit; see ``run.py`` for what is pinned and how values are written.

Every value is a test with its own id. A selection runs in CI; all others with ``pytest -m full tests/goldens``.

Where the processor rounds otherwise than the one that a value was written on (see ``run.CANARY``), losses are compared
within a bound, and what has no losses is skipped. To see on such a machine whether a change keeps the bits, write the
values of the commit before it into a copy of the repository.
"""

import pytest

from tests.goldens import run

BOUND = 1e-2  # of a loss, after twenty steps that began with a difference of one bit; 4e-5 was seen

SELECTION = (
    'train/pl_mae_demo/fp32/1',
    'train/pl_mae_demo/bf16/1',
    'train/pl_mae_demo/fp32/2',
    'train/pl_mae_vitb_fast/fp32/1',
    'train/pl_mae_vitb_fast/bf16/1',
    'train/msa_vitb/fp32/1',
    'train/msa_vitb/bf16/1',
    'train/msa_demo/fp32/2',
    'train/ablations/pl_mae_vitb_discrete/fp32/1',
    'train/ablations/pl_mae_vitb_discrete/bf16/1',
    'train/ablations/pl_mae_vitb_folds/fp32/1',
    'train/ablations/pl_mae_vitb_folds/bf16/1',
    'train/ablations/pl_mae_vitb_pixel_labels/fp32/1',
    'train/benchmarks/methods/pl_mae/fp32/1',
    'export/pl_mae_demo/student/mmpretrain',
    'export/pl_mae_demo/label_teacher/timm',
    'export/pl_mae_demo/recon_teacher/huggingface',
    'export/msa_demo/align_teacher/mmpretrain',
    'probe/pl_mae_demo',
    *(f'embedded/test/{variant}' for variant in run.VARIANTS),
)


def _marks(golden: str) -> list:
    marks = [pytest.mark.slow] if golden in SELECTION else [pytest.mark.full]
    return [*marks, pytest.mark.dist] if run.needs_processes(golden) else marks


@pytest.fixture(scope='module')
def goldens() -> dict[str, dict]:
    return run.read_goldens()


@pytest.fixture(scope='module')
def found(request, goldens) -> dict[str, dict]:
    """All that the chosen tests of this file ask for, measured together: the import is paid once."""
    ids = [item.callspec.params['golden'] for item in request.session.items if 'found' in item.fixturenames]
    return run.measure(golden for golden in dict.fromkeys([run.CANARY, *ids]) if golden in goldens)


def test_no_value_is_stale(goldens):
    """Fails for values whose config is no more. A new config may be pinned: ``run.py --write 'train/<config>*'``."""
    known = run.all_ids()
    stale = sorted(goldens.keys() - set(known))
    assert not stale, f'{run.GOLDENS.name} has values of what is no more; any `run.py --write ...` drops them: {stale}'
    assert set(SELECTION) <= set(known)


def test_the_hashes_are_of_the_losses(goldens):
    for golden, value in goldens.items():
        if 'losses' in value:
            assert value['losses_hash'] == run.hash_of_losses(value['losses']), golden
            assert [len(row) for row in value['losses']] == [run.STEPS] * int(golden[-1])


def test_a_difference_is_explained():
    before = dict(weights='a', children=dict(neck='1', head='2'), losses=[[1.0, 2.0, 3.0]])
    now = dict(weights='b', children=dict(neck='1', head='3', heads='4'), losses=[[1.0, 2.5, 2.0]])
    text = run.explain(before, now)
    assert 'process 0: step 2 is the first to differ: 2.0 -> 2.5 (+0.5, 0.25 of it)' in text
    assert 'weights that differ: head\n' in text and 'weights that are new: heads' in text
    assert run.explain(before, before) == ''


@pytest.mark.parametrize('golden', [pytest.param(golden, marks=_marks(golden)) for golden in run.read_goldens()])
def test_golden(golden, goldens, found):
    old, new = goldens[golden], found[golden]
    written_on = old.get('rounding', run.rounding(goldens[run.CANARY]))
    if {**old, 'rounding': ''} == {**new, 'rounding': ''}:
        return
    difference = f'{golden} is not what it was:\n{run.explain(old, new)}'
    if 'error' in new or golden.startswith('embedded/') or written_on == run.rounding(found[run.CANARY]):
        pytest.fail(difference)
    if 'losses' not in old:
        pytest.skip("this processor rounds otherwise: mmpretrain's MAE has other bits too")
    for before, now in zip(old['losses'], new['losses'], strict=True):
        assert now == pytest.approx(before, rel=BOUND), difference
    assert old['children'].keys() == new['children'].keys(), difference
