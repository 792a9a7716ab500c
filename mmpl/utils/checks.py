"""Checks of config fields: every error names the field, its value and what is allowed."""

from collections.abc import Collection, Mapping
from numbers import Real
from typing import Any

import torch

from .user_errors import UserError


class FieldTypeError(UserError, TypeError):
    """A config field has a value of the wrong type; the message names the field."""


def check_choice(field: str, value: Any, allowed: Collection) -> None:
    """Refuse a value that is not one of ``allowed``.

    Args:
        field (str): Name of the config field, as the user writes it.
        value: What the user gave.
        allowed (Collection): The permitted values.

    Raises:
        ValueError: If ``value`` is not in ``allowed``.
    """
    if not any(value is option or value == option for option in allowed):
        raise ValueError(f'`{field}` must be one of {sorted(allowed, key=str)}, but got {value!r}')


def check_part(field: str, value: Any, example: str = "dict(type='...')") -> None:
    """Refuse what is no config of a part.

    Args:
        field (str): Name of the config field, as the user writes it.
        value: What the user gave.
        example (str): Of what is allowed.

    Raises:
        TypeError: If ``value`` is not a dict.
    """
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
    """Refuse anything but a number inside an interval.

    Args:
        field (str): Name of the config field, as the user writes it.
        value: What the user gave.
        minimum (float, optional): Lower end of the interval.
        maximum (float, optional): Upper end of the interval.
        open_minimum (bool): The lower end itself is not allowed.
        open_maximum (bool): The upper end itself is not allowed.
        integer (bool): Only whole numbers are allowed.

    Raises:
        TypeError: If ``value`` is not a number (``bool`` is not one here).
        ValueError: If ``value`` lies outside of the interval, or is not finite.
    """
    low = '-inf' if minimum is None else minimum
    high = 'inf' if maximum is None else maximum
    kind = 'an integer' if integer else 'a number'
    interval = (
        f'{kind} in {"(" if open_minimum or minimum is None else "["}{low}, {high}'
        f'{")" if open_maximum or maximum is None else "]"}'
    )
    if isinstance(value, bool) or not isinstance(value, int if integer else Real):
        raise FieldTypeError(f'`{field}` must be {interval}, but got {value!r} of type {type(value).__name__}')
    number = float(value)
    inside = number == number and number not in (float('inf'), float('-inf'))
    if minimum is not None:
        inside = inside and (number > minimum if open_minimum else number >= minimum)
    if maximum is not None:
        inside = inside and (number < maximum if open_maximum else number <= maximum)
    if not inside:
        raise ValueError(f'`{field}` must be {interval}, but got {value!r}')


def check_device(field: str, value: Any) -> None:
    """Refuse a device that torch cannot use on this machine.

    Args:
        field (str): Name of the option, as the user writes it.
        value: Such as ``'cpu'`` or ``'cuda:1'``.

    Raises:
        ValueError: If there is no such device here.
    """
    try:
        torch.empty(1, device=value)
    except Exception as error:  # which one depends on the device, and on how torch was built
        reason = str(error).partition('\n')[0]
        raise ValueError(
            f'`{field}` must be a device of this machine, such as cpu, but got {value!r}: {reason}'
        ) from error
