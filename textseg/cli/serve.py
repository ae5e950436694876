"""`textseg serve`: answer over HTTP."""

from __future__ import annotations

import argparse
import os
import sys

from ..server import ServerOptions, need_extra
from .options_arguments import (
    add_model_arguments,
    add_options,
    add_verbose,
    given_options,
    refuse,
)
from .progress import end_wait

DESCRIPTION = """\
Answer over HTTP with one model: segment, edit, generate and caption; the studio at / where it is
installed. Listens on this machine only, unless there is a token."""
EXAMPLES = """\
A token is safer in TEXTSEG_TOKEN, as other users can see command lines. Further tokens, for callers
that must not see each other's jobs, are separated by commas in TEXTSEG_TOKEN or given by several
--token. Stop with Ctrl-C or SIGTERM: what runs ends first.

examples:
  textseg serve
  TEXTSEG_TOKEN=$(openssl rand -hex 24) textseg serve --host 0.0.0.0
  curl -F image=@park.jpg -F query="the dog" -H "Accept: image/png" \\
       http://127.0.0.1:8300/v1/segment -o dog.png
"""

TOKEN_VARIABLE = "TEXTSEG_TOKEN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--token",
        action="append",
        metavar="TOKEN",
        help=f"what callers must show; may be repeated (default: ${TOKEN_VARIABLE})",
    )
    parser.add_argument(
        "--caption-model", metavar="NAME", help="who captions: blip, or a BLIP folder"
    )
    parser.add_argument("--quiet", action="store_true", help="errors only")
    add_verbose(parser)
    add_model_arguments(parser)
    add_options(parser, ServerOptions, title="server", exclude=("tokens",))


def run(args: argparse.Namespace) -> int:
    options = ServerOptions(tokens=_tokens(args.token), **given_options(args, ServerOptions))
    need_extra()

    from ..backbone import load
    from ..captioning import BLIP, BlipCaptioner, is_blip
    from ..server.app import build
    from ..server.running import serve

    captioner = None
    if args.caption_model is not None:
        name = BLIP if args.caption_model == "blip" else args.caption_model
        refuse(is_blip(name), f"caption-model must be a BLIP model, got {args.caption_model!r}")
        captioner = BlipCaptioner.load(name, device=args.device)
    model = load(args.model, device=args.device, dtype=args.dtype)
    if os.path.isdir(model.name):
        # Callers learn the model's name, not where it lies.
        model.name = os.path.basename(os.path.abspath(model.name))

    def say(address: str) -> None:
        if not args.quiet:
            print(f"textseg: {model.name} answers at {address}", file=sys.stderr, flush=True)

    app = build(model, options, captioner)
    end_wait()
    serve(app, options, say)
    return 0


def _tokens(given: list[str] | None) -> tuple[str, ...]:
    if given is not None:
        return tuple(given)
    return tuple(filter(None, os.environ.get(TOKEN_VARIABLE, "").split(",")))
