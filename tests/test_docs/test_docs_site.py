"""What the documentation names exists: links, names, configs, tools with their options, and the words of messages."""

import ast
import io
import os
import pkgutil
import re
import runpy
import shlex
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path

import mmengine.registry
import pytest

import mmpl.registry
from mmpl import cli

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tools' / 'docs'))
import blocks  # noqa: E402
import recipes  # noqa: E402
import walk  # noqa: E402

DOCS = sorted((ROOT / 'docs').rglob('*.md'))
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *DOCS]
by_page = pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
FENCE = re.compile(r'^( *)(`{3,})(\w*)[^\n]*\n(.*?)^\1\2$', re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub('', page.read_text(encoding='utf-8'))


# ------------------------------------------------------------------ links


def slug(heading: str) -> str:
    """Anchor of a heading, alike on code hosts and in mkdocs for the headings that there are."""
    text = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', heading).replace('`', '')
    return re.sub(r'[\s]+', '-', re.sub(r'[^\w\s-]', '', text).strip().lower())


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r'^#+ (.+)$', prose(page), re.MULTILINE)}


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    text = re.sub(r'`[^`\n]*`', '', re.sub(r'\[`[^`\n]*`\]', '[code]', prose(page)))
    for link in re.findall(r'\]\(([^)\s]+)\)', text):
        if re.match(r'\w+:', link):
            continue
        path, _, anchor = link.partition('#')
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == '.md' and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_the_site_has_every_page() -> None:
    """But tables that tools write."""
    nav = set(re.findall(r'[\w/]+\.md$', (ROOT / 'mkdocs.yml').read_text(), re.MULTILINE))
    written = {str(page.relative_to(ROOT / 'docs')) for page in DOCS if page.name != 'table.md'}
    assert nav == written


# ------------------------------------------------------------------ names


@cache
def registered() -> set[str]:
    """Names that are registered under the scope of mmpl."""
    nodes = [node for node in vars(mmpl.registry).values() if isinstance(node, mmengine.registry.Registry)]
    own = [node for node in nodes if node.scope == 'mmpl']
    for node in own:
        node.import_from_location()
    return {name for node in own for name in node.module_dict}


def exists(path: str) -> bool:
    """Whether a dotted path is something in the package."""
    try:
        pkgutil.resolve_name(path)
    except (ImportError, AttributeError):
        return False
    return True


PLACEHOLDERS = {'mmpl.X'}


@by_page
def test_names_of_mmpl_exist(page: Path) -> None:
    names = set(re.findall(r'(?<![\w./-])mmpl(?:\.[A-Za-z_]\w*)+', page.read_text(encoding='utf-8'))) - PLACEHOLDERS
    assert not {name for name in names if name.removeprefix('mmpl.') not in registered() and not exists(name)}


@by_page
def test_files_of_the_repository_exist(page: Path) -> None:
    text = page.read_text(encoding='utf-8')
    paths = set(re.findall(r'(?<![\w/.-])(?:\./)?((?:configs|tools|tests|mmpl|requirements)/[\w/.-]*\w)', text))
    # `pip` and `mim` name what they make; `/` at the end was cut off.
    assert not {path for path in paths if not (ROOT / path).exists() and not list(ROOT.glob(f'{path}*'))}


# ------------------------------------------------------------------ command lines


def commands(page: Path) -> list[list[str]]:
    """The command lines of our tools in the blocks of a page."""
    found = []
    for _, _, language, block in FENCE.findall(page.read_text(encoding='utf-8')):
        if language in ('bash', 'sh', 'console', ''):
            for line in block.replace('\\\n', ' ').splitlines():
                line = re.sub(r'^\s*\$ ', '', line).strip()
                line = re.sub(r'^(?:[A-Z_]+=\S+ +)+', '', line)
                if re.match(r'(mmpl |(python |bash |source )?tools/)', line):
                    found.append(shlex.split(line, comments=True))
    return found


@cache
def options_of(tool: str) -> set[str]:
    """Options in the help text of a tool."""
    argv, said = sys.argv, io.StringIO()
    try:
        with redirect_stdout(said), suppress(SystemExit):
            if tool.endswith('.py'):
                sys.argv = [tool, '--help']
                runpy.run_path(str(ROOT / tool), run_name='__main__')
            else:
                cli.main([tool, '--help'])
    finally:
        sys.argv = argv
    assert '--help' in said.getvalue()
    return set(re.findall(r'(?<![\w-])--?[a-zA-Z][\w-]*', said.getvalue()))


def test_command_lines_are_found() -> None:
    tools = {' '.join(words[:2]) for page in PAGES for words in commands(page)}
    assert {'mmpl pretrain', 'python tools/train.py', 'bash tools/demo.sh'} <= tools


@by_page
def test_tools_exist(page: Path) -> None:
    for words in commands(page):
        if words[0] == 'mmpl':
            assert words[1] in {'pretrain', 'finetune', 'embed', 'neighbours', 'info', *cli.TOOLS}, words
        else:
            (tool, *_) = [word for word in words if word.startswith('tools/')]
            assert (ROOT / tool).is_file(), words


@by_page
def test_tools_know_their_options(page: Path) -> None:
    for words in commands(page):
        if words[0] in ('mmpl', 'python'):
            tool, arguments = words[1], words[2:]
        elif 'dist_train.sh' in words[0] or 'slurm_train.sh' in words[0]:
            tool, arguments = 'tools/train.py', words[1:]  # which gets the rest
        else:
            continue
        given = {word.partition('=')[0] for word in arguments if re.match(r'--?[a-zA-Z]', word)}
        assert given <= options_of(tool), words


# ------------------------------------------------------------------ messages and tables


@cache
def texts() -> list[str]:
    """Per file: its strings, each f-string as one, with a mark where a value stands."""

    def plain(node: ast.AST) -> str:
        if isinstance(node, ast.JoinedStr):
            return ''.join(plain(part) if isinstance(part, ast.Constant) else '\0' for part in node.values)
        return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ''

    files = []
    for path in sorted((ROOT / 'mmpl').rglob('*.py')):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding='utf-8'))))
        inside = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        strings = [plain(node) for node in nodes if id(node) not in inside]
        files.append('\n'.join(filter(None, strings)).replace('`', ''))
    return [*files, *(path.read_text() for path in sorted((ROOT / 'tools').glob('*.sh')))]


def quoted() -> list[str]:
    """The messages of the page: codes in the first column of the tables of two."""
    page = (ROOT / 'docs' / 'troubleshooting.md').read_text(encoding='utf-8')
    rows = [line.split(' | ') for line in page.splitlines() if line.startswith('| `')]
    return [message for row in rows if len(row) == 2 for message in re.findall(r'`([^`]+)`', row[0])]


def is_printed(message: str, text: str) -> bool:
    """Whether the words between the ellipses all stand in the strings of one file."""
    return all(part.strip(' :,;().') in text for part in message.split('…'))


def test_messages_are_those_of_the_source() -> None:
    messages = quoted()
    assert len(messages) > 60
    assert not [message for message in messages if not any(is_printed(message, text) for text in texts())]
    assert not any(is_printed('… is no longer said by anyone …', text) for text in texts())


def test_bounds_of_figures_are_those_of_the_source() -> None:
    from mmpl.models import AlignHead, PseudoLabelHead

    page = (ROOT / 'docs' / 'troubleshooting.md').read_text(encoding='utf-8')
    stated = dict(re.findall(r'^\| `(\w+)` \| (at (?:most|least) [\d.]+) \|', page, re.MULTILINE))
    declared = {}
    for name, figure in (PseudoLabelHead.FIGURES | AlignHead.FIGURES).items():
        low, high = figure.healthy
        if (low, high) != (None, None):
            declared[name] = f'at most {high}' if low is None else f'at least {low}'
    assert stated == declared


def test_recipes_are_those_of_the_configs() -> None:
    text = recipes.PAGE.read_text(encoding='utf-8')
    assert recipes.filled(text) == text, 'run `python tools/docs/recipes.py --write`'
    named = set(re.findall(r'`(\w+)`', text))
    assert {path.stem for path in (ROOT / 'configs').glob('*.py')} <= named


# ------------------------------------------------------------------ every block is run


def test_the_walk_knows_every_block() -> None:
    """It finds as many as there are, and what its tables name is there, once a command and its reason."""
    commands = {page: walk.commands((ROOT / page).read_text(encoding='utf-8')) for page in walk.pages()}
    assert set(commands) == {str(page.relative_to(ROOT)) for page in PAGES} - {'CONTRIBUTING.md'}
    for page, found in commands.items():
        blocks_of = [block for _, _, _, block in FENCE.findall((ROOT / page).read_text(encoding='utf-8'))]
        joined = re.sub(r'\s+|\\', '', '\n'.join(command.text for command in found))
        for block in blocks_of:
            lines = [re.sub(r'\s+|\\', '', line.removeprefix('$ ')) for line in block.splitlines() if line.strip()]
            shown = [line for line in block.splitlines() if line.startswith('$ ')]
            wanted = [re.sub(r'\s+|\\', '', line[2:]) for line in shown] or lines
            assert all(line in joined for line in wanted if not line.startswith('#') or 'SBATCH' in line), block
    for table in (blocks.NOT_RUN, blocks.PIECES):
        for page, start in table:
            named = [command for command in commands[page] if command.text.lstrip().startswith(start)]
            assert named, (page, start)
    assert all(blocks.NOT_RUN.values())


def test_the_walk_changes_nothing_that_is_not_there() -> None:
    """Each substitution finds its text, after those before it."""
    used = set()
    for page in walk.pages():
        for command in walk.commands((ROOT / page).read_text(encoding='utf-8')):
            text = command.text
            for number, (where, pattern, instead) in enumerate(blocks.SMALL):
                if where in (page, '*') and re.search(pattern, text):
                    used.add(number)
                    text = re.sub(pattern, instead, text)
    assert not [blocks.SMALL[number] for number in set(range(len(blocks.SMALL))) - used]


def test_nothing_is_left_out_but_what_is_named() -> None:
    left = {command.text for page in walk.pages() for command, _ in walk.plan(page)[1]}
    assert not [text for text in left if re.match(r'mmpl |python tools/(train|test|check_dataset)\.py', text)]
    assert sum(len(walk.plan(page)[0]) for page in walk.pages()) > 2 * len(left)


@pytest.mark.slow
def test_quick_pages_run(tmp_path: Path) -> None:
    """What `python tools/docs/walk.py FOLDER --all` does for all pages."""
    pages = ('docs/data.md', 'docs/own_images.md', 'docs/api/index.md')
    command = [sys.executable, str(ROOT / 'tools/docs/walk.py'), str(tmp_path / 'walk'), '--all', *pages]
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    run = subprocess.run(command, capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert '9 commands' in run.stdout.splitlines()[-1]
