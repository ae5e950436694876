"""The server: what it answers, its queue, its jobs, its stop."""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from server_tools import DOG, HeldBackbone, Live, encode, live, multipart, png

import textseg
from textseg.errors import InputError
from textseg.rle import decode_rle
from textseg.server import ServerOptions
from textseg.server.settings import is_loopback

PICTURE = png()
B64 = base64.b64encode(PICTURE).decode()
ASK = {"image": B64, "query": "the dog"}


@pytest.fixture(scope="module")
def server():
    with live() as running:
        yield running


@pytest.fixture
def expected():
    return textseg.segment(PICTURE, ["the dog", "the ball"], model=HeldBackbone())


def test_json_and_form_give_the_masks_of_the_library(server: Live, expected):
    body, headers = multipart(("image", PICTURE), ("query", "the dog"), ("query", "the ball"))
    by_form = server.ask("POST", "/v1/segment", body, headers)
    by_json = server.post("/v1/segment", ASK | {"query": ["the dog", "the ball"]})
    assert by_form.status == by_json.status == 200
    assert by_form.json == by_json.json
    for record, one in zip(by_json.json["results"], expected, strict=True):
        assert np.array_equal(decode_rle(record["rle"]), one.mask)
        assert record["presence"] == one.presence
        assert record["options"] == one.options
    # The oracle: the dog lies where the model's rectangle is.
    top, left, bottom, right = DOG
    truth = np.zeros((40, 64), bool)
    truth[round(top * 40) : round(bottom * 40), round(left * 64) : round(right * 64)] = True
    mask = decode_rle(by_json.json["results"][0]["rle"])
    assert (mask & truth).sum() / (mask | truth).sum() > 0.7


def test_polygons_instead_of_rle(server: Live, expected):
    answer = server.post("/v1/segment", ASK | {"output": ["polygon"]})
    (record,) = answer.json["results"]
    assert record["polygons"] == expected[0].to_polygons() and "rle" not in record


@pytest.mark.parametrize("what", ["mask", "score", "overlay", "cutout"])
def test_a_png_is_the_file_the_library_writes(server: Live, expected, what):
    answer = server.post("/v1/segment", ASK | {"output": [what]}, Accept="image/png")
    assert answer.headers["content-type"] == "image/png"
    assert answer.body == expected[0].to_bytes(".png", what)


def test_several_queries_give_one_overlay_or_a_zip_but_no_single_mask(server: Live, expected):
    asked = ASK | {"query": ["the dog", "the ball"]}
    assert server.post("/v1/segment", asked, Accept="image/png").status == 406
    overlay = server.post("/v1/segment", asked | {"output": ["overlay"]}, Accept="image/png")
    assert Image.open(io.BytesIO(overlay.body)).size == (64, 40)
    packed = server.post(
        "/v1/segment", asked | {"output": ["mask", "npz", "polygon"]}, Accept="application/zip"
    )
    with zipfile.ZipFile(io.BytesIO(packed.body)) as files:
        assert sorted(files.namelist()) == [
            "results.json", "the-ball.mask.png", "the-ball.npz", "the-ball.polygon.json",
            "the-dog.mask.png", "the-dog.npz", "the-dog.polygon.json",
        ]  # fmt: skip
        ball = textseg.Segmentation.from_bytes(files.read("the-ball.npz"))
    assert np.array_equal(ball.score, expected[1].score)


def test_options_are_those_of_the_library(server: Live):
    options = {"samples": 2, "threshold": "otsu", "seed": 5, "strength": 0.4, "min_area": 0.01}
    body, headers = multipart(
        ("image", PICTURE), ("query", "the dog"), ("options", json.dumps(options))
    )
    (record,) = server.ask("POST", "/v1/segment", body, headers).json["results"]
    alone = textseg.segment(PICTURE, "the dog", model=HeldBackbone(), **options)
    assert np.array_equal(decode_rle(record["rle"]), alone.mask)
    assert record["options"] == alone.options


