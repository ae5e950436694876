"""`textseg eval`: figures for masks and edits, each protocol a subcommand."""

from __future__ import annotations

import argparse
import importlib
import importlib.util

from ..errors import MissingDependencyError

DESCRIPTION = "Measure masks and edits against annotations, under named protocols."
EXAMPLES = """\
`textseg eval COMMAND --help` shows a command's options and examples; docs/evaluation.md states
every protocol in full.
"""

SUBCOMMANDS: dict[str, tuple[str, str]] = {
    "coco": ("textseg_eval.commands.coco", "masks against COCO annotations"),
    "refer": ("textseg_eval.commands.refer", "masks of referring expressions"),
    "folder": ("textseg_eval.commands.folder", "masks against a plain folder of masks"),
    "sweep": ("textseg_eval.commands.sweep", "what each option is worth, from one pass"),
    "compare": ("textseg_eval.commands.compare", "runs side by side, with paired intervals"),
    "edit": ("textseg_eval.commands.edit", "what edits change, and what they leave"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    if importlib.util.find_spec("textseg_eval") is None:
        raise MissingDependencyError(
            "textseg eval needs the package textseg_eval, which is installed beside textseg"
        )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (module_name, help_text) in SUBCOMMANDS.items():
        if importlib.util.find_spec(module_name) is None:
            continue
        module = importlib.import_module(module_name)
        command = subparsers.add_parser(
            name,
            help=help_text,
            description=getattr(module, "DESCRIPTION", help_text),
            epilog=getattr(module, "EXAMPLES", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)


def run(args: argparse.Namespace) -> int:
    return args.run(args)
