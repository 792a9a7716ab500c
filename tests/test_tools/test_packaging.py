"""What ``pip install`` brings."""

import configparser
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def requirement_names(path: Path) -> set[str]:
    lines = (line.split('#')[0].strip() for line in path.read_text().splitlines())
    return {line.split('==')[0] for line in lines if line and not line.startswith('-')}


def test_stacks_do_not_mix() -> None:
    default, upstream = (requirement_names(ROOT / name) for name in ('requirements.txt', 'requirements/upstream.txt'))
    assert not default & upstream
    metadata = (ROOT / 'setup.cfg').read_text().split('install_requires =')[1].split('[options.packages.find]')[0]
    assert not (default | upstream) & {line.strip().split('>=')[0] for line in metadata.splitlines()}


@pytest.mark.parametrize(('extra', 'file'), [('onedl', 'requirements.txt'), ('upstream', 'requirements/upstream.txt')])
def test_a_wheel_brings_what_is_tested(extra: str, file: str) -> None:
    """With its stack and the data of demo and VQA as extras; but for what holds two OpenCV distributions alike."""
    options = configparser.ConfigParser()
    options.read(ROOT / 'setup.cfg')
    extras = options['options.extras_require']
    lines = f'{options["options"]["install_requires"]}\n{extras[extra]}\n{extras["demo"]}\n{extras["vqa"]}'.splitlines()
    named = {re.split(r'[<>=]', line)[0] for line in lines if line and not line.startswith('#')}
    tested = requirement_names(ROOT / file) | requirement_names(ROOT / 'requirements' / 'runtime.txt')
    assert {name for name in tested - named if not name.startswith('opencv')} <= {'setuptools'}


def test_every_requirement_is_pinned() -> None:
    for path in (ROOT / 'requirements.txt', *(ROOT / 'requirements').glob('*.txt')):
        for line in path.read_text().splitlines():
            line = line.split('#')[0].strip()
            assert not line or line.startswith('-r ') or '==' in line, f'{path.name}: {line}'


def test_model_index_is_valid() -> None:
    modelindex = pytest.importorskip('modelindex')
    assert modelindex.load(str(ROOT / 'model-index.yml')).collections[0].name == 'PL-MAE'


def test_scripts_that_are_named_exist() -> None:
    files = [ROOT / '.ci' / 'run', *ROOT.glob('*.md'), *ROOT.glob('*.yml'), *ROOT.glob('.*.yaml'), ROOT / 'setup.cfg']
    for folder in ('.github', 'configs', 'docs', 'mmpl', 'requirements', 'tests', 'tools'):
        files += [p for p in (ROOT / folder).rglob('*') if p.suffix in ('.py', '.md', '.sh', '.yml', '.yaml', '.txt')]
    named = {}
    for path in filter(Path.is_file, files):
        if '.mim' not in path.parts:
            for name in re.findall(r'(?<![\w/.])tools/[\w/-]+(?:\.\w+)?', path.read_text(encoding='utf-8')):
                named.setdefault(name, path.relative_to(ROOT))
    assert len(named) > 20
    assert {name: str(path) for name, path in named.items() if not (ROOT / name).exists()} == {}


@pytest.mark.slow
def test_wheel_carries_what_mim_looks_for(tmp_path: Path) -> None:
    command = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '--wheel-dir', str(tmp_path)]
    # From a copy: setuptools writes build/ next to the sources.
    source = tmp_path / 'source'
    files = subprocess.run(
        ['git', '-C', str(ROOT), 'ls-files', '--cached', '--others', '--exclude-standard'],
        capture_output=True,
        text=True,
    ).stdout.split('\n')
    if not any(files):
        pytest.skip('not a git checkout')
    for name in filter(None, files):
        if (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    done = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob('mmpl-*.whl')
    names = set(zipfile.ZipFile(wheel).namelist())
    carried = {name for name in files if name and name.startswith(('configs/', 'tools/')) and (ROOT / name).is_file()}
    assert {f'mmpl/.mim/{name}' for name in carried | {'model-index.yml'}} <= names
    assert {'mmpl/registry.py', 'mmpl/apis/train.py', 'mmpl/visualization/report.html', 'mmpl_mmcv_ext.pth'} <= names
    assert not any(name.startswith(('tests/', 'tools/', 'configs/')) or '__pycache__' in name for name in names)
    (metadata,) = (name for name in names if name.endswith('.dist-info/METADATA'))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    assert 'License-Expression: Apache-2.0' in text or 'License: Apache-2.0' in text
    required = [line for line in text.splitlines() if line.startswith('Requires-Dist') and 'extra' not in line]
    assert not any('mmengine' in line or 'mmcv' in line or 'mmpretrain' in line for line in required)