def test_points_and_boxes_are_those_of_the_library(server: Live):
    clicks = {"points": [[50, 5, 1], [20.5, 30, 0]], "boxes": [[10, 2, 60, 38]]}
    alone = textseg.segment(
        PICTURE, "the dog", model=HeldBackbone(),
        points=[(50, 5, 1), (20.5, 30, 0)], boxes=[(10, 2, 60, 38)],
    )  # fmt: skip
    fields = [(name, json.dumps(value)) for name, value in clicks.items()]
    body, headers = multipart(("image", PICTURE), ("query", "the dog"), *fields)
    by_form = server.ask("POST", "/v1/segment", body, headers)
    by_json = server.post("/v1/segment", ASK | {"query": "the dog"} | clicks)
    assert by_form.json == by_json.json
    (record,) = by_json.json["results"]
    mask = decode_rle(record["rle"])
    assert np.array_equal(mask, alone.mask) and record["notes"] == list(alone.notes)
    assert mask[5, 50] and not mask[30, 20] and not mask[:, :10].any()


def test_edit_and_its_forms(server: Live):
    asked = ASK | {"prompt": "a cat", "options": {"steps": 4}}
    alone = textseg.edit(PICTURE, "the dog", "a cat", model=HeldBackbone(), steps=4)
    outcome = textseg.assess(alone, model=HeldBackbone())
    unasked = server.post("/v1/edit", asked | {"assess": False}).json
    assert "outcome" not in unasked
    assert base64.b64decode(unasked["image"]) == alone.to_bytes(".png")
    assert server.post("/v1/edit", asked).json["outcome"] == outcome.describe()
    alone = replace(alone, outcome=outcome)
    picture = server.post("/v1/edit", asked, Accept="image/png")
    assert picture.body == alone.to_bytes(".png")
    record = server.post("/v1/edit", asked).json
    assert base64.b64decode(record["image"]) == picture.body
    assert np.array_equal(decode_rle(record["rle"]), alone.mask)


def test_edit_of_a_given_region(server: Live):
    region = np.zeros((40, 64), bool)
    region[8:24, 32:56] = True
    rle = textseg.rle.encode_rle(region)
    plain = {"image": B64, "prompt": "a cat", "options": {"steps": 2, "seam": 0}}
    by_rle = server.post("/v1/edit", plain | {"mask_rle": rle}, Accept="image/png")
    as_png = base64.b64encode(encode(region)).decode()
    by_png = server.post("/v1/edit", plain | {"mask": as_png}, Accept="image/png")
    assert by_rle.body == by_png.body
    edited = np.asarray(Image.open(io.BytesIO(by_rle.body)))
    before = np.asarray(Image.open(io.BytesIO(PICTURE)))
    assert np.array_equal(edited[~region], before[~region])
    assert server.post("/v1/edit", plain | {"mask": as_png, "mask_rle": rle}).status == 422


def test_outpaint_and_what_it_refuses(server: Live):
    asked = {"image": B64, "prompt": "a dog", "left": 8, "top": "50%", "options": {"steps": 2}}
    alone = textseg.outpaint(PICTURE, "a dog", left=8, top=20, steps=2, model=HeldBackbone())
    answer = server.post("/v1/outpaint", asked | {"assess": False}, Accept="image/png")
    assert answer.body == alone.to_bytes(".png")
    record = server.post("/v1/outpaint", asked).json
    assert record["extended"] == [8, 20, 0, 0]
    assert record["outcome"]["tried"] == "to extend the picture as 'a dog'"
    amounts = [{"left": wrong} for wrong in ("wide", -1, True, 1.5, 10**7)]
    for wrong in (*amounts, {"method": "poisson"}, {"options": {"grow": 0.1}}):
        refused = server.post("/v1/outpaint", asked | wrong)
        assert refused.status == 422, wrong


def test_generate_and_caption(server: Live):
    asked = {"prompt": "a photo of a dog", "options": {"steps": 2, "seed": 3}}
    alone = textseg.generate("a photo of a dog", model=HeldBackbone(), steps=2, seed=3)
    answer = server.post("/v1/generate", asked, Accept="image/png, */*;q=0.1")
    assert answer.body == alone.to_bytes(".png")
    two = server.post("/v1/generate", asked | {"count": 2}).json["results"]
    assert [one["seed"] for one in two] == [3, 4]
    asked = {"image": B64, "nouns": ["dog", "boat"], "most": 1}
    found = server.post("/v1/caption", asked).json
    alone = textseg.caption(PICTURE, model=HeldBackbone(), nouns=["dog", "boat"], most=1)
    assert (found["text"], found["evaluations"]) == (alone.text, alone.evaluations)


