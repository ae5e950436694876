"""The options as one table: what every surface that offers them reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from inspect import cleandoc
from textwrap import wrap
from types import MappingProxyType
from typing import Any, TypeVar, get_type_hints

from .checks import Rule, rule_of

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """A field of an option dataclass: what the command line, the server, the studio and `help()`
    need to offer it.

    Attributes:
        name: of the field.
        hint: its type.
        default: the value where neither the model nor the caller sets one.
        rule: what a value must be; None where the type says all.
        help: what the dataclass's docstring says of it.
        unit: of a number, for people; may be empty.
        slider: lowest and highest value and step of a control; None for what has none.
    """

    name: str
    hint: Any
    default: Any
    rule: Rule | None
    help: str
    unit: str
    slider: tuple[float, float, float] | None


@cache
def option_table(kind: type) -> Mapping[str, Option]:
    """The fields of an option dataclass, by name, in its order.

    >>> from textseg.options import EditOptions
    >>> option_table(EditOptions)["steps"].slider
    (5, 200, 1)
    """
    hints, described = get_type_hints(kind), _field_docs(kind)
    return MappingProxyType({
        one.name: Option(
            one.name, hints[one.name], one.default, rule_of(one), described[one.name],
            one.metadata.get("unit", ""), one.metadata.get("slider"),
        )
        for one in fields(kind)
    })  # fmt: skip


def documented(*kinds: type) -> Callable[[_Function], _Function]:
    """Adds every option, with its default, to a function's docstring."""

    def add(function: _Function) -> _Function:
        lines = []
        for one in (one for kind in kinds for one in option_table(kind).values()):
            text = f"{one.name} ({one.default!r}): {one.help}"
            lines += wrap(text, 92, initial_indent=" " * 4, subsequent_indent=" " * 8)
        title = "Options, by name, with the value where neither the model nor you set one:"
        function.__doc__ = "\n".join([cleandoc(function.__doc__ or ""), "", title, *lines])
        return function

    return add


def _field_docs(options: type) -> dict[str, str]:
    """What an option dataclass's "Attributes:" section says of each field."""
    _, _, section = (options.__doc__ or "").partition("Attributes:\n")
    described: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if not line.strip():
            break
        entry = re.match(r" {8}(\w+(?:, \w+)*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
            described |= dict.fromkeys(names, entry[2])
        else:
            described |= {name: f"{described[name]} {line.strip()}" for name in names}
    return described
