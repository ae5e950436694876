"""What a hostile caller may send: every refusal is one sentence, and the server goes on."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import os
import socket
import struct
import time
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from server_tools import Answer, HeldBackbone, Live, encode, live, multipart, png

from textseg.server.gate import identity, is_one_of

PICTURE = png()
TOKEN = "correct-horse-battery-staple"
OTHER = "another-token-of-length"


@pytest.fixture(scope="module")
def server():
    with live(max_upload=2**20, max_pixels=1_000_000, body_seconds=1.5, head_seconds=1.0) as one:
        yield one
        assert one.app.state.engine.inside == 0
        assert send(one, PICTURE).status == 200


def send(server: Live, picture: bytes, filename: str = "image.png") -> Answer:
    body, headers = multipart(("image", picture), ("query", "the dog"), filename=filename)
    return server.ask("POST", "/v1/segment", body, headers)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few KB that claims to be large, with two million pixels at most."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(min((width + 1) * height, 2_004_000)), 1)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def text_bomb() -> bytes:
    """A PNG whose compressed text grows to 20 MB."""
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20_000_000), 1))
    return PICTURE[:33] + text + PICTURE[33:]


def test_truncated_uploads(server: Live):
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        whole = encode(np.asarray(Image.open(io.BytesIO(PICTURE))), kind)
        assert send(server, whole).status == 200, kind
        for part in (1, 8, 12, 30, len(whole) // 2):
            answer = send(server, whole[:part])
            assert (answer.status, answer.kind) == (422, "bad_image"), (kind, part)


def test_damaged_uploads(server: Live):
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        whole = encode(np.asarray(Image.open(io.BytesIO(PICTURE))), kind)
        for _ in range(8):
            data = bytearray(whole)
            for at in rng.integers(0, len(data), 6):
                data[at] = rng.integers(0, 256)
            answer = send(server, bytes(data))
            assert answer.status in (200, 422), kind
            if answer.status == 422:
                assert answer.kind == "bad_image"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        b"%PDF-1.7\n%%EOF",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"/etc/passwd",
        b"http://127.0.0.1:1/x.png",
        b"\x80\x04\x95" + b"cos\nsystem\n",
        b"II*\0" + b"\xff" * 64,
        b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_raster_image(server: Live, data):
    answer = send(server, data)
    assert (answer.status, answer.kind) == (422, "bad_image")
    assert b"root:" not in answer.body


def test_polyglots_are_only_ever_read_as_images(server: Live):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../../evil", "x")
    html = b"<script>alert(1)</script>"
    for tail in (packed.getvalue(), html, b"%PDF-1.7", b"<?php system($_GET[0]); ?>"):
        body, headers = multipart(("image", PICTURE + tail), ("query", "the dog"))
        answer = server.ask("POST", "/v1/segment", body, headers | {"Accept": "image/png"})
        assert answer.status == 200
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert tail not in answer.body


def test_bombs(server: Live):
    for data in (bomb(60_000, 60_000), bomb(2000, 1001), bomb(2**31 - 1, 2**31 - 1)):
        answer = send(server, data)
        assert (answer.status, answer.kind) == (422, "bad_image")
    answer = send(server, text_bomb())
    assert answer.status in (200, 422)
    gif = encode(np.zeros((10, 10), np.uint8), "GIF")
    wide = gif[:6] + struct.pack("<HH", 65535, 65535) + gif[10:]
    assert send(server, wide).kind == "bad_image"


def test_a_body_that_says_it_is_too_long_is_refused_unread(server: Live):
    head = (
        "POST /v1/segment HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {100 * 2**20}\r\n\r\n"
    )
    said = server.raw(head.encode())
    assert said.startswith(b"HTTP/1.1 413 ") and b'"too_large"' in said


def test_a_body_that_turns_out_too_long_is_refused_at_the_limit(server: Live):
    block = b"a" * 65536
    sent = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        with contextlib.suppress(ConnectionError):
            while sent < 100 * 2**20:
                sock.sendall(f"{len(block):x}\r\n".encode() + block + b"\r\n")
                sent += len(block)
    # What the sockets buffer is on its way already.
    assert sent < 40 * 2**20
    server.wait_for(lambda: server.app.state.engine.inside == 0)


def test_a_hundred_megabytes_in_a_form(server: Live):
    body, headers = multipart(("image", bytes(100 * 2**20)), ("query", "the dog"))
    try:
        answer = server.ask("POST", "/v1/segment", body, headers)
    except OSError:
        pass  # it closed the connection while we were sending
    else:
        assert (answer.status, answer.kind) == (413, "too_large")


@pytest.mark.parametrize("after", [b"", b"GET /healthz HTTP/1.1\r\nHo"], ids=["nothing", "half"])
def test_a_slow_head_is_cut_off(server: Live, after):
    assert server.raw(after) == b""


def test_slow_bodies_are_refused_and_hold_nobody_up(server: Live):
    head = (
        b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 5000\r\n\r\n{"
    )
    slow = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(12)]
    try:
        for sock in slow:
            sock.sendall(head)
        server.wait_for(lambda: server.app.state.engine.inside == len(slow))
        assert send(server, PICTURE).status == 200
        for _ in range(10):
            with contextlib.suppress(OSError):
                for sock in slow:
                    sock.sendall(b" ")
            time.sleep(0.2)
        for sock in slow:
            said = b""
            with contextlib.suppress(ConnectionError):
                while part := sock.recv(65536):
                    said += part
            assert said.startswith(b"HTTP/1.1 408 ")
    finally:
        for sock in slow:
            sock.close()
    server.wait_for(lambda: server.app.state.engine.inside == 0)


def test_a_body_that_ends_early(server: Live):
    for content in (b"application/json", b"multipart/form-data; boundary=edge"):
        head = b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: " + content
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(head + b"\r\nContent-Length: 500\r\n\r\n--edge\r\nContent-Disp")
            server.wait_for(lambda: server.app.state.engine.inside == 1)
        server.wait_for(lambda: server.app.state.engine.inside == 0)


def test_headers_that_do_not_end(server: Live):
    endless = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000
    assert not server.raw(endless).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "name",
    ["../../../../etc/passwd", "..\\..\\x", "/etc/passwd", "C:\\x", "a\0b.png", "x" * 5000,
     "\r\nX-Injected: yes", "$(touch /tmp/x)", "con.png", "%2e%2e%2fx"],
)  # fmt: skip
def test_names_of_files_are_never_used(server: Live, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = send(server, PICTURE, name)
    assert answer.status in (200, 400, 422)
    assert "x-injected" not in answer.headers
    assert name.encode() not in answer.body
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("query", ["../../etc/passwd", "a/b", "..", "CON", "dog\u202e", "🐶" * 50])
def test_queries_become_harmless_names_in_a_zip(server: Live, query):
    asked = {"image": base64.b64encode(PICTURE).decode(), "query": query, "output": ["mask", "npz"]}
    answer = server.post("/v1/segment", asked, Accept="application/zip")
    if answer.status == 422:
        assert answer.kind == "bad_input"
        return
    with zipfile.ZipFile(io.BytesIO(answer.body)) as files:
        for name in files.namelist():
            assert name == os.path.basename(name) and not name.startswith(".")


@pytest.mark.parametrize(
    "path",
    ["/v1/jobs/../../etc/passwd", "/v1/jobs/%2e%2e%2fx", "/v1/jobs/" + "a" * 5000, "/..%2f..%2f",
     "/v1/jobs/a/result", "/v1//segment", "//etc/passwd", "/file=/etc/passwd"],
)  # fmt: skip
def test_paths_lead_nowhere(server: Live, path):
    answer = server.ask("GET", path)
    assert answer.status == 404 and b"root:" not in answer.body


def test_texts_that_break_encoders(server: Live):
    form = "multipart/form-data; boundary=edge; charset=utf-7"
    body, _ = multipart(("image", PICTURE), ("query", "+2AA-dog"))
    answer = server.ask("POST", "/v1/segment", body, {"Content-Type": form})
    assert answer.status in (200, 422)
    body = body.replace(b"+2AA-dog", b"\xff\xfe\xfd")
    for charset in ("utf-8", "utf-16", "unicode_escape", "zip", "../x"):
        form = f"multipart/form-data; boundary=edge; charset={charset}"
        answer = server.ask("POST", "/v1/segment", body, {"Content-Type": form})
        assert answer.status in (200, 400, 422), charset


def test_numbers_that_break_encoders(server: Live):
    head = b'{"image": "' + base64.b64encode(PICTURE) + b'", "query": "the dog", "options": '
    for options in (b'{"level": NaN}', b'{"level": Infinity}', b'{"seed": 1e400}', b'{"seed": 1.5}',
                    b'{"strength": []}', b'{"strength": [1e-320]}', b'{"clamp": 1e-320}',
                    b'{"crf_alpha": 1, "crf_beta": 1}', b'{"seed": ' + b"9" * 4000 + b"}",
                    b'{"floor": 1e-320, "threshold": "calibrated"}'):  # fmt: skip
        answer = server.ask(
            "POST", "/v1/segment", head + options + b"}", {"Content-Type": "application/json"}
        )
        assert answer.status in (200, 400, 422), options


def test_an_rle_that_claims_too_much(server: Live):
    image = base64.b64encode(PICTURE).decode()
    for rle in ({"size": [10**9, 10**9], "counts": "0"}, {"size": [40, 64], "counts": [2**62]},
                {"size": [40, 64], "counts": [-1, 2561]}, {"size": [40, 64], "counts": "~" * 1000},
                {"size": ["40", 64], "counts": "0"}, {"size": [40, 64]},
                {"size": [40, 64], "counts": [[1], [2, 3]]}):  # fmt: skip
        answer = server.post("/v1/edit", {"image": image, "prompt": "a cat", "mask_rle": rle})
        assert (answer.status, answer.kind) == (422, "bad_input"), rle


def test_without_a_token_only_local_names_are_answered(server: Live):
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""):
        answer = server.ask("GET", "/v1/models", headers={"Host": host})
        assert (answer.status, answer.kind) == (403, "wrong_host")
    for host in ("localhost", "127.0.0.1:9", "[::1]:9"):
        assert server.ask("GET", "/v1/models", headers={"Host": host}).status == 200


def test_pages_of_other_origins_may_not_post(server: Live):
    body, headers = multipart(("image", PICTURE), ("query", "the dog"))
    for origin in ("http://evil.example", "null", "http://[", "https://127.0.0.1.evil.example"):
        answer = server.ask("POST", "/v1/segment", body, headers | {"Origin": origin})
        assert (answer.status, answer.kind) == (403, "wrong_origin")
    own = {"Origin": server.url}
    answer = server.ask("POST", "/v1/segment", body, headers | own)
    assert answer.status == 200 and "access-control-allow-origin" not in answer.headers
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = server.ask("OPTIONS", "/v1/segment", headers=preflight)
    assert answer.status == 405 and "access-control-allow-origin" not in answer.headers


@pytest.fixture(scope="module")
def guarded():
    with live(tokens=(TOKEN, OTHER)) as one:
        yield one


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"me:{password}".encode()).decode()


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN,
     f"Token {TOKEN}", f"Bearer {TOKEN},{TOKEN}", "Basic !!!", basic("wrong"), basic(""),
     "Bearer \xe9", "Bearer " + "a" * 10_000],
)  # fmt: skip
def test_wrong_and_missing_tokens(guarded: Live, header):
    headers = {} if header is None else {"Authorization": header}
    for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/openapi.json"),
                         ("POST", "/v1/segment"), ("GET", "/v1/jobs/x"), ("GET", "/")):  # fmt: skip
        answer = guarded.ask(method, path, headers=headers)
        assert (answer.status, answer.kind) == (401, "unauthorized")
        assert "Bearer" in answer.headers["www-authenticate"]
        assert TOKEN.encode() not in answer.body
    assert guarded.app.state.engine.inside == 0


def test_browsers_are_asked_for_a_password(guarded: Live):
    said = guarded.raw(b"GET / HTTP/1.1\r\nHost: textseg.example\r\n\r\n").lower()
    head = said.partition(b"\r\n\r\n")[0].splitlines()
    # Chromium reads the first challenge of each header.
    challenges = [line.split()[1] for line in head if line.startswith(b"www-authenticate:")]
    assert challenges == [b"basic", b"bearer"]
    assert b"connection: close" in head


def test_right_tokens(guarded: Live):
    for header in (f"Bearer {TOKEN}", f"bearer {OTHER}", basic(TOKEN)):
        headers = {"Authorization": header, "Host": "textseg.example"}
        assert guarded.ask("GET", "/v1/models", headers=headers).status == 200
    assert guarded.ask("GET", "/healthz").status == 200


def test_a_job_of_one_token_is_unknown_to_another(guarded: Live):
    asked = {"image": base64.b64encode(PICTURE).decode(), "query": "the dog"}
    job = guarded.post("/v1/segment?async=true", asked, Authorization=f"Bearer {TOKEN}").json
    for path in job["links"].values():
        answer = guarded.ask("GET", path, headers={"Authorization": f"Bearer {OTHER}"})
        assert (answer.status, answer.kind) == (404, "no_such_job")
    own = {"Authorization": f"Bearer {TOKEN}"}
    assert guarded.ask("GET", job["links"]["events"], headers=own).status == 200


def test_tokens_are_compared_by_digests_of_one_length(monkeypatch):
    import hmac

    seen = []
    whole = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: seen.append((a, b)) or whole(a, b))
    assert is_one_of(b"b", [b"a", b"b", b"c"])
    assert not is_one_of(b"", [b"a"])
    # Every token is looked at, whichever is the right one.
    assert len(seen) == 4 and {len(side) for pair in seen for side in pair} == {32}


def test_callers_are_told_apart():
    callers = {identity(t, s) for t in (b"", b"a", b"b") for s in ("", "a", "b")}
    assert len(callers) == 9


def test_work_that_is_held_up_leaves_the_rest_of_the_server_answering():
    model = HeldBackbone()
    with live(model, queue=1, workers=1) as server:
        model.free.clear()
        asked = {"image": base64.b64encode(PICTURE).decode(), "query": "the dog"}
        connections = []
        for _ in range(4):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
            connection.request(
                "POST", "/v1/segment", json.dumps(asked), {"Content-Type": "application/json"}
            )
            connections.append(connection)
        server.wait_for(lambda: server.app.state.engine.inside == 2)
        assert server.ask("GET", "/readyz").status == 200
        assert "textseg_inside 2.0" in server.ask("GET", "/metrics").body.decode()
        model.free.set()
        statuses = []
        for connection in connections:
            with contextlib.closing(connection):
                statuses.append(connection.getresponse().status)
        assert sorted(statuses) == [200, 200, 429, 429]
