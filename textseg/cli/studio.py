"""`textseg studio`: find, correct and edit in the browser."""

from __future__ import annotations

import argparse
import socket
import sys

from ..errors import InputError
from .options_arguments import add_model_arguments, add_verbose, refuse
from .progress import end_wait

DESCRIPTION = """\
Find things in pictures, correct their masks, approve them and edit, in the browser. The page is
served to this machine only (127.0.0.1), and nothing leaves it; `textseg serve` is for others.
Ctrl-C ends it. Needs the extra: pip install 'textseg[studio]'."""
EXAMPLES = """\
examples:
  textseg studio
  textseg studio --open --sample farm
  textseg studio --model sd-legacy/stable-diffusion-v1-5 --device cuda --dtype float16
"""
FIRST_PORT, LAST_PORT = 7860, 7879


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--port",
        type=int,
        metavar="N",
        help=f"port on this machine (default: the first free one from {FIRST_PORT})",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument(
        "--sample", default="table", metavar="NAME", help="picture to start with (default: table)"
    )
    parser.add_argument(
        "--caption-model",
        metavar="NAME",
        help="who captions: blip, or a model that names nouns (default: blip if it is here, else "
        "--model)",
    )
    add_verbose(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    refuse(
        args.port is None or 1 <= args.port <= 65535,
        f"--port must be from 1 to 65535, got {args.port}",
    )
    from ..studio import StudioSettings, mount, require_gradio

    StudioSettings(sample=args.sample)
    require_gradio()
    listener = _listen(args.port)
    end_wait()
    print(f"textseg studio: starting with {args.model}...", file=sys.stderr, flush=True)
    with listener:
        import fastapi
        import uvicorn

        from ..backbone import load

        model = load(args.model, device=args.device, dtype=args.dtype)
        app = mount(
            fastapi.FastAPI(openapi_url=None),
            "/",
            model,
            sample=args.sample,
            caption_model=args.caption_model,
        )
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        print(f"textseg studio: {address} (Ctrl-C ends it)", flush=True)
        if args.open:
            import webbrowser

            webbrowser.open(address)

        class Server(uvicorn.Server):
            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                app.state.end_streams()
                await super().shutdown(sockets)

        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
        Server(config).run(sockets=[listener])
    return 0


def _listen(port: int | None) -> socket.socket:
    """A socket on this machine's own address."""
    for number in [port] if port is not None else range(FIRST_PORT, LAST_PORT + 1):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", number))
            return listener
        except OSError:
            listener.close()
    if port is not None:
        raise InputError(f"--port must be free, got {port}")
    raise InputError(f"--port must be given: {FIRST_PORT} to {LAST_PORT} are all taken")
