"""Extension of griffe: docstrings that Markdown shows as they are meant."""

import re
from typing import Any

import griffe

ROLE = re.compile(r':(?:class|func|meth|mod|attr|data):`~?([^`]+)`')


class PlainRoles(griffe.Extension):
    """Turns the few marks of reStructuredText, such as ``:class:`Name```, into Markdown."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            text = ROLE.sub(r'`\1`', obj.docstring.value)
            obj.docstring.value = re.sub(r'::$', ':', text, flags=re.MULTILINE)
