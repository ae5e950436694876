"""A server in this process, and a plain way to talk to it."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fake_backbone import FakeBackbone
from PIL import Image

if TYPE_CHECKING:
    from textseg.server.running import GracefulServer

for _name in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
    pytest.importorskip(_name, reason=f"{_name} is not installed; it comes with textseg[server]")

DOG, BALL = (0.25, 0.5, 0.75, 0.875), (0.5, 0.0, 1.0, 0.25)


class HeldBackbone(FakeBackbone):
    """Predicts only while `free` is set, each time after `pause` seconds; `asked` says that it was
    asked."""

    pause = 0.0

    def __init__(self, **arguments: Any) -> None:
        super().__init__({"dog": DOG, "ball": BALL}, **arguments)
        self.free, self.asked = threading.Event(), threading.Event()
        self.free.set()

    def predict(self, noisy: Any, t: int, embedding: Any, **told: Any) -> Any:
        self.asked.set()
        assert self.free.wait(60)
        time.sleep(self.pause)
        return super().predict(noisy, t, embedding, **told)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        """The kind of a refusal, which is checked to be one plain sentence."""
        error = self.json["error"]
        assert set(error) == {"kind", "message"}
        assert error["message"] and "\n" not in error["message"]
        for foreign in ("Traceback", "Input should", "constrained", "Extra inputs", "Field requ"):
            assert foreign not in error["message"]
        return error["kind"]


@dataclass
class Live:
    """A running server and its insides."""

    port: int
    server: GracefulServer
    app: Any
    model: Any
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            return read(connection)

    def post(self, path: str, content: Any, **headers: str) -> Answer:
        """A JSON body; `headers` with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask(
            "POST", path, json.dumps(content), {"Content-Type": "application/json"} | named
        )

    def raw(self, data: bytes, seconds: float = 20) -> bytes:
        """Everything the server says to some bytes, until it closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as sock:
            sock.sendall(data)
            said = b""
            with contextlib.suppress(ConnectionError):
                while part := sock.recv(65536):
                    said += part
            return said

    def wait_for(self, condition: Any, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not come to that"
            time.sleep(0.01)


def read(connection: http.client.HTTPConnection) -> Answer:
    response = connection.getresponse()
    body = response.read()
    return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, body)


@contextlib.contextmanager
def live(model: Any = None, **settings: Any) -> Iterator[Live]:
    """A server on a free port, stopped in the end."""
    from textseg.server import ServerOptions
    from textseg.server.app import build
    from textseg.server.running import GracefulServer

    model = model or HeldBackbone()
    options = ServerOptions(**{"port": 0, "studio": False, "grace": 5.0} | settings)
    app = build(model, options)
    started, address = threading.Event(), []

    def on_start(url: str) -> None:
        address.append(url)
        started.set()

    server = GracefulServer(app, options, on_start)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert started.wait(30)
    running = Live(int(address[0].rpartition(":")[2]), server, app, model, thread)
    try:
        yield running
    finally:
        if isinstance(model, HeldBackbone):
            model.free.set()
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def png(height: int = 40, width: int = 64, seed: int = 0) -> bytes:
    """A PNG of smooth noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3))
    return encode(np.kron(pixels, np.ones((8, 8, 1))).astype(np.uint8))


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def multipart(*parts: tuple[str, Any], filename: str = "image.png") -> tuple[bytes, dict[str, str]]:
    """A form of fields (texts) and files (bytes), and its header."""
    chunks = []
    for name, value in parts:
        head = f'Content-Disposition: form-data; name="{name}"'
        if isinstance(value, bytes):
            head += f'; filename="{filename}"'
        data = value if isinstance(value, bytes) else value.encode()
        chunks.append(b"--edge\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n")
    body = b"".join(chunks) + b"--edge--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=edge"}
