"""Option dataclasses as command-line flags of the same names, and the flags commands share."""

from __future__ import annotations

import argparse
import dataclasses
import gc
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from ..errors import InputError
from ..option_table import option_table
from ..options import (
    NO_REFINEMENT,
    THRESHOLD_RULES,
    ContrastOptions,
    RefineOptions,
    override,
)
from .parser import nearest

if TYPE_CHECKING:
    from ..backbone import Backbone


MODEL = "the model, and what is loaded beside it (see docs/models.md)"
PICTURE = "about the picture"


def add_group(parser: argparse.ArgumentParser, title: str) -> Any:
    """The group of flags of a parser under a heading, made if it is not there yet."""
    there = (group for group in parser._action_groups if group.title == title)
    return next(there, None) or parser.add_argument_group(title)


def add_options(
    parser: argparse.ArgumentParser,
    options: type,
    *,
    title: str,
    exclude: Collection[str] = (),
    first: Mapping[str, str] = MappingProxyType({}),
    apart: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Give a parser one flag per field of an option dataclass, with its help, unit and default, and
    beside those of `RefineOptions` the flags `--refine` and `--no-refine`.

    Flags that are not given leave no trace in the parsed arguments, so that a model's calibrated
    defaults stay in force; `given_options` collects the others. Both defaults are shown: that of
    the dataclass, and that of `mini` where it differs.

    Args:
        parser: where the flags go.
        options: a frozen dataclass whose fields are str, int, float, bool, Literal or tuple of
            numbers (written with commas).
        title: heading of the group in `--help`.
        exclude: fields without a flag.
        first: fields that go into the parser's first group, each with a short help; "" takes the
            whole one.
        apart: heading of further groups, by how the names of their fields begin.
    """
    groups = {"": add_group(parser, title)}
    groups |= {start: add_group(parser, text) for start, text in apart.items()}
    if options is RefineOptions:
        groups[""].add_argument(
            "--refine", action=argparse.BooleanOptionalAction, default=True,
            help="filter, CRF, morphology and area rule on the mask; --no-refine: threshold only, "
                 "plus what is asked for by its flag (default: on)")  # fmt: skip
    embedded = _mini_defaults(options)
    for option in option_table(options).values():
        if option.name in exclude:
            continue
        start = next((start for start in apart if option.name.startswith(start)), "")
        group = parser if option.name in first else groups[start]
        flag = "--" + option.name.replace("_", "-")
        text = first.get(option.name) or option.help.rstrip(".")
        own, minis = _spell(option.default), _spell(embedded.get(option.name, option.default))
        text += f" (default: {own})" if own == minis else f" (default: {own}; mini: {minis})"
        common: dict[str, Any] = {
            "dest": option.name, "default": argparse.SUPPRESS, "help": text.replace("%", "%%")
        }  # fmt: skip
        hint = option.hint
        if hint is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        elif get_origin(hint) is Literal:
            group.add_argument(flag, choices=get_args(hint), **common)
        elif get_origin(hint) is tuple:
            group.add_argument(flag, type=_numbers(get_args(hint)[0]), metavar="X[,X...]", **common)
        elif hint == str | float:
            group.add_argument(flag, type=_number_or_text, metavar="X|TEXT", **common)
        else:
            metavar = option.unit.upper() or _METAVARS.get(hint, "TEXT")
            group.add_argument(flag, type=hint, metavar=metavar, **common)


_SECTIONS = {"ContrastOptions": "contrast", "RefineOptions": "refine", "EditOptions": "edit",
             "GenerateOptions": "generate"}  # fmt: skip
"""Where a model's `textseg.json` holds its defaults."""


@cache
def _mini_defaults(options: type) -> Mapping[str, Any]:
    from ..backbone.folders import read_calibration
    from ..backbone.registry import EMBEDDED

    return read_calibration(EMBEDDED / "mini").get(_SECTIONS.get(options.__name__, ""), {})


def given_options(args: argparse.Namespace, *options: type) -> dict[str, Any]:
    """The option fields given on the command line, by name; `--no-refine` counts as its parts."""
    off = RefineOptions in options and not getattr(args, "refine", True)
    given = dict(NO_REFINEMENT) if off else {}
    for kind in options:
        for field in dataclasses.fields(kind):
            if hasattr(args, field.name):
                given[field.name] = getattr(args, field.name)
    return given


FIRST_OF_CONTRAST = {
    "samples": "noise draws: more are slower and steadier",
    "seed": "of the noise draws",
}
FIRST_OF_MASK = {
    "threshold": "where the mask is cut: a number from 0 to 1, lower for more, or a rule: "
    + ", ".join(THRESHOLD_RULES)
}
CRF_GROUP = {"crf": "dense CRF, a part of the mask"}


def add_mask_options(parser: argparse.ArgumentParser) -> None:
    """The flags of `ContrastOptions` and `RefineOptions`."""
    add_options(parser, ContrastOptions, title="contrast, what the model is asked",
                first=FIRST_OF_CONTRAST)  # fmt: skip
    add_options(parser, RefineOptions, title="mask, how the contrast is cut",
                first=FIRST_OF_MASK, apart=CRF_GROUP)  # fmt: skip


def given_mask_options(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The given fields of `ContrastOptions` and of `RefineOptions`.

    Raises:
        InputError: a field breaks its rule; better said before a model is loaded.
    """
    contrast, refine = given_options(args, ContrastOptions), given_options(args, RefineOptions)
    ContrastOptions(**contrast)
    override(RefineOptions(), refine)
    return contrast, refine


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags `--model`, `--device` and `--dtype`, the first two among the most used."""
    parser.add_argument("--model", default="mini", metavar="NAME",
                        help="the embedded 'mini', a pipeline folder, or the hub id of a model "
                             "that `textseg models download` fetched (default: mini)")  # fmt: skip
    parser.add_argument("--device", metavar="DEVICE",
                        help="cpu, cuda, cuda:1, mps (default: the best there is)")  # fmt: skip
    group = add_group(parser, MODEL)
    group.add_argument("--dtype", metavar="DTYPE",
                       help="float32, float16, bfloat16 (default: float16 on cuda, else "
                            "float32)")  # fmt: skip


def add_beside_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of what is loaded beside a model; `load_given` loads it."""
    group = add_group(parser, MODEL)
    group.add_argument("--lora", action="append", metavar="FILE[=SCALE]",
                       help="LoRA weights (safetensors) to add; repeatable")  # fmt: skip
    group.add_argument("--embedding", action="append", metavar="FILE",
                       help="a learned word (textual inversion, safetensors); "
                            "repeatable")  # fmt: skip
    group.add_argument("--transformer", metavar="FILE",
                       help="safetensors or GGUF weights in place of the UNet's or "
                            "transformer's")  # fmt: skip
    group.add_argument("--config", metavar="NAME",
                       help="for a single-file checkpoint: a model of its kind")  # fmt: skip
    group.add_argument("--quantize", metavar="BITS", help="8bit, by bitsandbytes")
    group.add_argument("--offload", metavar="HOW",
                       help="model, layer or disk: where weights wait (less memory, "
                            "slower)")  # fmt: skip


def load_given(args: argparse.Namespace) -> Backbone:
    """The model that the flags of `add_model_arguments` and `add_beside_arguments` ask for."""
    loras: list[tuple[str, float]] = []
    for text in args.lora or ():
        path, equals, scale = text.rpartition("=")
        try:
            loras.append((path, float(scale)) if equals else (text, 1.0))
        except ValueError:
            raise InputError(f"--lora must be FILE or FILE=SCALE, got {text!r}") from None
    # What imports make stays: looking through it for garbage takes a fifth of their time.
    gc.disable()
    try:
        from ..backbone import load
        from ..backbone.lean import alone

        with alone() if args.own_process else nullcontext():
            return load(
                args.model, device=args.device, dtype=args.dtype, lora=loras or None,
                embedding=args.embedding, transformer=args.transformer, config=args.config,
                quantize=args.quantize, offload=args.offload,
            )  # fmt: skip
    finally:
        gc.freeze()
        gc.enable()


def add_report_arguments(
    parser: argparse.ArgumentParser, json: str = "one JSON object per result on stdout"
) -> None:
    """The flags `--json`, `--quiet` and `--verbose`."""
    group = parser.add_argument_group("what is said")
    group.add_argument("--json", action="store_true", help=json)
    group.add_argument("--quiet", action="store_true", help="errors only")
    add_verbose(group)


def add_verbose(parser: Any) -> None:
    """The flag `--verbose`, for a parser or a group."""
    parser.add_argument("-v", "--verbose", action="store_true",
                        help="say on stderr what is loaded and measured and how long it takes, "
                             "and show the tracebacks of failures")  # fmt: skip


def add_picture_arguments(parser: argparse.ArgumentParser, *, captions: bool = True) -> None:
    """The flags `--allow-url`, and `--caption` and `--caption-model` where one is needed."""
    group = add_group(parser, PICTURE)
    group.add_argument("--allow-url", action="store_true", help="fetch images given as http(s)")
    if captions:
        group.add_argument("--caption", metavar="TEXT",
                           help="what the image shows, for --reference erase; written by "
                                "--caption-model where it is not given")  # fmt: skip
        group.add_argument("--caption-model", metavar="NAME",
                           help="who captions: blip, or a model that names nouns "
                                "(default: --model)")  # fmt: skip


class Listed(argparse.Action):
    """Values with commas between them, the flag repeated, or both; each is kept once, in order."""

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: Any, flag: object = None
    ) -> None:
        before = getattr(namespace, self.dest, None)
        kept = before if before is not None and before is not self.default else ()
        setattr(namespace, self.dest, list(dict.fromkeys((*kept, *values))))


def add_alias(parser: argparse.ArgumentParser, alias: str, flag: str) -> None:
    """Another name of a flag, which `--help` leaves out."""
    parser._option_string_actions[alias] = parser._option_string_actions[flag]


def result_folder(text: str) -> Path:
    """An argparse type for a folder of results."""
    if text == "-":
        raise argparse.ArgumentTypeError("must be a folder for several files, got '-'")
    return Path(text)


def comma_list(allowed: Collection[str] = ()) -> Callable[[str], list[str]]:
    """An argparse type for words with commas between, for `Listed`: of a set, or any."""

    def parse(text: str) -> list[str]:
        words = [word.strip() for word in text.split(",") if word.strip()]
        wrong = [word for word in words if allowed and word not in allowed]
        if wrong or not words:
            kind = f"of {','.join(allowed)}" if allowed else "words"
            near = nearest(wrong[0], allowed) if wrong else ""
            raise argparse.ArgumentTypeError(
                f"must be one or more {kind}, got {wrong[0] if wrong else text!r}{near}"
            )
        return words

    return parse


_METAVARS = {int: "N", float: "X", str: "TEXT"}


def _spell(value: Any) -> str:
    """A default as it would be given on the command line."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (tuple, list)):
        return ",".join(map(_spell, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def _numbers(kind: type) -> Callable[[str], tuple[Any, ...]]:
    def parse(text: str) -> tuple[Any, ...]:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"must be numbers with commas between, got {text!r}"
            ) from None

    return parse


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def refuse(ok: bool, message: str) -> None:
    """Raise InputError unless `ok`."""
    if not ok:
        raise InputError(message)
