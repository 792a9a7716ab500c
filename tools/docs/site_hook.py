"""Hook of mkdocs: what pages of ``docs/`` link to outside of that folder becomes a page of the site.

On a code host ``[sdae.py](../mmpl/methods/sdae.py)`` shows the file, and a link to a folder its list. The site has no
such neighbours: each file that is linked gets a page with its text under ``source/``, each folder one with its files.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

LINK = re.compile(r'\]\((?!\w+:|#|/)([^)#\s]+)((?:#[^)\s]*)?)\)')
LANGUAGES = {'.py': 'python', '.sh': 'bash', '.yml': 'yaml', '.json': 'json', '.jinja': 'jinja'}


def _page_of(root: Path, page: str, target: str) -> str | None:
    """Page of the site for a link that only the repository can follow; None for every other link."""
    path = os.path.normpath(os.path.join('docs', os.path.dirname(page), target))
    if path.startswith('..') or not (root / path).exists():
        return None  # a link to nothing stays as it is, and ends the strict build
    if path.startswith('docs' + os.sep) and not (root / path).is_dir():
        return None
    return f'source/{path}.md'


def _text(root: Path, path: str) -> str:
    """Markdown that shows a file, or the files of a folder."""
    source = root / path
    if source.is_dir():
        files = sorted(file for file in source.iterdir() if file.suffix in LANGUAGES)
        return f'# {path}\n\n' + '\n\n'.join(_block(file) for file in files)
    return f'# {path}\n\n{_block(source, titled=False)}'


def _block(source: Path, titled: bool = True) -> str:
    title = f' title="{source.name}"' if titled else ''
    text = source.read_text(encoding='utf-8').rstrip('\n')
    return f'````{LANGUAGES.get(source.suffix, "text")}{title}\n{text}\n````\n'


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that links need."""
    root = Path(config.config_file_path).parent
    wanted = {
        found
        for file in files.documentation_pages()
        for target, _ in LINK.findall(file.content_string)
        if (found := _page_of(root, file.src_uri, target))
    }
    for uri in sorted(wanted):
        content = _text(root, uri.removeprefix('source/').removesuffix('.md'))
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point the links to these pages."""
    root, here = Path(config.config_file_path).parent, page.file.src_uri

    def redirected(match: re.Match) -> str:
        uri = None if here.startswith('source/') else _page_of(root, here, match[1])
        if uri is None:
            return match[0]
        return f']({os.path.relpath(uri, os.path.dirname(here) or ".")}{match[2]})'

    return LINK.sub(redirected, markdown)
