"""The command line. Each command is one module, imported only when it is asked for.

A command module offers `add_arguments(parser)` and `run(args) -> int` (an exit code), and may offer
`DESCRIPTION` and `EXAMPLES`, shown by its `--help`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from .._version import __version__
from ..errors import ImageWarning, TextsegError
from .progress import end_wait, show_wait
from .streams import StdoutError, discard_stdout, prepare_streams

COMMANDS: dict[str, tuple[str, str]] = {
    "segment": ("textseg.cli.segment", "cut out what a query names"),
    "edit": ("textseg.cli.edit", "change what a query names, and nothing else"),
    "generate": ("textseg.cli.generate", "make an image from a prompt"),
    "caption": ("textseg.cli.caption", "say what an image shows"),
    "inspect": ("textseg.cli.inspect", "show how a result was made"),
    "batch": ("textseg.cli.batch", "work through folders and manifests"),
    "eval": ("textseg.cli.eval", "measure masks and edits against annotations"),
    "bench": ("textseg.cli.bench", "measure speed and memory"),
    "studio": ("textseg.cli.studio", "work in the browser"),
    "serve": ("textseg.cli.serve", "answer over HTTP"),
    "models": ("textseg.cli.models", "list, fetch and remove models"),
    "train": ("textseg.cli.train", "train a model that knows absence"),
}

_ARGUMENT = re.compile(r"(?<![\w'\"])([a-z]+(?:_[a-z]+)+)(?:=True\b|(?= must ))")

AT_ONCE = ("inspect", "models")
"""Commands that load nothing."""

EXIT_OK, EXIT_SOME_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 0, 1, 2, 130, 141


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


def one_line(error: BaseException | str) -> str:
    """An error's message without line breaks, its Python arguments written as flags."""
    text = " ".join(str(error).split()) or type(error).__name__
    return _ARGUMENT.sub(lambda found: "--" + found[1].replace("_", "-"), text)


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


class CommandParser(argparse.ArgumentParser):
    """Reports a usage error in one line, and takes options and positionals in any order."""

    _nested = False

    def add_subparsers(self, **kwargs: Any) -> Any:
        self._nested = True
        return super().add_subparsers(**kwargs)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        # argparse cannot mix the two where a positional chooses a parser of its own.
        return self.parse_args(words) if self._nested else self.parse_intermixed_args(words)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def _run(words: list[str], own_process: bool) -> int:
    commands = available_commands()
    if words and words[0] in commands:
        name, *rest = words
        module = importlib.import_module(commands[name][0])
        parser = CommandParser(
            prog=f"textseg {name}",
            description=getattr(module, "DESCRIPTION", commands[name][1]),
            epilog=getattr(module, "EXAMPLES", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(parser)
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
            return module.run(args)
        finally:
            end_wait()
    width = max(map(len, commands), default=0)
    parser = CommandParser(
        prog="textseg",
        usage="textseg [--help] [--version] COMMAND ...",
        description="Cut out, edit and measure what you name in an image.",
        epilog="commands:\n"
        + "".join(f"  {name:{width}}  {text}\n" for name, (_, text) in commands.items())
        + "\n`textseg COMMAND --help` shows a command's options and examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"textseg {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=[*commands], help=argparse.SUPPRESS)
    parser.parse_args(words)
    parser.error("the command must come first")