def test_models_health_metrics_and_description(server: Live):
    (model,) = server.ask("GET", "/v1/models").json["models"]
    assert (model["name"], model["device"], model["dtype"]) == ("fake", "cpu", "float32")
    assert server.ask("GET", "/healthz").json == {"status": "ok"}
    assert server.ask("GET", "/readyz").json == {"status": "ready"}
    server.post("/v1/segment", ASK)
    figures = server.ask("GET", "/metrics").body.decode()
    line = 'textseg_requests_total{method="POST",route="/v1/segment",status="200"}'
    assert line in figures and "textseg_waiting 0.0" in figures
    described = server.ask("GET", "/openapi.json").json
    assert set(described["paths"]) >= {"/v1/segment", "/v1/edit", "/v1/jobs/{id}/events"}


@pytest.mark.parametrize("verb", ["segment", "edit", "outpaint", "generate", "caption"])
def test_the_examples_of_the_description_work_when_pasted(server: Live, verb: str):
    described = server.ask("GET", "/openapi.json").json
    body = described["paths"][f"/v1/{verb}"]["post"]["requestBody"]["content"]
    examples = body["application/json"]["examples"]
    assert examples
    for name, example in examples.items():
        answer = server.post(f"/v1/{verb}", example["value"])
        assert answer.status == 200, (name, answer.body)


def test_the_docs_page_needs_nothing_from_elsewhere(server: Live):
    pytest.importorskip("fastapi_offline", reason="the page's files come with textseg[server]")
    page = server.ask("GET", "/docs")
    assert page.status == 200 and "/openapi.json" in page.body.decode()
    links = re.findall(r'(?:src|href)="([^"]+)"', page.body.decode())
    assert len(links) == 3
    for link in links:
        answer = server.ask("GET", link)
        assert link.startswith("/") and answer.status == 200 and len(answer.body) > 1000


def test_one_model_is_served_under_its_own_name(server: Live):
    assert server.post("/v1/segment", ASK | {"model": "fake"}).status == 200
    answer = server.post("/v1/segment", ASK | {"model": "../../etc"})
    assert (answer.status, answer.kind) == (404, "no_such_model")


@pytest.mark.parametrize(
    ("changes", "status", "kind"),
    [
        ({"image": "/etc/passwd"}, 422, "bad_input"),
        ({"image": "http://127.0.0.1/x.png"}, 422, "bad_input"),
        ({"image": base64.b64encode(b"/etc/passwd").decode()}, 422, "bad_image"),
        ({"image": None}, 422, "bad_input"),
        ({"query": []}, 422, "bad_input"),
        ({"query": ["a dog"] * 17}, 422, "bad_input"),
        ({"query": "x" * 3000}, 422, "bad_input"),
        ({"query": "the dog\0"}, 422, "bad_input"),
        ({"path": "/etc/passwd"}, 422, "bad_input"),
        ({"options": {"samples": 0}}, 422, "bad_input"),
        ({"options": {"samples": 10**30}}, 422, "bad_input"),
        ({"options": {"sample": 3}}, 422, "bad_input"),
        ({"options": {"batch_size": 1024}}, 422, "bad_input"),
        ({"options": {"crf_alpha": 1e-30}}, 422, "bad_input"),
        ({"options": {"threshold": "mine"}}, 422, "bad_input"),
        ({"options": {"threshold": 1.5}}, 422, "bad_input"),
        ({"options": {"threshold": True}}, 422, "bad_input"),
        ({"options": {"threshold": []}}, 422, "bad_input"),
        ({"options": {"threshold": 0.5, "level": 0.5}}, 422, "bad_input"),
        ({"options": {"level": 1.5}}, 422, "bad_input"),
        ({"output": ["mask", "passwd"]}, 422, "bad_input"),
        ({"points": [[64, 3, 1]]}, 422, "bad_input"),
        ({"points": [[3, 3]]}, 422, "bad_input"),
        ({"points": [[3, 3, 2]]}, 422, "bad_input"),
        ({"points": [[3, 3, 1]] * 65}, 422, "bad_input"),
        ({"points": [[1e400, 3, 1]]}, 422, "bad_input"),
        ({"boxes": [[9, 3, 9, 30]]}, 422, "bad_input"),
        ({"boxes": [[0, 0, 64, 41]]}, 422, "bad_input"),
        ({"boxes": "everything"}, 422, "bad_input"),
        ({"query": ["the dog", "the ball"], "points": [[3, 3, 1]]}, 422, "bad_input"),
        ({"exclusive": True, "boxes": [[1, 1, 9, 9]]}, 422, "bad_input"),
    ],
)
def test_what_breaks_a_rule_is_told_in_a_sentence(server: Live, changes, status, kind):
    answer = server.post("/v1/segment", ASK | changes)
    assert (answer.status, answer.kind) == (status, kind)
    assert server.app.state.engine.inside == 0


