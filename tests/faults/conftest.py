"""What the tests of this folder share."""

import pytest

from tests.faults.runs import VARIANTS, final_state, run


@pytest.fixture(scope='session')
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """The final states of uninterrupted runs of :data:`VARIANTS`, made when they are first asked for."""

    class Runs(dict):
        def __missing__(self, name: str) -> dict:
            folder = tmp_path_factory.mktemp(name)
            run(folder, **VARIANTS[name])
            self[name] = final_state(folder / 'epoch_3.pth')
            return self[name]

    return Runs()
