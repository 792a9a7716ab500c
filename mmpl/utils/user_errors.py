"""A mistake of the user ends a command with one line, not with a traceback."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Base of mmpl's errors that the user can mend and that are neither a ``ValueError`` nor an ``OSError``."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn errors in what the user gave into one line and exit code 1, in a block or in the function that it decorates.

    These are :class:`UserError`, ``ValueError`` and ``OSError`` (a missing file, a folder that cannot be written). All
    other errors pass. With the environment variable ``MMPL_TRACEBACK=1`` these pass as well, with their traceback.
    """
    try:
        yield
    except (UserError, ValueError, OSError) as error:
        if os.environ.get('MMPL_TRACEBACK') == '1':
            raise
        text = ' '.join(line.strip() for line in str(error).splitlines())
        raise SystemExit(f'error: {text or type(error).__name__}') from error