def test_bodies_of_no_known_form(server: Live):
    json_type = {"Content-Type": "application/json"}
    cases = [
        (b"{", json_type, 400, "bad_json"),
        (b'{"query": "\\ud800"}', json_type, 400, "bad_json"),
        (b"[" * 100_000, json_type, 400, "bad_json"),
        (b"x", {"Content-Type": "text/plain"}, 415, "wrong_type"),
        (b"x", {}, 415, "wrong_type"),
        (b"x", {"Content-Type": "multipart/form-data"}, 400, "bad_form"),
        (b"--a\r\n\r\n", {"Content-Type": "multipart/form-data; boundary=a"}, 400, "bad_form"),
        (*multipart(("image", PICTURE), ("query", "a"), ("options", "{")), 400, "bad_form"),
        (*multipart(("image", PICTURE), ("query", "a"), ("points", "3,3")), 400, "bad_form"),
        (*multipart(("image", PICTURE), ("image", PICTURE)), 422, "bad_input"),
    ]
    for body, headers, status, kind in cases:
        answer = server.ask("POST", "/v1/segment", body, headers)
        assert (answer.status, answer.kind) == (status, kind), body[:40]


AMOUNT = 'must be a whole number of pixels of at least 0, or as "25%", got'
CLICK = "must be x, y and 1 on the object or 0 on what is none of it, got"


@pytest.mark.parametrize(
    ("verb", "change", "message"),
    [
        ("outpaint", {"left": 1.5}, f"left {AMOUNT} 1.5."),
        ("outpaint", {"top": True}, f"top {AMOUNT} true."),
        ("outpaint", {"left": float("nan")}, f"left {AMOUNT} NaN."),
        ("outpaint", {"left": -3}, f"left {AMOUNT} -3."),
        ("outpaint", {"left": "wide"}, f"left {AMOUNT} 'wide'"),
        ("outpaint", {"right": [1] * 99}, f"right {AMOUNT} [{'1, ' * 12}...."),
        ("outpaint", {"up": 4}, "up is unknown; arguments are model, image, prompt, left, right, "
         "top, bottom, method, options, assess, visible_label."),
        ("segment", {"image": 5}, "image must be a file, in JSON as base64, got 5."),
        ("segment", {"image": "*" * 99},
         f"image must be a file, in JSON as base64, got '{'*' * 36}...."),
        ("segment", {"boxes": [[1, 2, 3]]},
         "boxes[0] must be left, top, right and bottom, got [1, 2, 3]."),
        ("segment", {"points": [[1, 2, 1], [1, 2, 5]]}, f"points[1] {CLICK} 5."),
        ("segment", {"points": [[1, 2]]}, f"points[0] {CLICK} [1, 2]."),
        ("segment", {"points": [[1, 2, 1]] * 65}, "points must be a list of at most 64, got 65."),
        ("segment", {"query": 5}, "query must be a text or a list of texts, got 5."),
        ("segment", {"query": ["a dog", None]}, "query[1] must be a text, got null."),
        ("segment", {"exclusive": "maybe"}, "exclusive must be true or false, got 'maybe'."),
        ("segment", {"options": {"samples": 0}}, "options.samples must be at least 1, got 0."),
        ("segment", {"options": {"samples": 1.5}},
         "options.samples must be a whole number, got 1.5."),
        ("segment", {"options": {"strength": [0.5] * 9}},
         "options.strength must be a list of at most 8, got 9."),
        ("edit", {"mask_rle": [[[]]]}, "mask_rle must be an object, got [[[]]]."),
        ("caption", {"most": 0}, "most must be at least 1, got 0."),
        ("caption", {"image": None},
         "image must be a file, in JSON as base64, got null."),
    ],
)  # fmt: skip
def test_a_refusal_names_the_argument_the_rule_and_the_value(server: Live, verb, change, message):
    asked = {"image": B64} | ({"query": "the dog"} if verb in ("segment", "edit") else {}) | change
    answer = server.post(f"/v1/{verb}", asked)
    assert (answer.status, answer.kind) == (422, "bad_input")
    assert answer.json["error"]["message"] == message


