"""Answers ``import mmcv._ext`` where mmcv was installed without its compiled ops.

mmdet imports ``mmcv.ops`` at the top of its ``tools/train.py``, before any config is read, so no config can help it.
This module is therefore imported by ``mmpl/__init__.py``, which a ``.pth`` file of the installed package imports when
the interpreter starts. It must stay cheap: standard library only, and the work is in :mod:`mmpl.compat.mmcv_ops`, which
is imported when, and only when, something asks for ``mmcv._ext``.

The finder stands last in ``sys.meta_path``. Compiled ops are found before it is asked, so they are never replaced.
"""

import importlib.machinery
import os
import sys

EXT_NAME = 'mmcv._ext'


class MMCVExtFinder:
    """Finder and loader, in one, of the module ``mmcv._ext``."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        """Answer for ``mmcv._ext`` and for nothing else."""
        if fullname != EXT_NAME:
            return None
        return importlib.machinery.ModuleSpec(fullname, cls, origin='mmpl')  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec):
        """Leave the creation of the module object to Python."""
        return None

    @staticmethod
    def exec_module(module):
        """Fill the module with operators."""
        from mmpl.compat.mmcv_ops import fill_ext_module

        fill_ext_module(module)


def install() -> None:
    """Append the finder to ``sys.meta_path``, once. ``MMPL_MMCV_EXT=0`` in the environment turns it off."""
    if os.environ.get('MMPL_MMCV_EXT') != '0' and MMCVExtFinder not in sys.meta_path:
        sys.meta_path.append(MMCVExtFinder)  # type: ignore[arg-type]
