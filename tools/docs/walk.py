"""Run the commands of a page of the documentation, one after the other, as they stand there.

    python tools/docs/walk.py FOLDER [--page docs/getting_started.md --heading "Your own images, from folder to ..."]

In FOLDER, with the Python that runs this; where it holds no repository, ``tools/`` is that of the installed package.
``--quick`` makes runs of one epoch on few images of it, to see whether every command works.
"""

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs' / 'getting_started.md'
HEADING = 'Your own images, from folder to detector'
QUICK = (  # each a change of the commands
    (r'--variant surfaces', '--variant surfaces --size test'),
    (r'data/demo_surfaces', 'data/test_surfaces'),
    (r'--epochs \d+', '--epochs 1'),
    (r'epoch_\d+', 'epoch_1'),
)


def commands(page: Path, heading: str) -> list[list[str]]:
    """Command lines of the blocks of code below a heading: of the shell, and of Python as one command a block."""
    text = page.read_text(encoding='utf-8')
    start = re.search(rf'^(#+) {re.escape(heading)}$', text, re.MULTILINE)
    if start is None:
        raise SystemExit(f'{page} has no heading {heading!r}')
    rest = text[start.end() :]
    prose = re.sub(r'^```.*?^```', lambda block: '.' * len(block[0]), rest, flags=re.M | re.S)  # as long, without `#`
    end = re.search(rf'^#{{1,{len(start[1])}}} ', prose, re.M)
    found = []
    for language, block in re.findall(r'^```(\w+)\n(.*?)^```', rest[: end.start() if end else None], re.M | re.S):
        if language == 'bash':
            lines = block.replace('\\\n', ' ').splitlines()
            found += [['bash', '-c', line] for line in lines if line.strip() and not line.startswith('#')]
        elif language == 'python':
            found.append(['python', '-c', block])
    return found


def main() -> None:
    """Run them; a command that fails ends the walk with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='where to run; made if it is not there')
    parser.add_argument('--page', type=Path, default=PAGE)
    parser.add_argument('--heading', default=HEADING)
    parser.add_argument('--quick', action='store_true')
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    env = dict(os.environ, PATH=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')
    tools = 'tools'
    if not (args.folder / tools).exists():
        package = importlib.util.find_spec('mmpl')
        if package is None or not package.submodule_search_locations:
            raise SystemExit(f'mmpl is not installed for {sys.executable}')
        tools = str(Path(package.submodule_search_locations[0], '.mim', 'tools'))
    times = []
    for words in commands(args.page, args.heading):
        text = words[-1]
        for pattern, instead in QUICK if args.quick else ():
            text = re.sub(pattern, instead, text)
        text = re.sub(r'\btools/', f'{tools}/', text)
        print(f'$ {text.strip()}', flush=True)
        start = time.perf_counter()
        code = subprocess.run([*words[:-1], text], cwd=args.folder, env=env, check=False).returncode
        times.append((time.perf_counter() - start, text.strip().splitlines()[-1][:90]))
        if code:
            raise SystemExit(code)
    for seconds, text in times:
        print(f'{seconds:7.0f} s  {text}')
    print(f'{sum(seconds for seconds, _ in times):7.0f} s  in all, {len(times)} commands')


if __name__ == '__main__':
    main()
