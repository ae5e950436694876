"""`textseg completion`: let the shell complete commands, flags and file names."""

from __future__ import annotations

import argparse
import contextlib
import importlib
from typing import Any

from ..errors import MissingDependencyError
from .parser import CommandParser

DESCRIPTION = """\
Print a script by which the shell completes textseg's commands, flags, their values and file names.
Needs the extra: pip install 'textseg[completion]'."""
EXAMPLES = """\
examples:
  source <(textseg completion bash)                 # this shell; in ~/.bashrc, every one
  textseg completion bash > ~/.local/share/bash-completion/completions/textseg
  textseg completion zsh > ~/.zfunc/_textseg        # with ~/.zfunc in fpath
"""
_FILES = ("FILE", "IMAGE", "OUT", "RUN", "SOURCE", "FILE[=SCALE]", "IMAGES", "ANNOTATIONS")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh"), metavar="SHELL", help="bash or zsh")


def run(args: argparse.Namespace) -> int:
    try:
        shtab: Any = importlib.import_module("shtab")
    except ImportError:
        raise MissingDependencyError(
            "completion needs the package shtab: pip install 'textseg[completion]'"
        ) from None
    print(shtab.complete(_whole(shtab), shell=args.shell))
    return 0


def _whole(shtab: Any) -> argparse.ArgumentParser:
    """One parser of everything, which knows where file names stand."""
    from . import available_commands, command_parser

    whole = argparse.ArgumentParser(prog="textseg")
    commands: Any = whole.add_subparsers(parser_class=CommandParser)
    for name, (_, text) in available_commands().items():
        with contextlib.suppress(MissingDependencyError):
            parser = command_parser(name)
            commands._name_parser_map[name] = parser
            commands._choices_actions.append(commands._ChoicesPseudoAction(name, (), text))
            _mark_files(parser, shtab)
    return whole


def _mark_files(parser: argparse.ArgumentParser, shtab: Any) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in set(action.choices.values()):
                _mark_files(one, shtab)
        elif not action.choices:
            names = action.metavar if isinstance(action.metavar, tuple) else (action.metavar,)
            if any(name in _FILES for name in names):
                action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]
            elif "DIR" in names:
                action.complete = shtab.DIRECTORY  # pyright: ignore[reportAttributeAccessIssue]
