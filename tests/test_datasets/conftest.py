"""What the tests of data share."""

from pathlib import Path

import pytest


@pytest.fixture(scope='session')
def embedded_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of embedded builds; whoever needs one makes it there, or finds it made."""
    return tmp_path_factory.mktemp('embedded')
