"""What is wrong with a request's value, as one plain sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel

SHOWN = 40
"""Characters of a value that a sentence shows at most."""

_FILE = "a file, in JSON as base64"
_AMOUNT = 'a whole number of pixels of at least 0, or as "25%"'
_ARGUMENTS = {
    **dict.fromkeys(("image", "mask", "patch", "style"), _FILE),
    **dict.fromkeys(("left", "right", "top", "bottom"), _AMOUNT),
    "points": "a list of clicks",
    "points[]": "x, y and 1 on the object or 0 on what is none of it",
    "boxes": "a list of boxes",
    "boxes[]": "left, top, right and bottom",
    "options.strength": "a number or a list of numbers",
}
"""Argument, or an item of it -> what it must be, where the kind of error says less."""

_KINDS = {
    "string_type": "a text",
    "string_unicode": "a text in UTF-8",
    "string_too_long": "a text of at most {max_length} characters",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a text or a list of texts",
    "dict_type": "an object",
    "model_type": "an object",
    "literal_error": "one of {expected}",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
}
"""Kind of pydantic's error -> what must be."""


def sentence(error: Mapping[str, Any], body: type[BaseModel] | None = None) -> str:
    """One of pydantic's errors, with the argument, the rule and the value.

    Args:
        error: an item of `ValidationError.errors()`.
        body: what was read, to say which arguments it takes.
    """
    kind, at = error["type"], _name(error["loc"])
    if kind == "extra_forbidden" and body is not None:
        return f"{at} is unknown; {_known(body, at.startswith('options.'))}."
    if kind == "missing" and "[" not in at:
        return f"{at} must be given."
    argument, _, item = at.partition("[")
    context = error.get("ctx", {})
    if "actual_length" in context and not item:
        return f"{at} must be {_KINDS[kind].format(**context)}, got {context['actual_length']}."
    rule = _ARGUMENTS.get(argument + "[]" * bool(item))
    if rule is None and kind == "value_error":
        rule = str(context["error"]).removeprefix("must be ")
    if rule is None:
        rule = _KINDS[kind].format(**context) if kind in _KINDS else "of another kind"
    verb = "must" if rule.startswith("must ") else "must be"
    return f"{at} {verb} {rule.removeprefix('must ')}, got {shown(error['input'])}."


def shown(value: Any) -> str:
    """A value in at most `SHOWN` characters; of a file, its length."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, str):
        text = repr(value[:SHOWN])
    else:
        # Piece by piece: it may be long, or nested deeper than Python can go.
        text = ""
        for piece in json.JSONEncoder(default=repr).iterencode(value):
            text += piece
            if len(text) > SHOWN:
                break
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _name(path: tuple[int | str, ...]) -> str:
    """An argument, or an option or an item of it.

    >>> _name(("points", 0, 2)), _name(("options", "steps")), _name(("left", "constrained-int"))
    ('points[0]', 'options.steps', 'left')
    """
    depth = 2 if path[:1] == ("options",) else 1
    names = [str(part) for part in path[:depth]]
    index = next((f"[{part}]" for part in path[depth:] if isinstance(part, int)), "")
    text = ".".join(name if name.isidentifier() else repr(name) for name in names)[:SHOWN]
    return (text or "the body") + index


def _known(body: type[BaseModel], options: bool) -> str:
    arguments = f"arguments are {', '.join(body.model_fields)}"
    if not options:
        return arguments
    (model,) = (
        one for one in get_args(body.model_fields["options"].annotation) if one is not type(None)
    )
    return f"options are {', '.join(model.model_fields)}; {arguments}"
