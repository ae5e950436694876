"""Option dataclasses as command-line flags of the same names, and the flags commands share."""

from __future__ import annotations

import argparse
import dataclasses
import gc
from collections.abc import Callable, Collection
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from ..errors import InputError
from ..option_table import option_table
from ..options import NO_REFINEMENT, ContrastOptions, RefineOptions, override

if TYPE_CHECKING:
    from ..backbone import Backbone


def add_options(
    parser: argparse.ArgumentParser,
    options: type,
    *,
    title: str,
    exclude: Collection[str] = (),
) -> None:
    """Give a parser one flag per field of an option dataclass, with its help, unit and default.

    Flags that are not given leave no trace in the parsed arguments, so that a model's calibrated
    defaults stay in force; `given_options` collects the others.

    Args:
        parser: where the flags go.
        options: a frozen dataclass whose fields are str, int, float, bool, Literal or tuple of
            numbers (written with commas).
        title: heading of the group in `--help`.
        exclude: fields without a flag.
    """
    group = parser.add_argument_group(title)
    for option in option_table(options).values():
        if option.name in exclude:
            continue
        flag = "--" + option.name.replace("_", "-")
        text = f"{option.help.rstrip('.')}; default {_spell(option.default)}".replace("%", "%%")
        common: dict[str, Any] = {"dest": option.name, "default": argparse.SUPPRESS, "help": text}
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


def given_options(args: argparse.Namespace, *options: type) -> dict[str, Any]:
    """The option fields given on the command line, by name; `--no-refine` counts as its parts."""
    off = RefineOptions in options and not getattr(args, "refine", True)
    given = dict(NO_REFINEMENT) if off else {}
    for kind in options:
        for field in dataclasses.fields(kind):
            if hasattr(args, field.name):
                given[field.name] = getattr(args, field.name)
    return given


def add_mask_options(parser: argparse.ArgumentParser) -> None:
    """The flags of `ContrastOptions` and `RefineOptions`."""
    add_options(parser, ContrastOptions, title="contrast (a model's own defaults go first)")
    add_options(parser, RefineOptions, title="mask (a model's own defaults go first)")


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
    """The flags `--model`, `--device` and `--dtype`."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="mini", metavar="NAME",
                       help="the embedded 'mini', a pipeline folder, or the hub id of a model "
                            "that `textseg models download` fetched (default: mini)")  # fmt: skip
    group.add_argument("--device", metavar="DEVICE",
                       help="cpu, cuda, cuda:1, mps (default: the best there is)")  # fmt: skip
    group.add_argument("--dtype", metavar="DTYPE",
                       help="float32, float16, bfloat16 (default: what suits it)")  # fmt: skip


def add_beside_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of what is loaded beside a model; `load_given` loads it."""
    group = parser.add_argument_group("beside the model (see docs/models.md)")
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


def add_refine_switch(parser: argparse.ArgumentParser) -> None:
    """The flags `--refine` and `--no-refine` for commands with `RefineOptions` flags."""
    parser.add_argument("--refine", action=argparse.BooleanOptionalAction, default=True,
                        help="filter, CRF, morphology and area rule on the mask (--no-refine: "
                             "threshold only, plus what is asked for by its flag)")  # fmt: skip


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags `--json` and `--quiet`."""
    parser.add_argument("--json", action="store_true", help="one JSON object per result on stdout")
    parser.add_argument("--quiet", action="store_true", help="errors only")


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
            raise argparse.ArgumentTypeError(
                f"must be one or more {kind}, got {wrong[0] if wrong else text!r}"
            )
        return words

    return parse


_METAVARS = {int: "N", float: "X", str: "TEXT"}


def _spell(value: Any) -> str:
    """A default as it would be given on the command line."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
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
