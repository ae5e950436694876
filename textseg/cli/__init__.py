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
from collections.abc import Sequence

from .._version import __version__
from ..errors import TextsegError

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

EXIT_OK, EXIT_SOME_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 0, 1, 2, 130, 141


def available_commands() -> dict[str, tuple[str, str]]:
    """The commands whose module is installed, in the table's order."""
    return {
        name: entry for name, entry in COMMANDS.items() if importlib.util.find_spec(entry[0])
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0 when all was done, 1 when some files failed and the rest was done, 2 when nothing was
        (usage, bad input), 130 after Ctrl-C, 141 when the reader of standard output went away.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_OK if not stop.code else EXIT_USAGE
    except BrokenPipeError:
        # The interpreter flushes standard output once more at exit, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        print("textseg: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except TextsegError as error:
        print(f"textseg: error: {one_line(error)}", file=sys.stderr)
        return EXIT_USAGE
    except MemoryError:
        print("textseg: error: out of memory", file=sys.stderr)
        return EXIT_USAGE


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def _run(words: list[str]) -> int:
    commands = available_commands()
    chosen = next((word for word in words if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="textseg", description="Cut out, edit and measure what you name in an image."
    )
    parser.add_argument("--version", action="version", version=f"textseg {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (module_name, help_text) in commands.items():
        if name != chosen:
            subparsers.add_parser(name, help=help_text)
            continue
        module = importlib.import_module(module_name)
        command = subparsers.add_parser(
            name,
            help=help_text,
            description=getattr(module, "DESCRIPTION", None),
            epilog=getattr(module, "EXAMPLES", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(words)
    return args.run(args)
