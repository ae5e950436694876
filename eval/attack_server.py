"""Throw random requests at `textseg serve`, then stop it under load; says what came of it.

    pip install 'textseg[server]' schemathesis
    python eval/attack_server.py --examples 100

Starts a server of its own with `mini`. Fails if an answer has status 500 or a traceback, if the
server does not answer as before afterwards, or if the stop breaks off an answer.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench_server import Server, image_form, post, say

HERE = Path(__file__).resolve().parent
CHECKS = (
    "refuses_politely,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance,unsupported_method"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=int, default=100, help="random requests per operation")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with Server("--time-limit", "10", "--body-seconds", "10") as server:
        before = post(server.url, *image_form("the dog"))
        found, requests, statuses, report = fuzz(server.url, args.examples, args.seed)
        say(report)
        after = post(server.url, *image_form("the dog"))
        say(f"random requests: {requests}, by status {statuses}; Schemathesis exit code {found}")
        same = before[0] == after[0] == 200 and before[1] == after[1]
        say(f"the same answer as before: {same}; memory {server.memory() / 1e6:.0f} MB")
        failures = server.figure("textseg_failures_total")
        say(f"work that failed in ways nobody foresaw: {failures:.0f}")
    good = stop_under_load()
    return 0 if found == failures == 0 and same and good else 1


def fuzz(url: str, examples: int, seed: int) -> tuple[int, int, dict[str, int], str]:
    """Schemathesis' exit code, its requests, how often each status came, its report."""
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "attack_server_hooks"}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.ndjson"
        command = [
            str(Path(sys.executable).parent / "schemathesis"), "run", f"{url}/openapi.json",
            "--url", url, "--checks", CHECKS, "--max-examples", str(examples),
            "--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--no-shrink",
            "--seed", str(seed), "--request-timeout", "60", "--suppress-health-check", "all",
            "--report", "har", "--report-har-path", str(report),
        ]  # fmt: skip
        done = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, check=False
        )
        entries = json.loads(report.read_text(encoding="utf-8"))["log"]["entries"]
    statuses = collections.Counter(str(entry["response"]["status"]) for entry in entries)
    said = done.stdout[-12000:] + done.stderr[-2000:]
    return done.returncode, len(entries), dict(sorted(statuses.items())), said


def stop_under_load(clients: int = 8) -> bool:
    """SIGTERM while requests run and wait: each is answered whole, or told that it was not."""
    with Server("--grace", "20") as server:
        outcomes: list[tuple[int, bytes]] = []
        errors: list[str] = []

        def ask(number: int) -> None:
            while not errors and len(outcomes) < 1000:
                try:
                    status, body, _ = post(server.url, *image_form("the dog", seed=number))
                except OSError as error:
                    # Nothing listens any more.
                    errors.append(repr(error))
                    return
                outcomes.append((status, body))
                if status in (409, 503):
                    return

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(clients)]
        for thread in threads:
            thread.start()
        time.sleep(4)
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        code = server.process.wait(60)
    whole = all(json.loads(body) for _, body in outcomes)
    counts = dict(sorted(collections.Counter(status for status, _ in outcomes).items()))
    stuck = any(thread.is_alive() for thread in threads)
    broken = [error for error in errors if "refused" not in error]
    say(
        f"SIGTERM under load: answers {counts}, all of them whole: {whole}; connections broken "
        f"off: {broken}; exit status {code}"
    )
    return whole and not stuck and not broken and set(counts) <= {200, 409, 429, 503}


if __name__ == "__main__":
    sys.exit(main())
