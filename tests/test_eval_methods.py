"""The compared methods on tiny random models, each against what it claims to be."""

import importlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from eval_tools import box, rle_of, write_set

from textseg.errors import InputError, ModelError
from textseg.segmenter import Segmenter
from textseg_eval.ablation import parse_axis, settings, variants
from textseg_eval.aggregate import Bootstrap
from textseg_eval.datasets import load_coco
from textseg_eval.methods import METHODS, Answer, Method, MethodSpec, Query, build
from textseg_eval.methods.cross_attention import noun_tokens
from textseg_eval.methods.trivial import centre_box
from textseg_eval.protocols import Present, Vocabulary
from textseg_eval.records import RecordFile
from textseg_eval.run import Run, Split, Variant, evaluate


def ask(method: Any, image: np.ndarray, queries: list[str]) -> Any:
    """The answer of a method or of its specification."""
    return (build(method) if isinstance(method, MethodSpec) else method)(image, queries)


FAST = {"samples": 2, "batch_size": 1, "crf": False}


@pytest.fixture
def spec(tiny_folder):
    return MethodSpec("textseg", str(tiny_folder), FAST, "cpu")


def test_every_method_is_named_and_refuses_unknown_options(tiny_folder):
    assert {"textseg", "grabcut", "diffedit-public", "cross-attention", "clipseg"} <= set(METHODS)
    with pytest.raises(InputError, match="method must be one of textseg"):
        build(MethodSpec("magic"))
    for name in ("textseg", "cross-attention", "diffedit-public", "centre-box"):
        with pytest.raises(InputError, match="loudness"):
            build(MethodSpec(name, str(tiny_folder), {"loudness": 1}))
    for name in ("clipseg", "sam3"):
        with pytest.raises(InputError, match=f"folder of the weights for {name}"):
            build(MethodSpec(name))
        with pytest.raises(ModelError, match="cannot be loaded"):
            build(MethodSpec(name, str(tiny_folder)))


def test_each_line_of_the_table_leads_to_a_method():
    for entry in METHODS.values():
        module, _, name = entry.place.partition(":")
        found = getattr(importlib.import_module(f"textseg_eval.methods.{module}"), name)
        assert issubclass(found, Method) and entry.told
        assert "{}" in entry.template


def test_textseg_is_the_segmenter(spec, tiny_image):
    method: Any = build(spec)
    answer = method(tiny_image, ["dog", "red ball"])
    segmenter = Segmenter(method.segmenter.model).set_image(tiny_image)
    for row, result in enumerate(segmenter.query(["dog", "red ball"], **FAST)):
        assert np.array_equal(answer.masks[row], result.mask)
        assert np.array_equal(answer.scores[row], result.score)
        assert answer.presence[row] == result.presence


def test_absent_queries_have_no_score_and_present_ones_are_unchanged(spec, tiny_image):
    texts = ["dog", "red ball", "apple"]
    free = ask(spec, tiny_image, texts)
    least = float(np.median(free.presence))
    options = {**FAST, "min_presence": least}
    gated = ask(replace(spec, options=options), tiny_image, texts)
    there = free.presence >= least
    assert 0 < there.sum() < 3
    assert np.array_equal(gated.presence, free.presence)
    assert np.array_equal(gated.masks[there], free.masks[there])
    assert not gated.masks[~there].any() and not gated.scores[~there].any()


def test_several_texts_of_a_category_join(spec, tiny_image):
    method: Any = build(spec)
    plain = method(tiny_image, ["dog", "cat", "ball"])
    joined = plain.joined([[0, 1], [2]])
    assert np.array_equal(joined.scores[0], np.maximum(plain.scores[0], plain.scores[1]))
    assert np.array_equal(joined.masks[0], plain.masks[0] | plain.masks[1])
    assert joined.presence.tolist() == [max(plain.presence[:2]), plain.presence[2]]
    reordered = plain.joined([[2], [0]])
    assert np.array_equal(reordered.scores, plain.scores[[2, 0]])


def test_vocabulary():
    words = Vocabulary(("a photo of a {}", "{}"), {"aeroplane": ["jet"]})
    assert words.texts("aeroplane") == (
        "a photo of an aeroplane", "aeroplane", "a photo of a jet", "jet",
    )  # fmt: skip
    assert words.texts("skis")[0] == "a photo of skis"
    with pytest.raises(InputError, match="once, got"):
        Vocabulary(("a dog",))


