"""The client: the library's verbs and results, from a server."""

from __future__ import annotations

import http.server
import io
import threading
import time

import numpy as np
import pytest
from PIL import Image
from server_tools import HeldBackbone, Live, live, png

import textseg
from textseg.errors import (
    CancelledError,
    ImageError,
    InputError,
    ServerError,
)

TOKEN = "a-token-of-sufficient-length"
PICTURE = png()


@pytest.fixture(scope="module")
def server():
    with live() as running:
        yield running


@pytest.fixture
def client(server: Live):
    return textseg.Client(server.url)


def same(found: textseg.Segmentation, alone: textseg.Segmentation) -> None:
    for name in ("mask", "score", "contrast", "image"):
        assert np.array_equal(getattr(found, name), getattr(alone, name)), name
    assert found.describe() == alone.describe()


@pytest.mark.parametrize("form", ["path", "bytes", "array", "pil"])
def test_segment_equals_the_library(client, tmp_path, form):
    path = tmp_path / "p.png"
    path.write_bytes(PICTURE)
    picture = Image.open(io.BytesIO(PICTURE))
    image = {"path": path, "bytes": PICTURE, "array": np.asarray(picture), "pil": picture}[form]
    found = client.segment(image, "the dog", samples=3)
    same(found, textseg.segment(PICTURE, "the dog", model=HeldBackbone(), samples=3))


def test_several_queries_whole_options_and_exclusive(client):
    arguments = {
        "contrast": textseg.ContrastOptions(samples=2, strength=(0.3, 0.6), seed=4),
        "refine": textseg.RefineOptions.off(threshold="otsu"),
        "exclusive": True,
    }
    queries = ["the dog", "the ball"]
    found = client.segment(PICTURE, queries, **arguments)
    alone = textseg.segment(PICTURE, queries, model=HeldBackbone(), **arguments)
    for one, other in zip(found, alone, strict=True):
        same(one, other)
    assert not (found[0].mask & found[1].mask).any()


def test_an_unknown_option_is_told_which_there_are(client):
    known = r"^options\.up is unknown; options are encode_ratio, .*; arguments are .*left, right"
    with pytest.raises(InputError, match=known):
        client.outpaint(PICTURE, up=4)


@pytest.mark.parametrize("refine", [None, textseg.RefineOptions.off(threshold="otsu", level=0.2)])
def test_a_number_as_threshold_equals_the_library(client, refine):
    given = {"refine": refine, "threshold": 0.75, "samples": 2}
    found = client.segment(PICTURE, "the dog", **given)
    assert found.refine_options.level == 0.75
    same(found, textseg.segment(PICTURE, "the dog", model=HeldBackbone(), **given))
    for wrong in (1.5, -0.5, "mine"):
        with pytest.raises(InputError, match=r"threshold.* must be one of paper.*in \[0, 1\]"):
            client.segment(PICTURE, "the dog", threshold=wrong)
    with pytest.raises(InputError, match="level must be left out where threshold is a number"):
        client.segment(PICTURE, "the dog", threshold=0.5, level=0.25)


def test_points_and_boxes_equal_the_library(client):
    clicks = {"points": np.array([[50, 5, 1], [20.5, 30, -1]]), "boxes": [(10, 2, 60, 38)]}
    found = client.segment(PICTURE, "the dog", **clicks)
    alone = textseg.segment(PICTURE, "the dog", model=HeldBackbone(), **clicks)
    same(found, alone)
    assert "corrected by 2 points and 1 box" in found.notes[0]


def test_edit_equals_the_library(client):
    found = client.edit(PICTURE, "the dog", "a cat", steps=4)
    alone = textseg.edit(PICTURE, "the dog", "a cat", model=HeldBackbone(), steps=4)
    assert np.array_equal(found.image, alone.image)
    assert found.source is not None and alone.source is not None
    assert np.array_equal(found.source, alone.source)
    assert found.describe() == alone.describe()
    assert found.to_bytes(".png") == alone.to_bytes(".png")


