"""``--cfg-options``: fields of a config from the command line, with text taken as it was given."""

import argparse
import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config, DictAction

from .unknown_fields import check_option

HELP = 'override fields of the config: key=value, key.sub=value, list.0.sub=value, list=[a,b]; a path is taken as given'
_PATH_NAME = re.compile(
    r'(?<!drop_path)(?:^|_)(root|files?|dirs?|(?<!drop_)paths?|folders?|prefix|checkpoint|from|filename|pretrained)$'
)
_PATHS_BELOW = 'data_prefix'  # whose fields have names of any kind
_BRACKETS = {'[': ']', '(': ')'}
_NO_LITERALS = ('yes', 'no', 'on', 'off')  # texts, all of which would be as good as True
_LITERALS = {'true': True, 'false': False, 'None': None}


class OptionText(str):
    """The text of a value on the command line; what it means depends on the config: see :func:`merge_options`."""


class CfgOptions(argparse.Action):
    """Collects ``key=text`` pairs into a dict, for :func:`merge_options`.

    Unlike mmengine's ``DictAction``, which has to guess without the config, it keeps the text.
    """

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        """Add the pairs of one use of the option."""
        options = copy.copy(getattr(namespace, self.dest, None) or {})
        for word in values:
            key, mark, text = word.partition('=')
            if not (key.strip() and mark):
                parser.exit(
                    2,
                    f'error: {"/".join(self.option_strings)}: {word!r} is not of the form key=value; a value with '
                    'spaces needs quotes, and the config comes before the options\n',
                )
            options[key.strip()] = OptionText(text)
        setattr(namespace, self.dest, options)


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Override fields of a config.

    Text from the command line is read by what it replaces. ``[a,b]`` and ``(a,b)`` are lists and tuples, ``None``,
    ``True`` and ``False`` themselves. Where the field is a path by its name, such as ``data_root`` or ``ann_file``, or
    now holds a string, all other text is taken as it is, with its spaces and commas; a number stays one where a string
    that is no path stands now. Elsewhere the rules are mmengine's: ``a,b`` is a list, ``2`` a number.

    Args:
        cfg: Changed in place.
        options: Values by dotted path; what is no :class:`OptionText` is taken as it is.

    Raises:
        ValueError: Nothing reads such a field, or it cannot be set.
    """
    for key, value in options.items():
        check_option(cfg, key)
        if isinstance(value, OptionText):
            value = option_value(cfg, key, str(value))
        present, (owner, _, name) = present_value(cfg, key), key.rpartition('.')
        if isinstance(present, bool) and str(value).lower() in _NO_LITERALS:
            raise ValueError(f'--cfg-options {key}={value!r}: it is {present} now, write True or False')
        if isinstance(present, Mapping) and not isinstance(value, Mapping | str) and value is not None:  # or a name
            fields = ', '.join(f'{key}.{field}' for field in present)
            raise ValueError(f'--cfg-options {key}={value!r}: it holds {fields or "fields"}, to be set one by one')
        items: Any = present_value(cfg, owner) if owner and name.isdigit() else None
        if _is_list(items) and not isinstance(value, Mapping):  # mmengine sets but fields of dicts in lists
            key, value = owner, type(items)([*items[: int(name)], value, *items[int(name) + 1 :]])
        try:
            cfg.merge_from_dict({key: value})
        except (KeyError, TypeError, AttributeError) as error:  # no such index, or no dict to have fields
            text = error.args[0] if error.args else error
            raise ValueError(f'--cfg-options {key}={value!r} cannot be set in the config: {text}') from error


def present_value(cfg: Config | Mapping, key: str) -> Any:
    """What a config holds at a dotted path; None if nothing."""
    node: Any = cfg._cfg_dict if isinstance(cfg, Config) else cfg
    for name in key.split('.'):
        if isinstance(node, Mapping):
            node = node.get(name)
        elif isinstance(node, list | tuple) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
        else:
            return None
    return node


def option_value(cfg: Config | Mapping, key: str, text: str) -> Any:
    """What the text of an option means for the field at ``key``; see :func:`merge_options`."""
    present = present_value(cfg, key)
    *above, name = [part for part in key.split('.') if not part.isdigit()] or ['']
    is_path = bool(_PATH_NAME.search(name)) or _PATHS_BELOW in above
    if isinstance(present, bool | int | float):
        is_path = False  # named like a path, but none, such as `pretrained=True`
    strings = isinstance(present, str) or (_is_list(present) and any(isinstance(item, str) for item in present))
    if text == '' and not (is_path or strings):
        return []  # as mmengine has it
    return _value(key, text, is_path or (isinstance(present, str) and '/' in present), is_path or strings)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _value(key: str, text: str, is_path: bool, is_text: bool) -> Any:
    bare = text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in '\'"' else text
    stripped = bare.strip()
    if stripped[:1] in _BRACKETS and stripped.endswith(_BRACKETS[stripped[0]]):
        items = [_value(key, item.strip(), is_path, is_text) for item in _items(key, stripped[1:-1])]
        return tuple(items) if stripped[0] == '(' else items
    literal = stripped if stripped == 'None' else stripped.lower()
    if literal in _LITERALS:
        return _LITERALS[literal]
    if is_path:
        return bare
    number: Any = DictAction._parse_int_float_bool(stripped)
    if not isinstance(number, str) and (not is_text or str(number) == stripped):
        return number
    if ',' in bare and not is_text:
        return [_value(key, item.strip(), is_path, is_text) for item in _items(key, bare)]
    return bare


def _items(key: str, text: str) -> Iterator[str]:
    """Split at the commas that are in no brackets."""
    closing: list[str] = []
    start = 0
    for index, char in enumerate(text):
        if char in _BRACKETS:
            closing.append(_BRACKETS[char])
        elif char in _BRACKETS.values() and (not closing or closing.pop() != char):
            raise ValueError(f'--cfg-options {key}: the brackets of {text!r} do not match')
        elif char == ',' and not closing:
            yield text[start:index]
            start = index + 1
    if closing:
        raise ValueError(f'--cfg-options {key}: the brackets of {text!r} do not match')
    if text[start:].strip():
        yield text[start:]
