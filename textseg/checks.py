"""What option dataclasses ask of their fields: a rule beside each default, which `validate` keeps
and `option_table` hands on. A refusal names the field, the rule and the value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from math import inf
from typing import Any, TypeGuard

from .errors import InputError


@dataclass(frozen=True)
class Rule:
    """What a value must be.

    Attributes:
        words: that go after "must be".
        holds: the test.
        bounds: "ge", "gt", "le" and "lt" of a number.
    """

    words: str
    holds: Callable[[Any], bool]
    bounds: Mapping[str, float] = field(default_factory=dict)


def check(name: str, value: object, rule: str, ok: bool) -> None:
    """Raise InputError unless `ok`."""
    if not ok:
        raise InputError(f"{name} must be {rule}, got {value!r}")


def check_text(name: str, text: object) -> str:
    """The text; InputError unless it is one that a tokenizer and a file can hold."""
    if not isinstance(text, str):
        raise InputError(f"{name} must be a text, got a {type(text).__name__}")
    lone = next((c for c in text if "\ud800" <= c <= "\udfff"), None)
    if lone is not None:
        raise InputError(f"{name} must be valid Unicode, got {lone!r} in {text[:40]!r}")
    return text


def check_is(name: str, value: object, kind: type) -> None:
    """Raise InputError unless a value is of a class."""
    if not isinstance(value, kind):
        raise InputError(f"{name} must be of class {kind.__name__}, got {type(value).__name__}")


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is an int or a float other than NaN; a bool is neither."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def whole(low: int, high: int, words: str = "") -> Rule:
    """An int from `low` to `high`."""
    return Rule(
        words or f"a whole number from {low} to {high}",
        lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high,
        {"ge": low, "le": high},
    )


def between(low: float, high: float, ends: str = "[]", words: str = "") -> Rule:
    """A number of an interval; `ends` says whether it is closed."""
    bounds = {"ge" if ends[0] == "[" else "gt": low, "le" if ends[1] == "]" else "lt": high}
    tests = {"ge": float.__ge__, "gt": float.__gt__, "le": float.__le__, "lt": float.__lt__}

    def holds(value: Any) -> bool:
        # A whole number too large for a float is larger than any bound.
        inside = is_number(value) and abs(value) < 2**1000
        return inside and all(tests[k](float(value), float(end)) for k, end in bounds.items())

    words = words or f"a number in {ends[0]}{low:g}, {high:g}{ends[1]}"
    return Rule(words, holds, {k: end for k, end in bounds.items() if end < inf})


def one_of(*values: object) -> Rule:
    """One of a few values."""
    return Rule(
        f"one of {', '.join(map(str, values))}",
        lambda v: any(type(v) is type(one) and v == one for one in values),
    )


def several(rule: Rule, words: str, *, count: int | None = None, rising: bool = False) -> Rule:
    """A tuple or list of one or more values, or of `count`, that keep a rule."""

    def holds(value: Any) -> bool:
        if not isinstance(value, (tuple, list)) or not value or len(value) != (count or len(value)):
            return False
        kept = all(map(rule.holds, value))
        return kept and (not rising or sorted(set(value)) == list(value))

    return Rule(words, holds)


SHARE = between(0, 1)
FRACTION = between(0, 1, "(]")
RISING = several(FRACTION, "two rising numbers in (0, 1]", count=2, rising=True)
FRACTIONS = several(FRACTION, "one or more numbers in (0, 1]")
POSITIVE = between(0, inf, "()", "a number above 0")
NOT_NEGATIVE = between(0, inf, "[)", "a number of at least 0")
SEED = whole(0, 2**63 - 1, "a whole number from 0 to 2**63 - 1")
TEXT = Rule("a text", lambda v: isinstance(v, str))
MAYBE_TEXT = Rule("a text or None", lambda v: v is None or isinstance(v, str))
SWITCH = Rule("True or False", lambda v: isinstance(v, bool))


def option(
    default: Any, rule: Rule, unit: str = "", slider: tuple[float, float, float] | None = None
) -> Any:
    """A dataclass field with a default and its rule.

    Args:
        default: the value where none is given.
        rule: what a value must be.
        unit: of a number, for people.
        slider: lowest and highest value and step of a control that offers the useful part of it.
    """
    return field(default=default, metadata={"rule": rule, "unit": unit, "slider": slider})


def rule_of(one: Field[Any]) -> Rule | None:
    """A field's rule; texts and switches need none of their own."""
    return one.metadata.get("rule") or {str: TEXT, bool: SWITCH}.get(type(one.default))


def validate(options: Any) -> None:
    """Check every field of an option dataclass; its `__post_init__`, or part of it.

    Raises:
        InputError: a field breaks its rule.
    """
    for one in fields(options):
        rule = rule_of(one)
        if rule is not None:
            value = getattr(options, one.name)
            check(one.name, value, rule.words, rule.holds(value))
