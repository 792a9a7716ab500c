"""Build steps that setup.cfg cannot express; the metadata is there.

- ``mmpl/.mim/`` carries configs, tools and the model index, where ``mim`` looks for them: copied into a wheel,
  linked for an editable install.
- ``mmpl_mmcv_ext.pth`` lets mmdet's own tools start where mmcv has no compiled ops; see ``mmpl/_mmcv_ext_finder.py``.
"""

import base64
import hashlib
import shutil
import zipfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
CARRIED = ('configs', 'tools', 'model-index.yml')
PTH_NAME = 'mmpl_mmcv_ext.pth'
PTH_TEXT = 'import importlib.util; importlib.util.find_spec("mmpl") and __import__("mmpl")\n'


def carry(target: Path, link: bool) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in CARRIED:
        source = ROOT / name
        if link:
            (target / name).symlink_to(Path('..', '..', name))
        elif source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns('__pycache__', '*.py[cod]'))
        else:
            shutil.copy2(source, target / name)


class BuildPy(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            carry(ROOT / 'mmpl' / '.mim', link=True)
        else:
            carry(Path(self.build_lib) / 'mmpl' / '.mim', link=False)
            Path(self.build_lib, PTH_NAME).write_text(PTH_TEXT)


class EditableWheel(editable_wheel):
    """Adds the .pth file to the wheel that setuptools makes for ``pip install -e``."""

    def run(self) -> None:
        super().run()
        digest = base64.urlsafe_b64encode(hashlib.sha256(PTH_TEXT.encode()).digest()).rstrip(b'=').decode()
        for path in Path(self.dist_dir).glob('mmpl-*.whl'):
            with zipfile.ZipFile(path) as wheel:
                files = {info.filename: wheel.read(info) for info in wheel.infolist()}
            record = next(name for name in files if name.endswith('.dist-info/RECORD'))
            files[record] = f'{PTH_NAME},sha256={digest},{len(PTH_TEXT)}\n'.encode() + files.pop(record)
            with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as wheel:
                for name, data in {PTH_NAME: PTH_TEXT.encode(), **files}.items():
                    wheel.writestr(name, data)


setup(cmdclass={'build_py': BuildPy, 'editable_wheel': EditableWheel})