def test_refusals_of_forms_and_of_the_address_show_values_too(server: Live):
    def said(path, *parts):
        answer = server.ask("POST", path, *multipart(*parts))
        assert (answer.status, answer.kind) == (422, "bad_input")
        return answer.json["error"]["message"]

    dog = ("image", PICTURE), ("query", "the dog")
    assert said("/v1/segment", dog[1]) == "image must be given."
    latin = said("/v1/segment", *dog, ("caption", b"\xff" * 9))
    assert latin == "caption must be a text in UTF-8, got 9 bytes."
    deep = "[" * 900 + "]" * 900
    nested = said("/v1/segment", *dog, ("options", deep))
    assert nested == f"options must be an object, got {'[' * 37}...."
    assert said("/v1/segment?async=perhaps", *dog) == "async must be true or false, got 'perhaps'."


def test_methods_and_paths(server: Live):
    assert server.ask("GET", "/nothing").kind == "not_found"
    answer = server.ask("GET", "/v1/segment")
    assert (answer.status, answer.kind) == (405, "wrong_method")
    answer = server.post("/v1/segment", ASK, Accept="text/html")
    assert (answer.status, answer.kind) == (406, "not_acceptable")


def test_a_wrong_method_is_told_which_is_right_beside_the_studio_too():
    pytest.importorskip("gradio", reason="gradio is not installed; it comes with textseg[studio]")
    with live(studio=True) as server:
        for verb in ("segment", "edit", "outpaint", "generate", "caption"):
            for method in ("GET", "DELETE", "OPTIONS"):
                answer = server.ask(method, f"/v1/{verb}")
                assert (answer.status, answer.kind) == (405, "wrong_method")
                assert answer.headers["allow"] == "POST"
        assert server.ask("PUT", "/v1/jobs/any").headers["allow"] == "DELETE, GET"
        assert server.ask("GET", "/v1/nothing").kind == "not_found"


def test_several_queries_at_once_get_what_each_gets_alone(server: Live):
    queries = ["the dog", "the ball"] * 6
    pictures = [png(seed=n % 3) for n in range(12)]
    alone = [
        textseg.segment(picture, query, model=HeldBackbone())
        for picture, query in zip(pictures, queries, strict=True)
    ]

    def ask(number: int):
        image = base64.b64encode(pictures[number]).decode()
        return server.post(
            "/v1/segment",
            {"image": image, "query": queries[number], "output": ["npz"]},
            Accept="application/zip",
        )

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(12)))
    for answer, one in zip(answers, alone, strict=True):
        with zipfile.ZipFile(io.BytesIO(answer.body)) as files:
            name = next(name for name in files.namelist() if name.endswith(".npz"))
            found = textseg.Segmentation.from_bytes(files.read(name))
        assert np.array_equal(found.score, one.score)
        assert found.contrast is not None and one.contrast is not None
        assert np.array_equal(found.contrast, one.contrast)


def test_the_same_image_is_encoded_once_and_its_predictions_shared():
    with live(workers=1) as server:
        for query in ("the dog", "the ball", "the dog"):
            assert server.post("/v1/segment", ASK | {"query": query}).status == 200
        # 4 draws in batches of 2: the empty prompt once, each query once.
        assert server.model.encoded == 1
        assert sum(draws for draws, _ in server.model.calls) == 4 * 3


def test_workers_use_as_many_threads_as_they_are_told():
    import torch

    class Counting(HeldBackbone):
        threads = 0

        def predict(self, noisy, t, embedding, **told):
            self.threads = torch.get_num_threads()
            return super().predict(noisy, t, embedding, **told)

    def seen(threads: int) -> int:
        with live(Counting(), threads=threads) as server:
            assert server.post("/v1/segment", ASK).status == 200
            return server.model.threads

    usual = torch.get_num_threads()
    assert [seen(0), seen(1), seen(3), seen(0)] == [usual, 1, 3, usual]


def test_a_full_queue_says_when_to_come_back():
    with live(queue=2, workers=1) as server, ThreadPoolExecutor(3) as pool:
        server.model.free.clear()
        held = [pool.submit(server.post, "/v1/segment", ASK) for _ in range(3)]
        server.wait_for(lambda: server.app.state.engine.inside == 3)
        answer = server.post("/v1/segment", ASK)
        assert (answer.status, answer.kind) == (429, "busy")
        assert 1 <= int(answer.headers["retry-after"]) <= 120
        assert server.ask("GET", "/healthz").status == 200
        server.model.free.set()
        assert [one.result().status for one in held] == [200] * 3
        assert server.post("/v1/segment", ASK).status == 200


