"""Load `textseg serve` with many clients: answers, latency, throughput, memory, batching.

    pip install 'textseg[server]'
    python eval/bench_server.py --clients 16 --seconds 120

Starts servers of its own with `mini`, which share the machine with the clients. Each client asks
one question after the other, about 48 images in turn where the server keeps 4 (32 where it predicts
together), so that every image is new to it, with cheap options (2 draws, no CRF) unless --full. The
CPU seconds per answer tell runs apart even on a machine that others use as well.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import io
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = sorted((ROOT / "data" / "samples").glob("*.jpg"))
QUERIES = ("the dog", "the boat", "the apple", "the tree", "the car")
IMAGES = 48
CHEAP = {"samples": 2, "crf": False}


class Server:
    """A `textseg serve` process on a free port; terminated at the end."""

    def __init__(self, *arguments: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name) / "log"
        command = [sys.executable, "-m", "textseg", "serve", "--port", "0", "--no-studio"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *arguments], stdout=subprocess.DEVNULL, stderr=log, cwd=ROOT
            )
        self.url = ""

    def __enter__(self) -> Server:
        end = time.monotonic() + 600
        while not self.url:
            found = re.search(r"answers at (\S+)", self.log())
            if self.process.poll() is not None or time.monotonic() > end:
                said = self.log()
                self.__exit__()
                raise RuntimeError(f"the server did not start: {said}")
            self.url = found.group(1) if found else ""
            time.sleep(0.1)
        return self

    def __exit__(self, *error: Any) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._folder.cleanup()

    def log(self) -> str:
        """What it wrote to its standard error so far."""
        return self._log.read_text("utf-8", "replace")

    def memory(self) -> float:
        """Bytes it holds, from /metrics."""
        return self.figure("process_resident_memory_bytes")

    def figure(self, name: str) -> float:
        """One value of /metrics."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        return float(found.group(1)) if found else 0.0


def image_form(
    query: str, options: dict[str, Any] | None = None, seed: int | None = None
) -> tuple[bytes, dict[str, str]]:
    """A form with a sample, or with a variant of one that no other seed has."""
    data = SAMPLES[(seed or 0) % len(SAMPLES)].read_bytes()
    if seed is not None:
        data = _variant(data, seed)
    parts = [("image", data), ("query", query.encode())]
    if options:
        parts.append(("options", json.dumps(options).encode()))
    body = b"".join(
        b'--edge\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
        % (name.encode(), b'; filename="x"' if name == "image" else b"", value)
        for name, value in parts
    )
    return body + b"--edge--\r\n", {"Content-Type": "multipart/form-data; boundary=edge"}


def _variant(data: bytes, seed: int) -> bytes:
    from PIL import Image

    pixels = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    pixels[0, 0] = seed % 256, seed // 256 % 256, seed // 65536
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def post(
    url: str, body: bytes, headers: dict[str, str], path: str = "/v1/segment"
) -> tuple[int, bytes, float]:
    """Status, body, and the seconds that Retry-After asks for."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=120)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), float(answer.headers.get("Retry-After") or 0)
    finally:
        connection.close()


def load(
    server: Server, clients: int, seconds: float, options: dict[str, Any], same: bool = False
) -> dict[str, Any]:
    """Keep a server busy and say how it did.

    Args:
        same: all clients ask about one image.
    """
    bodies = [
        image_form(query, options, None if same else 1 + image)
        for image in range(IMAGES)
        for query in QUERIES
    ]
    # Each question comes after those on all other images, so that nothing about its image is kept.
    numbers = itertools.count()
    statuses: collections.Counter[int | str] = collections.Counter()
    times: list[float] = []
    guard = threading.Lock()
    end = time.monotonic() + seconds

    def ask() -> None:
        while time.monotonic() < end:
            round_, image = divmod(next(numbers), IMAGES)
            number = image * len(QUERIES) + round_ % len(QUERIES)
            begun = time.perf_counter()
            status: int | str
            try:
                status, _, wait = post(server.url, *bodies[number])
            except OSError as error:
                status, wait = type(error).__name__, 1.0
            with guard:
                statuses[status] += 1
                if status == 200:
                    times.append(time.perf_counter() - begun)
            if wait:
                time.sleep(min(wait, 5))

    cpu = server.figure("process_cpu_seconds_total")
    memory = []
    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for point in (0.1, 0.55, 0.98):
        time.sleep(max(0.0, end - seconds * (1 - point) - time.monotonic()))
        memory.append(round(server.memory() / 1e6))
    for thread in threads:
        thread.join()
    cpu = server.figure("process_cpu_seconds_total") - cpu
    taken = np.array(times or [np.nan])
    return {
        "clients": clients,
        "seconds": seconds,
        "answers": dict(sorted(statuses.items(), key=str)),
        "per second": round(len(times) / seconds, 2),
        "server's CPU seconds per answer": round(cpu / max(len(times), 1), 3),
        "p50 s": round(float(np.percentile(taken, 50)), 3),
        "p99 s": round(float(np.percentile(taken, 99)), 3),
        "memory MB at start, middle, end": memory,
    }


def say(text: str) -> None:
    """Writes a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Runs: many clients; one client; many, with predictions made together; many, on one image."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=120.0, help="of the long run")
    parser.add_argument("--short", type=float, default=30.0, help="seconds of the other runs")
    parser.add_argument("--warm", type=float, default=15.0, help="seconds before each run")
    parser.add_argument("--full", action="store_true", help="the model's own options")
    parser.add_argument("--serve", default="", help="further arguments of `textseg serve`")
    parser.add_argument("--runs", default="many,one,together,same", help="which of them")
    args = parser.parse_args()
    options = {} if args.full else CHEAP
    bad = 0
    for title, arguments, clients, seconds, same in (
        ("many", (), args.clients, args.seconds, False),
        ("one", (), 1, args.short, False),
        ("together", ("--batch", "16"), args.clients, args.short, False),
        ("same", (), args.clients, args.short, True),
    ):
        if title not in args.runs.split(","):
            continue
        with Server(*arguments, *shlex.split(args.serve)) as server:
            load(server, clients, args.warm, options)
            found = load(server, clients, seconds, options, same)
            batches = server.figure("textseg_batches_total")
            if batches:
                found["requests per batch"] = round(
                    server.figure("textseg_batched_requests_total") / batches, 1
                )
            say(json.dumps({"run": title, "cores": os.cpu_count()} | found))
            bad += sum(count for status, count in found["answers"].items()
                       if status not in (200, 429))  # fmt: skip
    say(f"answers other than 200 and 429: {bad}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
