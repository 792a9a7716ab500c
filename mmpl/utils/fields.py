"""Config fields, declared once: the types and bounds in a signature are what its arguments are checked by.

Every error names the field, its value and what is allowed.
"""

import difflib
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping
from numbers import Real
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union

import torch

from .user_errors import UserError

Function = TypeVar('Function', bound=Callable)


class FieldTypeError(UserError, TypeError):
    """A config field has a value of the wrong type, or does not exist; the message names the field."""


class Interval(NamedTuple):
    """Bounds of a number; a bound that is open is not allowed itself."""

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False


class Example(NamedTuple):
    """How a part's config may look, for the error message."""

    text: str


Count = Annotated[int, Interval(1)]  # at least 1
Natural = Annotated[int, Interval(0)]  # at least 0
ImageSide = Annotated[int, Interval(16)]  # in pixels
Positive = Annotated[float, Interval(0, open_low=True)]  # above 0
NonNegative = Annotated[float, Interval(0)]
Share = Annotated[float, Interval(0, 1)]  # in [0, 1]
Part = Annotated[Mapping, Example("dict(type='...')")]  # config of a part


def checked(prefix: str = '') -> Callable[[Function], Function]:
    """Check the arguments of a function by its annotations, before it runs.

    ``Annotated`` numbers with an :class:`Interval` (:data:`Count`, :data:`Share`, ...), plain ``int``, ``float`` and
    ``bool``, ``Literal`` and :data:`Part` are checked, each also with ``| None``; other annotations are not. An
    argument that does not exist is refused with the nearest one that does.

    Args:
        prefix: Where the fields stand in a config, such as ``'label_head'``.

    Raises:
        FieldTypeError: When called with an argument of the wrong type, or one that does not exist.
        ValueError: When called with an argument outside of what is allowed.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        hints: dict[str, Any] = {}

        def full(name: str) -> str:
            return f'{prefix}.{name}' if prefix else name

        @functools.wraps(function)
        def checked_call(*args: Any, **kwargs: Any) -> Any:
            if not hints:  # only now: annotations may name what is defined further down
                hints.update(typing.get_type_hints(function, include_extras=True))
            for name in () if takes_any else kwargs:
                if name not in signature.parameters:
                    known = [known for known in signature.parameters if known != 'self']
                    near = difflib.get_close_matches(name, known, n=1)
                    hint = f'did you mean `{full(near[0])}`?' if near else f'its fields are {known}'
                    owner = function.__qualname__.removesuffix('.__init__')
                    raise FieldTypeError(f'`{full(name)}` is not a field of {owner}: {hint}')
            for name, value in signature.bind_partial(*args, **kwargs).arguments.items():
                if name in hints:
                    check_field(full(name), value, hints[name])
            return function(*args, **kwargs)  # which says what is missing

        return typing.cast(Function, checked_call)

    return decorate


def check_field(field: str, value: Any, hint: Any) -> None:
    """Refuse a value that its annotation does not allow; see :func:`checked`."""
    origin, details = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        options = [option for option in details if option is not type(None)]
        if len(options) == 1 and (value is not None or len(options) == len(details)):
            check_field(field, value, options[0])
    elif origin is Literal:
        check_choice(field, value, details)
    elif hint is bool:
        check_choice(field, value, (True, False))
    elif origin is Annotated and isinstance(details[1], Example):
        check_part(field, value, details[1].text)
    elif origin is Annotated and isinstance(details[1], Interval):
        low, high, open_low, open_high = details[1]
        integer = details[0] is int
        check_number(field, value, low, high, open_minimum=open_low, open_maximum=open_high, integer=integer)
    elif hint in (int, float):
        check_number(field, value, integer=hint is int)


def check_choice(field: str, value: Any, allowed: Collection) -> None:
    """Refuse a value that is not one of ``allowed`` with a ValueError."""
    if not any(value is option or (type(value) is type(option) and value == option) for option in allowed):
        raise ValueError(f'`{field}` must be one of {sorted(allowed, key=str)}, but got {value!r}')


def check_part(field: str, value: Any, example: str = "dict(type='...')") -> None:
    """Refuse what is no config of a part, a dict, with a TypeError."""
    if not isinstance(value, Mapping):
        raise FieldTypeError(f'`{field}` must be a dict such as {example}, but got {value!r}')


def check_number(
    field: str,
    value: Any,
    minimum: float | None = None,
    maximum: float | None = None,
    *,
    open_minimum: bool = False,
    open_maximum: bool = False,
    integer: bool = False,
) -> None:
    """Refuse anything but a finite number inside an interval; ``bool`` is no number here.

    Raises:
        FieldTypeError: ``value`` is not a number, or with ``integer`` not a whole one.
        ValueError: ``value`` lies outside of the interval, or is not finite.
    """
    kind = 'an integer' if integer else 'a number'
    left = '(-inf' if minimum is None else f'{"(" if open_minimum else "["}{minimum}'
    right = 'inf)' if maximum is None else f'{maximum}{")" if open_maximum else "]"}'
    allowed = f'{kind} in {left}, {right}'
    if isinstance(value, bool) or not isinstance(value, int if integer else Real):
        raise FieldTypeError(f'`{field}` must be {allowed}, but got {value!r} of type {type(value).__name__}')
    number = float(value)
    above = minimum is None or (number > minimum if open_minimum else number >= minimum)
    below = maximum is None or (number < maximum if open_maximum else number <= maximum)
    if not (math.isfinite(number) and above and below):
        raise ValueError(f'`{field}` must be {allowed}, but got {value!r}')


def check_device(field: str, value: Any) -> None:
    """Refuse a device, such as ``'cuda:1'``, that torch cannot use on this machine, with a ValueError."""
    try:
        torch.empty(1, device=value)
    except Exception as error:  # which one depends on the device, and on how torch was built
        reason = str(error).partition('\n')[0]
        raise ValueError(
            f'`{field}` must be a device of this machine, such as cpu, but got {value!r}: {reason}'
        ) from error
