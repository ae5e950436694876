"""What Schemathesis is told for `attack_server.py`: images it can send, answers it must not get."""

from __future__ import annotations

import base64
import io
import urllib.parse
import urllib.request

import schemathesis
from hypothesis import strategies as st
from PIL import Image


@st.composite
def pictures(draw: st.DrawFn) -> bytes:
    """Small images in several formats, one in three of them damaged."""
    size = draw(st.tuples(st.integers(1, 70), st.integers(1, 50)))
    color = draw(st.tuples(*[st.integers(0, 255)] * 3))
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, draw(st.sampled_from(["PNG", "JPEG", "WEBP"])))
    data = bytearray(buffer.getvalue())
    if draw(st.integers(0, 2)) == 0:
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] if draw(st.booleans()) else data
        if data:
            data[min(at, len(data) - 1)] ^= draw(st.integers(1, 255))
    return bytes(data)


schemathesis.openapi.format("byte", pictures().map(lambda data: base64.b64encode(data).decode()))
schemathesis.openapi.format("binary", pictures())


@schemathesis.hook
def after_call(ctx, case, response):
    """Cancels a job that was started, so that the queue has room for the next request."""
    if response.status_code == 202:
        url = urllib.parse.urljoin(response.request.url, response.json()["links"]["self"])
        forget = urllib.request.Request(url, method="DELETE")
        with urllib.request.urlopen(forget, timeout=60) as told:
            assert told.status == 200


@schemathesis.check
def refuses_politely(ctx, response, case):
    """No status 500, no traceback, and every refusal is one sentence of JSON."""
    assert response.status_code != 500, "status 500"
    assert b"Traceback" not in response.content and b'File "' not in response.content
    if response.status_code >= 400 and case.method != "HEAD" and response.content:
        error = response.json()["error"]
        assert set(error) == {"kind", "message"} and "\n" not in error["message"]
