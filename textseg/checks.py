"""What option dataclasses ask of their fields; each refusal names the field, the rule and the
value."""

from __future__ import annotations

from typing import TypeGuard

from .errors import InputError


def check(name: str, value: object, rule: str, ok: bool) -> None:
    """Raise InputError unless `ok`."""
    if not ok:
        raise InputError(f"{name} must be {rule}, got {value!r}")


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is an int or a float other than NaN; a bool is neither."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def check_whole(name: str, value: object, low: int, high: int) -> None:
    """Raise InputError unless the value is an int from `low` to `high`."""
    ok = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    check(name, value, f"a whole number from {low} to {high}", ok)


def check_share(name: str, value: object) -> None:
    """Raise InputError unless the value is a number in [0, 1]."""
    check(name, value, "a number in [0, 1]", is_number(value) and 0 <= value <= 1)


def check_positive(name: str, value: object) -> None:
    """Raise InputError unless the value is a finite number above 0."""
    ok = is_number(value) and 0 < value < float("inf")
    check(name, value, "a number above 0", ok)