def test_edit_of_a_mask_and_of_a_segmentation(client):
    region = np.zeros((40, 64), bool)
    region[8:24, 32:56] = True
    found = client.edit(PICTURE, prompt="a cat", mask=region, steps=2)
    assert np.array_equal(found.mask, region) and found.segmentation is None
    dog = client.segment(PICTURE, "the dog")
    found = client.edit(PICTURE, prompt="a cat", mask=dog, steps=2)
    assert found.segmentation is dog and found.query == "the dog"
    alone = textseg.edit(PICTURE, prompt="a cat", mask=dog, steps=2, model=HeldBackbone())
    assert np.array_equal(found.mask, alone.mask)
    assert np.array_equal(found.image, alone.image)


def test_style_equals_the_library(client):
    other = np.random.default_rng(8).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for query in ("the dog", None):
        found = client.edit(PICTURE, query, style=other)
        alone = textseg.edit(PICTURE, query, style=other, model=HeldBackbone())
        assert np.array_equal(found.image, alone.image)
        assert found.describe() == alone.describe()


@pytest.mark.parametrize("options", [None, textseg.EditOptions(steps=3, encode_ratio=0.5)])
def test_outpaint_equals_the_library(client, options):
    given = {"left": 9, "bottom": "25%", "options": options, "guidance_scale": 2.0}
    found = client.outpaint(PICTURE, "a dog", **given)
    alone = textseg.outpaint(PICTURE, "a dog", model=HeldBackbone(), **given)
    assert np.array_equal(found.image, alone.image)
    assert found.source is not None and alone.source is not None
    assert np.array_equal(found.source, alone.source)
    assert found.describe() == alone.describe()
    assert found.to_bytes(".png") == alone.to_bytes(".png")


def test_generate_and_caption_equal_the_library(client):
    found = client.generate("a photo of a dog", steps=2, seed=3)
    alone = textseg.generate("a photo of a dog", model=HeldBackbone(), steps=2, seed=3)
    assert np.array_equal(found.image, alone.image)
    assert found.describe() == alone.describe()
    two = client.generate("a dog", count=2, steps=2)
    assert [one.options.seed for one in two] == [0, 1]
    found = client.caption(PICTURE, nouns=["dog", "boat", "cat"], most=2)
    alone = textseg.caption(PICTURE, model=HeldBackbone(), nouns=["dog", "boat", "cat"], most=2)
    assert found == alone


def test_models(client):
    assert client.models()[0]["name"] == "fake"


def test_progress_arrives_and_the_result_is_the_same(client, server: Live):
    steps = []
    found = client.edit(
        PICTURE, "the dog", "a cat", steps=6, progress=lambda *step: steps.append(step)
    )
    alone = textseg.edit(PICTURE, "the dog", "a cat", model=HeldBackbone(), steps=6)
    assert np.array_equal(found.image, alone.image)
    assert steps and all(0 <= done <= total for done, total, _ in steps)
    assert not list(server.app.state.jobs)


def test_progress_that_says_no_cancels_the_job():
    with live(workers=1) as server:
        server.model.pause = 0.01
        client = textseg.Client(server.url)
        asked = []

        def stop(done: int, total: int, stage: str) -> bool:
            asked.append(stage)
            return False

        with pytest.raises(CancelledError):
            client.edit(PICTURE, "the dog", "a cat", steps=250, progress=stop)
        server.wait_for(lambda: server.app.state.engine.running == 0)
        assert len(asked) == 1 and len(server.model.calls) < 250


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (ImageError, lambda c: c.segment(b"no image", "the dog")),
        (InputError, lambda c: c.segment(PICTURE, "the dog", samples=0)),
        (InputError, lambda c: c.segment(PICTURE, "the dog", sampels=3)),
        (InputError, lambda c: c.segment(PICTURE, [])),
        (InputError, lambda c: c.segment(PICTURE, "the dog", points=[3])),
        (InputError, lambda c: c.segment(PICTURE, "the dog", points=[(999, 3, 1)])),
        (InputError, lambda c: c.segment(PICTURE, "the dog", boxes=[(3, 3, 1, 9)])),
        (InputError, lambda c: c.segment(PICTURE, ["a dog", "a cat"], points=[(3, 3, 1)])),
        (InputError, lambda c: c.edit(PICTURE)),
        (InputError, lambda c: c.edit(PICTURE, prompt="a cat", mask=np.ones((3, 3, 3)))),
        (InputError, lambda c: c.generate("a dog", count=99)),
        (ImageError, lambda c: c.segment("no-such-file.png", "the dog")),
        (ImageError, lambda c: c.segment(PICTURE[:60], "the dog", progress=lambda *s: None)),
        (InputError, lambda c: c.segment(PICTURE, "the dog", caption=None, seed=object())),
    ],
)
def test_errors_are_those_of_the_library(client, kind, call):
    with pytest.raises(kind) as caught:
        call(client)
    assert "\n" not in str(caught.value)