def test_answers_are_checked():
    with pytest.raises(InputError, match="finite"):
        Answer(np.full((1, 2, 3), np.nan, np.float32))
    with pytest.raises(InputError, match="got neither"):
        Answer(None)


def test_trivial_answers(tiny_image):
    height, width = tiny_image.shape[:2]
    top, left, bottom, right = centre_box(height, width)
    assert (bottom - top) * (right - left) / (height * width) == pytest.approx(0.5, abs=0.03)
    assert abs(top - (height - bottom)) <= 1 and abs(left - (width - right)) <= 1
    first, second = (ask(MethodSpec("grabcut"), tiny_image, ["x"]).masks for _ in range(2))
    assert np.array_equal(first, second) and first[0, 24, 52] and not first[0, 0].any()
    thin = ask(MethodSpec("grabcut"), np.zeros((1, 40, 3), np.uint8), ["x"]).masks
    assert thin.shape == (1, 1, 40)


def test_public_pipeline_is_asked_as_a_user_would(tiny_folder, tiny_image):
    method: Any = build(MethodSpec("diffedit-public", str(tiny_folder), {"samples": 2}, "cpu"))
    first, again = (method(tiny_image, ["dog"]).masks for _ in range(2))
    assert np.array_equal(first, again) and 0 < first.sum() < first.size
    # Cells of the latents' size, undivided.
    size = method.backbone.fit_size(48, 80)
    cells = (48 // (size[0] // 8), 80 // (size[1] // 8))
    blocks = first[0][: cells[0], : cells[1]]
    assert blocks.all() or not blocks.any()
    other = method(tiny_image[:, ::-1].copy(), ["dog"]).masks
    assert not np.array_equal(first, other)


def test_cross_attention_against_the_layers_own_projections(tiny_folder, tiny_image):
    method: Any = build(MethodSpec("cross-attention", str(tiny_folder), {"samples": 2}, "cpu"))
    unet = method.unet
    before = dict(unet.attn_processors)
    projected: dict[str, dict[str, Any]] = {}
    hooks = []
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            kept = projected.setdefault(name, {"heads": module.heads})
            for part in ("to_q", "to_k"):

                def keep(_module, _inputs, output, kept=kept, part=part):
                    kept[part] = output

                hooks.append(getattr(module, part).register_forward_hook(keep))
    answer = method(tiny_image, ["dog"])
    for hook in hooks:
        hook.remove()
    assert unet.attn_processors == before
    tokens = noun_tokens(method.backbone.tokenizer, "a photo of a dog", "dog", 16)
    assert len(tokens) == 1
    latent = [side // 8 for side in method.backbone.fit_size(48, 80)]
    maps = []
    for kept in projected.values():
        heads = kept["heads"]
        query, key = (kept[p].reshape(2, kept[p].shape[1], heads, -1) for p in ("to_q", "to_k"))
        weights = torch.einsum("bnhd,bmhd->bhnm", query, key) / query.shape[-1] ** 0.5
        attention = weights.softmax(dim=-1)[..., tokens[0]].mean(dim=(0, 1))
        h, w = latent
        while h * w > attention.numel():
            h, w = -(-h // 2), -(-w // 2)
        maps.append(
            torch.nn.functional.interpolate(attention.reshape(1, 1, h, w), tuple(latent),
                                            mode="bilinear")[0, 0]
        )  # fmt: skip
    heat = torch.stack(maps).mean(dim=0).numpy()
    top = np.sort(heat, axis=None)[-max(1, round(0.02 * heat.size)) :].mean()
    assert answer.presence[0] == pytest.approx(top, rel=1e-4)
    import cv2

    large = cv2.resize(heat, (80, 48), interpolation=cv2.INTER_LINEAR)
    expected = (large - large.min()) / np.ptp(large)
    np.testing.assert_allclose(answer.scores[0], expected, atol=2e-3)


def test_self_attention_smooths_and_does_not_change_the_prediction(tiny_folder, tiny_image):
    plain, spread = (
        build(MethodSpec(name, str(tiny_folder), {}, "cpu"))
        for name in ("cross-attention", "cross-self-attention")
    )
    one, other = (ask(method, tiny_image, ["dog", "cat"]) for method in (plain, spread))
    assert one.scores.shape == other.scores.shape == (2, 48, 80)
    assert not np.array_equal(one.scores, other.scores)
    assert (other.presence <= one.presence + 1e-6).all()


def test_clipseg_from_a_local_folder(tmp_path, tiny_folder, tiny_image):
    from transformers import (
        AutoTokenizer,
        CLIPSegConfig,
        CLIPSegForImageSegmentation,
        CLIPSegProcessor,
        ViTImageProcessor,
    )

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder / "tokenizer")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = CLIPSegConfig(
        text_config={**small, "num_hidden_layers": 2, "vocab_size": len(tokenizer),
                     "max_position_embeddings": 16, "bos_token_id": tokenizer.bos_token_id,
                     "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0},
        vision_config={**small, "num_hidden_layers": 4, "image_size": 32, "patch_size": 8},
        projection_dim=16, reduce_dim=8, extract_layers=[1, 2, 3], decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )  # fmt: skip
    torch.manual_seed(0)
    CLIPSegForImageSegmentation(config).save_pretrained(tmp_path)
    pictures = ViTImageProcessor(size={"height": 32, "width": 32})
    CLIPSegProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(tmp_path)
    method: Any = build(MethodSpec("clipseg", str(tmp_path)))
    for queries in (["dog"], ["dog", "a red ball"]):
        answer = method(tiny_image, queries)
        assert answer.scores.shape == (len(queries), 48, 80) and answer.masks is None


@pytest.fixture
def dataset(tmp_path):
    sizes = {1: (40, 64), 2: (48, 36)}
    marks = [
        (1, 1, rle_of(box(40, 64, 4, 6, 30, 40)), 0),
        (2, 2, rle_of(box(48, 36, 10, 2, 40, 30)), 0),
    ]
    return load_coco(*write_set(tmp_path / "set", sizes, marks, {1: "dog", 2: "ball", 3: "cat"}))


def rows_of(folder):
    with RecordFile(folder / "per_image.jsonl", read_only=True) as file:
        return [record["rows"] for record in file.records()]


def test_a_sweep_shares_predictions_and_changes_no_bit(dataset, spec, tmp_path, monkeypatch):
    from textseg.backbone.latent_unet import LatentUNet

    calls = []
    predict = LatentUNet.predict

    def counting(self, noisy, t, embedding):
        calls.append(len(noisy))
        return predict(self, noisy, t, embedding)

    monkeypatch.setattr(LatentUNet, "predict", counting)
    axes = dict(parse_axis(t) for t in ("samples=1,2", "measure=contrast,evidence", "refine=off"))
    rows = settings({"crf": False, "samples": 2}, axes)
    assert [row.name for row in rows] == [
        "base", "samples=1", "samples=2", "measure=contrast", "measure=evidence", "refine=off",
    ]  # fmt: skip
    protocol = Present({key: (name,) for key, name in dataset.categories.items()}, absent=1)
    common = {"split": Split("own"), "bootstrap": Bootstrap(replicates=10)}
    runs = variants(spec, rows, tmp_path / "sweep")
    evaluate(Run(dataset, protocol, runs, **common))
    # Two draws of "" and of each query, in two images with two queries.
    assert sum(calls) == 2 * 2 * 3 and set(calls) == {1}
    for variant in (runs[1], runs[4]):
        alone = Variant("alone", variant.spec, tmp_path / "alone" / variant.name)
        evaluate(Run(dataset, protocol, [alone], **common))
        assert rows_of(alone.folder) == rows_of(variant.folder)


def test_axes_and_names():
    assert parse_axis("min-presence=0,0.5") == ("min_presence", (0, 0.5))
    assert parse_axis("exclusive=on,off") == ("exclusive", (True, False))
    for text in ("samples", "volume=1", "refine=shiny", "strength=x"):
        with pytest.raises(InputError):
            parse_axis(text)
    crossed = settings({}, {"samples": (1, 2), "measure": ("contrast", "evidence")}, cross=True)
    assert len(crossed) == 4 and crossed[0].name == "samples=1,measure=contrast"
    assert crossed[0].options["batch_size"] == 1


def test_queries_of_one_image_are_asked_once_each(dataset, spec):
    method: Any = build(spec)
    seen = []
    original = type(method).__call__

    class Watched(type(method)):
        def __call__(self, image, queries):
            seen.append(list(queries))
            return original(self, image, queries)

    method.__class__ = Watched
    image = np.zeros((40, 64, 3), np.uint8)
    queries = [Query(1, 1, ("dog", "cat")), Query(2, 2, ("cat",))]
    answer = method.about(dataset.examples[0], image, queries)
    assert seen == [["dog", "cat"]] and len(answer.presence) == 2