def test_work_is_cancelled_when_its_client_leaves():
    with live(workers=1, queue=4) as server:
        engine = server.app.state.engine
        server.model.free.clear()
        leaving = []
        for seed in range(2):
            asked = {"image": b64(png(seed=seed)), "query": "the dog", "prompt": "a cat"}
            connection = http.client.HTTPConnection("127.0.0.1", server.port)
            json_type = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/edit", json.dumps(asked), json_type)
            leaving.append(connection)
        server.wait_for(lambda: engine.running == 1 and engine.waiting == 1)
        for connection in leaving:
            connection.close()
        server.wait_for(lambda: engine.waiting == 0 and engine.inside == 0)
        asked = len(server.model.calls)
        server.model.free.set()
        server.wait_for(lambda: engine.running == 0)
        # An edit of 50 steps would have asked the model a hundred times more.
        assert len(server.model.calls) - asked < 5


def test_the_time_limit_ends_work():
    with live(time_limit=0.3, workers=1) as server:
        server.model.free.clear()
        answer = server.post("/v1/segment", ASK)
        assert (answer.status, answer.kind) == (504, "too_long")
        server.model.free.set()
        server.wait_for(lambda: server.app.state.engine.running == 0)
        assert server.post("/v1/segment", ASK).status == 200


def test_an_unexpected_failure_tells_nothing_and_the_worker_goes_on(caplog):
    with live(workers=1) as server:
        encode, server.model.encode = server.model.encode, None
        with caplog.at_level("CRITICAL", "textseg.server"):
            answer = server.post("/v1/segment", ASK)
        assert (answer.status, answer.kind) == (500, "failed")
        assert b"NoneType" not in answer.body
        assert "textseg_failures_total 1.0" in server.ask("GET", "/metrics").body.decode()
        server.model.encode = encode
        assert server.post("/v1/segment", ASK).status == 200


def events_of(server: Live, path: str, headers: dict[str, str]) -> list[tuple[str, dict]]:
    text = server.ask("GET", path, headers=headers).body.decode()
    blocks = [block for block in text.split("\n\n") if block.startswith("event:")]
    return [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in (block.split("\n") for block in blocks)
    ]


MINE = {"X-Textseg-Session": "mine"}


def test_a_job_has_progress_a_result_and_an_owner(server: Live):
    asked = ASK | {"prompt": "a cat", "options": {"steps": 10}, "assess": False}
    answer = server.post("/v1/edit?async=true", asked, X_Textseg_Session="mine")
    assert answer.status == 202
    path = answer.headers["location"]
    assert path == f"/v1/jobs/{answer.json['id']}" and len(answer.json["id"]) == 43
    events = events_of(server, f"{path}/events", MINE)
    assert events[-1][0] == "done" and {name for name, _ in events[:-1]} <= {"progress"}
    job = server.ask("GET", path, headers=MINE).json
    assert job["state"] == "done" and job["progress"]["done"] == job["progress"]["total"] > 0
    result = server.ask("GET", f"{path}/result", headers=MINE | {"Accept": "image/png"})
    alone = textseg.edit(PICTURE, "the dog", "a cat", model=HeldBackbone(), steps=10)
    assert result.body == alone.to_bytes(".png")
    for stranger in ({}, {"X-Textseg-Session": "other"}):
        for method, tail in (("GET", ""), ("GET", "/events"), ("GET", "/result"), ("DELETE", "")):
            answer = server.ask(method, path + tail, headers=stranger)
            assert (answer.status, answer.kind) == (404, "no_such_job")
    assert server.ask("DELETE", path, headers=MINE).status == 200
    assert server.ask("GET", path, headers=MINE).status == 404


def test_a_job_is_cancelled_at_its_next_step():
    with live(workers=1) as server:
        server.model.free.clear()
        asked = ASK | {"prompt": "a cat"}
        first = server.post("/v1/edit?async=true", asked).json
        server.wait_for(server.model.asked.is_set)
        second = server.post("/v1/edit?async=true", asked).json
        early = server.ask("GET", f"{first['links']['self']}/result")
        assert (early.status, early.kind) == (409, "not_done")
        assert server.ask("DELETE", second["links"]["self"]).json["state"] == "cancelled"
        threading.Timer(0.2, server.model.free.set).start()
        assert server.ask("DELETE", first["links"]["self"]).json["state"] == "cancelled"
        name, job = events_of(server, first["links"]["events"], {})[-1]
        assert name == "cancelled" and job["error"]["kind"] == "cancelled"
        answer = server.ask("GET", first["links"]["result"])
        assert (answer.status, answer.kind) == (409, "cancelled")
        assert len(server.model.calls) < 10
        assert server.app.state.engine.inside == 0


