"""Random requests made from the server's own description, by Schemathesis; asked for by name."""

from __future__ import annotations

import os

import pytest
from server_tools import live, multipart, png

EXAMPLES = int(os.environ.get("TEXTSEG_FUZZ", "0"))


@pytest.mark.skipif(not EXAMPLES, reason="TEXTSEG_FUZZ says how many requests per operation")
@pytest.mark.timeout(3600)
# The library warns the server's log of prompts that are cut.
@pytest.mark.filterwarnings("ignore:the prompt exceeds")
def test_random_requests_get_polite_answers_and_leave_the_server_whole():
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from attack_server import fuzz

    with live(time_limit=20.0, body_seconds=10.0) as server:
        form = multipart(("image", png()), ("query", "the dog"))
        before = server.ask("POST", "/v1/segment", *form)
        code, requests, statuses, report = fuzz(server.url, EXAMPLES, seed=0)
        after = server.ask("POST", "/v1/segment", *form)
        server.wait_for(lambda: server.app.state.engine.running == 0)
        assert server.app.state.engine.alive and server.app.state.engine.inside == 0
        assert server.app.state.engine.failures == 0
    assert code == 0, report
    assert "500" not in statuses and requests > EXAMPLES
    assert (after.status, after.body) == (before.status, before.body)
    os.write(1, f"\n{requests} random requests, by status {statuses}\n".encode())
