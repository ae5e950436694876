"""The command line. Each command is one module, imported only when it is asked for.

A command module offers `add_arguments(parser)` and `run(args) -> int` (an exit code), and may offer
`DESCRIPTION` and `EXAMPLES`, shown by its `--help`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from .._version import __version__
from ..errors import ImageWarning, TextsegError
from .parser import EXIT_USAGE, CommandParser
from .progress import end_wait, log_to_stderr, one_line, show_wait
from .streams import StdoutError, discard_stdout, prepare_streams

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "one picture": {
        "segment": ("textseg.cli.segment", "cut out what a query names"),
        "edit": ("textseg.cli.edit", "change what a query names, and nothing else"),
        "outpaint": ("textseg.cli.outpaint", "extend an image beyond its borders"),
        "generate": ("textseg.cli.generate", "make an image from a prompt"),
        "caption": ("textseg.cli.caption", "say what an image shows"),
        "inspect": ("textseg.cli.inspect", "show how a result was made"),
    },
    "many pictures": {
        "batch": ("textseg.cli.batch", "work through folders and manifests"),
        "eval": ("textseg.cli.eval", "measure masks and edits against annotations"),
        "bench": ("textseg.cli.bench", "measure speed and memory"),
    },
    "other ways in": {
        "studio": ("textseg.cli.studio", "work in the browser"),
        "serve": ("textseg.cli.serve", "answer over HTTP"),
        "completion": ("textseg.cli.completion", "let the shell complete commands and flags"),
    },
    "models": {
        "models": ("textseg.cli.models", "list, fetch and remove models"),
        "train": ("textseg.cli.train", "train a model, or teach one new things"),
    },
}
COMMANDS: dict[str, tuple[str, str]] = {
    name: entry for group in GROUPS.values() for name, entry in group.items()
}
"""Name -> its module and what it does."""

AT_ONCE = ("completion", "inspect", "models")
"""Commands that load nothing."""

EXIT_OK, EXIT_SOME_FAILED, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 0, 1, 130, 141


def available_commands() -> dict[str, tuple[str, str]]:
    """The commands whose module is installed, in the table's order."""
    return {name: entry for name, entry in COMMANDS.items() if importlib.util.find_spec(entry[0])}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0 when all was done, 1 when some files failed and the rest was done, 2 when nothing was
        (usage, bad input) or standard output cannot be written, 130 after Ctrl-C, 141 when the
        reader of standard output went away.
    """
    warnings.formatwarning = _format_warning
    prepare_streams()
    try:
        words = list(sys.argv[1:] if argv is None else argv)
        code = _run_reported(words, own_process=argv is None)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        code = EXIT_BROKEN_PIPE
    except StdoutError as error:
        print(f"textseg: error: {error}", file=sys.stderr)
        code = EXIT_USAGE
    discard_stdout()
    return code


def _run_reported(words: list[str], own_process: bool) -> int:
    try:
        return _run(words, own_process)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_OK if not stop.code else EXIT_USAGE
    except KeyboardInterrupt:
        print("textseg: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except TextsegError as error:
        print(f"textseg: error: {one_line(error)}", file=sys.stderr)
        return EXIT_USAGE
    except MemoryError:
        print("textseg: error: out of memory", file=sys.stderr)
        return EXIT_USAGE


def _format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
    plain: Any = warnings.formatwarning,
) -> str:
    end_wait()
    if issubclass(category, ImageWarning):
        return f"textseg: warning: {one_line(str(message))}\n"
    return plain(message, category, filename, lineno, line)


def command_parser(name: str) -> CommandParser:
    """The parser of one command, with all its flags."""
    place, text = COMMANDS[name]
    module = importlib.import_module(place)
    parser = CommandParser(
        prog=f"textseg {name}",
        description=getattr(module, "DESCRIPTION", text),
        epilog=getattr(module, "EXAMPLES", None),
    )
    module.add_arguments(parser)
    parser.set_defaults(run_command=module.run)
    return parser


def _run(words: list[str], own_process: bool) -> int:
    commands = available_commands()
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    if words and words[0] in commands:
        name, *rest = words
        parser = command_parser(name)
        parser.set_defaults(own_process=own_process)
        args = parser.parse(rest)
        if name not in AT_ONCE and not getattr(args, "quiet", False):
            model = getattr(args, "arch", None) or getattr(args, "model", None)
            show_wait(f"loading {model}..." if model else f"starting {name}...")
        if own_process:
            # Read when torch is loaded. Threads that wait would spin, and on a machine with other
            # work keep those that they wait for from the cores.
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        try:
            with log_to_stderr() if getattr(args, "verbose", False) else nullcontext():
                return args.run_command(args)
        finally:
            end_wait()
    parser = CommandParser(
        prog="textseg",
        usage="textseg COMMAND ... | textseg [--help] [--version]",
        description="Cut out, edit and measure what you name in an image.",
        epilog=_command_list(commands),
    )
    parser.add_argument("--version", action="version", version=f"textseg {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=[*commands], help=argparse.SUPPRESS)
    if not words:
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    parser.parse_args(words)
    parser.error("the command must come first")


def _command_list(commands: Mapping[str, tuple[str, str]]) -> str:
    width = max(map(len, commands), default=0)
    lines = []
    for title, group in GROUPS.items():
        lines += [f"{title}:"]
        lines += [f"  {name:{width}}  {commands[name][1]}" for name in group if name in commands]
        lines += [""]
    return (
        "\n".join(lines)
        + """
to begin with:
  textseg segment park.jpg -q "the dog" -o dog.png
  textseg edit park.jpg -q "the dog" -p "a cat" -o cat.png
  textseg studio

`textseg COMMAND --help` shows a command's options and examples."""
    )