def test_a_failed_job_says_why(server: Live):
    answer = server.post("/v1/segment?async=true", ASK | {"image": B64[:60]})
    job = events_of(server, answer.json["links"]["events"], {})[-1][1]
    assert job["state"] == "failed" and job["error"]["kind"] == "bad_image"
    assert server.ask("GET", job["links"]["result"]).kind == "bad_image"


def test_an_outcome_that_comes_while_an_event_is_sent_is_told():
    import asyncio

    from textseg.server.engine import Work
    from textseg.server.jobs import DONE, Job

    async def watch() -> list[bytes]:
        work = Work("segment", lambda progress: None, deadline=0.0)
        job = Job("caller", lambda result, accept: None, work)  # pyright: ignore[reportArgumentType]
        said = []
        async for event in job.events():
            said.append(event)
            if len(said) == 1:
                job.end(DONE)
        return said

    said = asyncio.run(watch())
    assert [event.split()[1] for event in said] == [b"progress", b"done"]


def test_old_results_are_forgotten():
    with live(max_jobs=2, keep_bytes=1) as server:
        links = []
        for _ in range(3):
            links.append(server.post("/v1/segment?async=true", ASK).json["links"])
            events_of(server, links[-1]["events"], {})
        statuses = [server.ask("GET", link["self"]).status for link in links]
        assert statuses == [404, 404, 200]


def test_a_finished_job_holds_nothing_of_its_request(server: Live):
    import gc

    marker = png(seed=77)
    asked = {"image": base64.b64encode(marker).decode(), "query": "the dog"}
    job = server.post("/v1/segment?async=true", asked).json
    events_of(server, job["links"]["events"], {})
    gc.collect()
    bodies = [one for one in gc.get_objects() if type(one).__name__ == "SegmentBody"]
    assert not [body for body in bodies if body.image == marker]


def test_a_stop_lets_running_work_end_and_tells_the_rest():
    with live(workers=1, grace=20.0) as server, ThreadPoolExecutor(4) as pool:
        engine = server.app.state.engine
        server.model.free.clear()
        running = pool.submit(server.post, "/v1/segment", ASK)
        server.wait_for(lambda: engine.running == 1)
        waiting = pool.submit(server.post, "/v1/segment", ASK | {"image": b64(png(seed=9))})
        job = server.post("/v1/edit?async=true", ASK | {"prompt": "a cat"}).json
        watching = pool.submit(events_of, server, job["links"]["events"], {})
        server.wait_for(lambda: engine.waiting == 2)
        server.server.should_exit = True
        refused = waiting.result()
        assert (refused.status, refused.kind) == (409, "cancelled")
        assert "stopping" in refused.json["error"]["message"]
        assert watching.result()[-1][0] == "cancelled"
        answer = server.ask("GET", "/readyz")
        assert (answer.status, answer.kind) == (503, "stopping")
        assert server.post("/v1/segment", ASK).kind == "stopping"
        server.model.free.set()
        assert running.result().status == 200
        server.thread.join(20)
        assert not server.thread.is_alive()


def test_a_stop_gives_up_on_work_that_takes_longer_than_its_grace():
    model = HeldBackbone()
    with live(model, workers=1, grace=0.2) as server, ThreadPoolExecutor(1) as pool:
        model.free.clear()
        stuck = pool.submit(server.post, "/v1/edit", ASK | {"prompt": "a cat"})
        server.wait_for(model.asked.is_set)
        server.server.should_exit = True
        threading.Timer(0.6, model.free.set).start()
        answer = stuck.result()
        assert (answer.status, answer.kind) == (409, "cancelled")


def test_a_job_that_ends_during_the_stop_can_be_fetched():
    with live(workers=1, grace=20.0) as server, ThreadPoolExecutor(1) as pool:
        server.model.free.clear()
        job = server.post("/v1/segment?async=true", ASK).json
        server.wait_for(server.model.asked.is_set)
        watching = pool.submit(events_of, server, job["links"]["events"], {})
        server.wait_for(lambda: any(one.watched for one in server.app.state.jobs))
        server.server.should_exit = True
        server.wait_for(lambda: server.app.state.engine.stopping)
        server.model.free.set()
        assert watching.result()[-1][0] == "done"
        assert server.ask("GET", job["links"]["result"]).status == 200


