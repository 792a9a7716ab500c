"""Run the commands of the documentation, one after the other, as they stand there.

    python tools/docs/walk.py FOLDER [--page docs/getting_started.md --heading "Your own images, from folder to ..."]
    python tools/docs/walk.py FOLDER --all [docs/data.md ...]

In FOLDER, with the Python that runs this; where it holds no repository, ``tools/`` is that of the installed package.
``--quick`` makes runs of one epoch on few images of it, to see whether every command works.

``--all`` runs the blocks of all pages, or of those that are named, each page in a folder of its own, on made-up data
and at sizes that take seconds; ``blocks.py`` says what is changed, and which commands are not run, and why.
"""

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import blocks

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs' / 'getting_started.md'
HEADING = 'Your own images, from folder to detector'
QUICK = (  # each a change of the commands
    (r'--variant surfaces', '--variant surfaces --size test'),
    (r'data/demo_surfaces', 'data/test_surfaces'),
    (r'--epochs \d+', '--epochs 1'),
    (r'epoch_\d+', 'epoch_1'),
)
_FENCE = re.compile(r'^( *)```(\w*)\n(.*?)^\1```$', re.MULTILINE | re.DOTALL)


class Command(NamedTuple):
    """A line of a shell, or a block in another language."""

    language: str  # 'bash', 'python', or '' for what is neither
    text: str


def pages() -> list[str]:
    """All pages, from the root of the repository."""
    return ['README.md', *sorted(str(path.relative_to(ROOT)) for path in (ROOT / 'docs').rglob('*.md'))]


def commands(text: str) -> list[Command]:
    """The commands in the blocks of code of a text; of a block that shows ``$ command`` and its output, the former."""
    found = []
    for indent, language, block in _FENCE.findall(text):
        block = re.sub(rf'^{indent}', '', block, flags=re.M)
        shown = re.findall(r'^\$ (.+)$', block, re.M)
        if language == 'bash' or shown:
            lines = shown or block.replace('\\\n', ' ').splitlines()
            found += [Command('bash', line.strip()) for line in lines if line.strip() and not line.startswith('# ')]
        else:
            found.append(Command(language, block))
    return found


def below(text: str, heading: str) -> str:
    """What stands below a heading."""
    start = re.search(rf'^(#+) {re.escape(heading)}$', text, re.MULTILINE)
    if start is None:
        raise SystemExit(f'the page has no heading {heading!r}')
    rest = text[start.end() :]
    prose = _FENCE.sub(lambda block: '.' * len(block[0]), rest)  # as long, without `#`
    end = re.search(rf'^#{{1,{len(start[1])}}} ', prose, re.M)
    return rest[: end.start() if end else None]


def plan(page: str) -> tuple[list[Command], list[tuple[Command, str]]]:
    """What ``--all`` runs of a page, in its small form, and what it does not run, with the reasons."""
    run, left = [], []
    for command in commands((ROOT / page).read_text(encoding='utf-8')):
        if reason := blocks.found(blocks.NOT_RUN, page, command.text):
            left.append((command, reason))
            continue
        text = command.text
        for changed_page, pattern, instead in blocks.SMALL:
            if changed_page in (page, '*'):
                text = re.sub(pattern, instead, text)
        if piece := blocks.found(blocks.PIECES, page, command.text):
            run += [Command(*step) for step in piece.steps(text)]
        else:
            run.append(Command(command.language, text))
    return run, left


def walk(found: Iterable[Command], folder: Path, env: dict[str, str]) -> list[tuple[float, str]]:
    """Run commands in a folder; seconds and the last line of each. One that fails ends the walk with its exit code."""
    times = []
    for language, text in found:
        print(f'$ {text.strip()}', flush=True)
        start = time.perf_counter()
        words = ['bash', '-c'] if language == 'bash' else ['python', '-c']
        code = subprocess.run([*words, text], cwd=folder, env=env, check=False).returncode
        times.append((time.perf_counter() - start, text.strip().splitlines()[-1][:90]))
        if code:
            raise SystemExit(code)
    return times


def walk_all(folder: Path, wanted: Iterable[str], env: dict[str, str]) -> list[tuple[float, str]]:
    """Run the blocks of pages; see the module."""
    env = dict(env, PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), env.get('PYTHONPATH', '')])))
    plans = {page: plan(page) for page in wanted}
    checkpoint = any(re.search(r'\brun/epoch_1', text) for run, _ in plans.values() for _, text in run)
    made = blocks.prepare(folder / 'prepared', env, checkpoint)
    times = []
    for page, (run, left) in plans.items():
        here = folder / page.removesuffix('.md').replace('/', '_')
        here.mkdir()
        for path in made:
            (here / path.name).symlink_to(path)
        print(f'== {page}: {len(run)} commands', flush=True)
        times += walk(run, here, env)
        for command, reason in left:
            print(f'-- not run, {reason}: {command.text.strip().splitlines()[0]}')
    return times


def main() -> None:
    """Run them; a command that fails ends the walk with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='where to run; made if it is not there')
    parser.add_argument('--page', type=Path, default=PAGE)
    parser.add_argument('--heading', default=HEADING)
    parser.add_argument('--quick', action='store_true')
    parser.add_argument(
        '--all', nargs='*', choices=pages(), metavar='PAGE', help='the blocks of all pages, or of these'
    )
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    env = dict(os.environ, PATH=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')
    if args.all is not None:
        times = walk_all(args.folder.resolve(), args.all or pages(), env)
    else:
        tools = 'tools'
        if not (args.folder / tools).exists():
            package = importlib.util.find_spec('mmpl')
            if package is None or not package.submodule_search_locations:
                raise SystemExit(f'mmpl is not installed for {sys.executable}')
            tools = str(Path(package.submodule_search_locations[0], '.mim', 'tools'))
        found = commands(below(args.page.read_text(encoding='utf-8'), args.heading))
        changes = (*(QUICK if args.quick else ()), (r'\btools/', f'{tools}/'))
        for pattern, instead in changes:
            found = [Command(language, re.sub(pattern, instead, text)) for language, text in found]
        times = walk(found, args.folder, env)
    for seconds, text in times:
        print(f'{seconds:7.0f} s  {text}')
    print(f'{sum(seconds for seconds, _ in times):7.0f} s  in all, {len(times)} commands')


if __name__ == '__main__':
    main()
