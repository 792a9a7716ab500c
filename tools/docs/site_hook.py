"""Hook of mkdocs: what pages of ``docs/`` link to outside of that folder becomes a page of the site.

On a code host ``[sdae.py](../mmpl/methods/sdae.py)`` shows the file; the site has no such neighbour, so each file that is
linked gets a page with its text, under ``source/``.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

LINK = re.compile(r'\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)')
LANGUAGES = {'.py': 'python', '.sh': 'bash', '.yml': 'yaml', '.json': 'json'}


def _linked(page: str, target: str) -> str | None:
    """Path in the repository of what a page links to, if that lies outside of ``docs/``; None for what lies in it."""
    path = os.path.normpath(os.path.join('docs', os.path.dirname(page), target))
    return None if path.startswith('docs' + os.sep) else path


def on_files(files: Files, config: Any) -> Files:
    """Add a page for every file outside of ``docs/`` that a page links to."""
    root = Path(config.config_file_path).parent
    wanted = set()
    for file in files.documentation_pages():
        for target, _ in LINK.findall(file.content_string):
            if path := _linked(file.src_uri, target):
                wanted.add(path)
    for path in sorted(wanted):
        source = root / path
        if source.is_file():  # a link to nothing stays as it is, and ends the strict build
            text = source.read_text(encoding='utf-8')
            if source.suffix != '.md':
                text = f'# {path}\n\n````{LANGUAGES.get(source.suffix, "text")}\n{text}````\n'
            files.append(File.generated(config, f'source/{path}.md', content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point the links to these pages."""

    def redirected(match: re.Match) -> str:
        path = _linked(page.file.src_uri, match[1])
        if path is None or files.get_file_from_path(f'source/{path}.md') is None:
            return match[0]
        here = os.path.dirname(page.file.src_uri)
        return f']({os.path.relpath(f"source/{path}.md", here or ".")})'

    return LINK.sub(redirected, markdown)