def test_predictions_made_together_give_the_same_masks():
    """On the true network of the fixture: the last bits of scores may differ, masks may not."""
    pictures = [png(seed=n) for n in range(4)]
    with live(workers=1, batch=4) as server, ThreadPoolExecutor(5) as pool:
        server.model.free.clear()
        first = pool.submit(server.post, "/v1/segment", ASK)
        server.wait_for(server.model.asked.is_set)
        others = [
            pool.submit(server.post, "/v1/segment", {"image": b64(picture), "query": "the dog"})
            for picture in pictures
        ]
        server.wait_for(lambda: server.app.state.engine.waiting == 4)
        server.model.calls.clear()
        server.model.free.set()
        masks = [decode_rle(one.result().json["results"][0]["rle"]) for one in others]
        assert first.result().status == 200
        assert server.app.state.engine.batched >= 2
        assert max(draws for draws, _ in server.model.calls) > 2
    for picture, mask in zip(pictures, masks, strict=True):
        alone = textseg.segment(picture, "the dog", model=HeldBackbone())
        assert np.array_equal(mask, alone.mask)


def test_predicting_together_matches_predicting_alone(eps_backbone, tiny_image):
    from textseg.predictions import predict_ahead
    from textseg.segmenter import Segmenter

    options = textseg.ContrastOptions(samples=3, batch_size=2, strength=(0.3, 0.6))
    images = [tiny_image, tiny_image[:, ::-1].copy()]
    queries = ["the dog", "the red ball"]
    plain = textseg.RefineOptions.off()
    together = [Segmenter(eps_backbone, options, plain).set_image(image) for image in images]
    asked = zip(together, queries, strict=True)
    plans = [(segmenter.predictions, segmenter.plan(query)) for segmenter, query in asked]
    predict_ahead([(image, plan.pairs, plan.contrast) for image, plan in plans])
    made = [segmenter.evaluations for segmenter in together]
    for segmenter, image, query in zip(together, images, queries, strict=True):
        alone = textseg.segment(image, query, model=eps_backbone, contrast=options, refine=plain)
        found = segmenter.query(query)
        assert np.array_equal(found.mask, alone.mask)
        assert found.contrast is not None and alone.contrast is not None
        np.testing.assert_allclose(found.contrast, alone.contrast, rtol=1e-4, atol=1e-6)
    # 2 levels, 3 draws, 2 prompts each, and nothing predicted twice.
    assert made == [segmenter.evaluations for segmenter in together] == [12, 12]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": "0.0.0.0"}, "host must be a loopback address"),
        ({"host": "::"}, "host must be a loopback address"),
        ({"tokens": ("short",)}, "tokens must be 16 to 512"),
        ({"tokens": ("x" * 20 + "\n",)}, "tokens must be 16 to 512"),
        ({"queue": 0}, "queue must be a whole number"),
        ({"time_limit": 0}, "time_limit must be seconds"),
        ({"port": True}, "port must be a whole number"),
    ],
)
def test_settings_are_checked(settings, words):
    with pytest.raises(InputError, match=words) as caught:
        ServerOptions(**settings)
    assert "short" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.1.2.3", "::1", "[::1]"])
def test_loopback(host):
    assert is_loopback(host)
    assert ServerOptions(host=host)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "give --token or set TEXTSEG_TOKEN"),
        (["--token", "hush"], "tokens must be 16 to 512"),
        (["--port", "99999"], "port must be a whole number from 0 to 65535"),
        (["--caption-model", "mini"], "caption-model must be a BLIP model"),
    ],
)
def test_the_command_refuses_what_is_unsafe_or_wrong(capsys, monkeypatch, arguments, words):
    from textseg.cli import main

    monkeypatch.delenv("TEXTSEG_TOKEN", raising=False)
    assert main(["serve", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1
    assert said.out == "" and "hush" not in said.err


def test_a_missing_extra_is_named(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(textseg.MissingDependencyError, match=r"textseg\[server\]"):
        textseg.server.build_server(HeldBackbone())


def test_a_port_that_is_taken(server: Live):
    from textseg.server.app import build
    from textseg.server.running import serve

    options = ServerOptions(port=server.port, studio=False)
    with pytest.raises(InputError, match=f"free to listen on, got 127.0.0.1:{server.port}"):
        serve(build(HeldBackbone(), options), options, lambda address: None)