def test_a_token_is_shown_and_wanted():
    with live(tokens=(TOKEN,)) as server:
        assert textseg.Client(server.url, TOKEN).models()
        for token in (None, "wrong" * 5):
            with pytest.raises(ServerError, match="token") as caught:
                textseg.Client(server.url, token).models()
            assert caught.value.status == 401


def test_a_busy_server_is_asked_again_for_as_long_as_patience_lasts():
    with live(queue=1, workers=1) as server:
        server.model.free.clear()
        answers = []

        def ask(seed: int) -> None:
            patient = textseg.Client(server.url, patience=60)
            answers.append(patient.segment(png(seed=seed), "the dog").mask.any())

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        server.wait_for(lambda: server.app.state.engine.inside == 2)
        with pytest.raises(ServerError, match="busy") as caught:
            textseg.Client(server.url, patience=0).segment(PICTURE, "the dog")
        assert (caught.value.status, caught.value.retry_after >= 1) == (429, True)
        server.model.free.set()
        for thread in threads:
            thread.join(60)
        assert answers == [True] * 3


def test_no_server_at_all():
    with pytest.raises(ServerError, match=r"cannot reach http://127\.0\.0\.1:1: "):
        textseg.Client("http://127.0.0.1:1").models()


@pytest.mark.parametrize("url", ["", "127.0.0.1:8300", "file:///etc/passwd", "http://", None])
def test_what_is_no_address(url):
    with pytest.raises(InputError, match="url must be http or https"):
        textseg.Client(url)


def test_a_token_that_would_end_the_header():
    with pytest.raises(InputError, match="visible ASCII") as caught:
        textseg.Client(token="secret\r\nX: y")
    assert "secret" not in str(caught.value)


@pytest.fixture
def impostor():
    """A server that redirects, and one that says what is no answer."""

    class Handler(http.server.BaseHTTPRequestHandler):
        asked: list[str] = []  # noqa: RUF012

        def do_GET(self) -> None:
            self.asked.append(self.path)
            if self.path.startswith("/away"):
                self.send_response(302)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
            else:
                self.send_response(500)
                self.end_headers()
                self.wfile.write(b"<html>" * 10)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", Handler.asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_redirects_are_not_followed(impostor):
    url, asked = impostor
    with pytest.raises(ServerError, match="status 302"):
        textseg.Client(f"{url}/away", TOKEN).models()
    assert asked == ["/away/v1/models"]


def test_answers_that_are_none(impostor):
    with pytest.raises(ServerError, match="status 500") as caught:
        textseg.Client(impostor[0]).models()
    assert caught.value.status == 500


def test_a_server_that_stops_tells_the_client():
    with live(workers=1, grace=0.1) as server:
        server.model.free.clear()
        client = textseg.Client(server.url)
        failed: list[BaseException] = []

        def ask() -> None:
            try:
                client.edit(PICTURE, "the dog", "a cat", progress=lambda *step: None)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        server.wait_for(server.model.asked.is_set)
        server.wait_for(lambda: any(job.watched for job in server.app.state.jobs))
        server.server.should_exit = True
        time.sleep(0.3)
        server.model.free.set()
        thread.join(30)
        assert isinstance(failed[0], CancelledError) and "stopping" in str(failed[0])
