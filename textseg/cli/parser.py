"""How the command line reads its arguments, shows its help and says what is wrong with them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

EXIT_USAGE = 2
OWN = ("-h", "--help", "--version")


class CommandParser(argparse.ArgumentParser):
    """Reports a usage error in one line with the nearest word there is, takes options and
    positionals in any order, and shows a usage of one line.

    What is added to the parser itself goes into the first group, the rest into groups of their own.
    """

    _nested = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def add_subparsers(self, **kwargs: Any) -> Any:
        self._nested = True
        return super().add_subparsers(parser_class=_ActionParser, **kwargs)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        # argparse cannot mix the two where a positional chooses a parser of its own.
        if self._nested:
            args, rest = self.parse_known_args(words)
        else:
            self.check_flags(words)
            args, rest = self.parse_known_intermixed_args(words)
        self.refuse_unknown(rest)
        return args

    def check_flags(self, words: Sequence[str]) -> None:
        """Refuse a flag that there is not, before anything is said of those that are missing."""
        flags = [*self._option_string_actions]
        for word in words[: words.index("--")] if "--" in words else words:
            name = word.partition("=")[0]
            if re.fullmatch(r"--[\w-]+", name) and name not in flags:
                self.refuse_unknown([word])

    def refuse_unknown(self, words: Sequence[str]) -> None:
        if words:
            flag = words[0].partition("=")[0]
            near = nearest(flag, self._option_string_actions) if flag.startswith("--") else ""
            self.error(f"unrecognized arguments: {' '.join(words)}{near}")

    def format_usage(self) -> str:
        return f"usage: {self.usage or self._short_usage()}\n"

    def format_help(self) -> str:
        self.usage = (self.usage or self._short_usage()).strip()
        if len([group for group in self._action_groups if group._group_actions]) > 3:
            self._optionals.title = "most used"
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}; see {self.prog} --help\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        allowed: Any = action.choices
        if allowed is None or value in allowed:
            return
        name = action.metavar if isinstance(action.metavar, str) else "value"
        what = "" if action.option_strings else f"{name.lower()} "
        words = ", ".join(map(str, allowed))
        raise argparse.ArgumentError(
            action if action.option_strings else None,
            f"{what}must be one of {words}, got {value!r}{nearest(value, allowed)}",
        )

    def _short_usage(self) -> str:
        formatter = self._get_formatter()
        needed = [self.prog]
        for action in self._actions:
            if not action.option_strings:
                shown = formatter._get_default_metavar_for_positional(action)
                needed.append(
                    re.sub(r" \[.*\.\.\.\]$", "...", formatter._format_args(action, shown))
                )
            elif action.required:
                shown = formatter._get_default_metavar_for_optional(action)
                needed.append(f"{action.option_strings[0]} {formatter._format_args(action, shown)}")
        if {flag for action in self._actions for flag in action.option_strings} - {*OWN}:
            needed.append("[options]")
        return " ".join(needed)


class _ActionParser(CommandParser):
    """Of a command's own commands, as `models list`: what it does not know, nobody else does."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.check_flags(args)
        known, rest = super().parse_known_args(args, namespace)
        self.refuse_unknown(rest)
        return known, rest


def nearest(word: str, words: Collection[str]) -> str:
    """What to add to an error where one of `words` is probably meant, or "".

    >>> nearest("--treshold", ["--threshold", "--strength"])
    "; did you mean '--threshold'?"
    """
    close = get_close_matches(str(word), [str(one) for one in words], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
