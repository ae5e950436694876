"""`Segmenter` over a model that knows where things are, and over tiny real networks."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_backbone import FakeBackbone

import textseg
from textseg.cutting import cut, remask
from textseg.errors import CancelledError, InputError
from textseg.masks import Segmentation
from textseg.options import ContrastOptions, Measure, RefineOptions
from textseg.refine import Refiner, refine
from textseg.segmenter import Segmenter, segment

# Fractions (top, left, bottom, right) that fall on latent cells of a 96 x 160 image.
DOG = (0.25, 0.1, 0.75, 0.4)
BALL = (0.5, 0.6, 1.0, 0.9)
HEIGHT, WIDTH = 96, 160


def truth(box: tuple[float, float, float, float]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    top, left, bottom, right = box
    mask[
        round(top * HEIGHT) : round(bottom * HEIGHT), round(left * WIDTH) : round(right * WIDTH)
    ] = 1
    return mask


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.fixture
def image() -> np.ndarray:
    """A brown dog and a red ball, both rectangular, on green."""
    rng = np.random.default_rng(3)
    pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:] = (40, 160, 60)
    pixels[truth(DOG)] = (120, 80, 40)
    pixels[truth(BALL)] = (220, 30, 30)
    return np.clip(pixels + rng.integers(-6, 7, pixels.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def model() -> FakeBackbone:
    return FakeBackbone({"dog": DOG, "ball": BALL})


@pytest.mark.parametrize("reference", ["null", "absent", "swap", "a photo of a cat"])
@pytest.mark.parametrize("measure", ["contrast", "evidence"])
def test_finds_the_object_at_the_images_own_size(
    model: FakeBackbone, image: np.ndarray, reference: str, measure: Measure
) -> None:
    found = segment(image, "the dog", model=model, reference=reference, measure=measure)
    assert found.mask.shape == (HEIGHT, WIDTH)
    assert found.mask.dtype == bool
    assert found.score.shape == (HEIGHT, WIDTH)
    assert found.score.dtype == np.float32
    assert iou(found.mask, truth(DOG)) > 0.95
    assert found.presence > 0.9


def test_the_crf_finds_the_exact_edge(model: FakeBackbone, image: np.ndarray) -> None:
    found = segment(image, "the ball", model=model, refine=RefineOptions())
    assert iou(found.mask, truth(BALL)) > 0.97


def test_erase_takes_a_caption(model: FakeBackbone, image: np.ndarray) -> None:
    found = segment(
        image, "the dog", model=model, reference="erase", caption="a photo of a dog and a ball"
    )
    assert found.prompts == ("a photo of a dog and a ball", "a photo of and a ball")
    assert iou(found.mask, truth(DOG)) > 0.95
    with pytest.raises(InputError, match="caption must be given"):
        segment(image, "the dog", model=model, reference="erase")


def test_a_result_knows_how_it_was_made(model: FakeBackbone, image: np.ndarray) -> None:
    found = segment(image, "the dog", model=model, seed=7, strength=0.3, threshold="otsu")
    assert found.query == "the dog"
    assert found.prompts == ("the dog", "")
    assert found.model == "fake"
    assert found.version == textseg.__version__
    assert found.contrast_options == replace(model.contrast_defaults, seed=7, strength=(0.3,))
    assert found.refine_options == RefineOptions.off(threshold="otsu")
    assert found.contrast is not None
    assert found.contrast.shape == tuple(s // model.factor for s in model.fit_size(HEIGHT, WIDTH))
    np.testing.assert_array_equal(found.image, image)


def test_calibrated_defaults_apply_unless_replaced(image: np.ndarray) -> None:
    contrast = ContrastOptions(reference="absent", samples=3)
    refine = RefineOptions.off(threshold="fixed", level=0.2)
    model = FakeBackbone({"dog": DOG}, contrast=contrast, refine=refine)
    found = Segmenter(model).set_image(image).query("dog")
    assert (found.contrast_options, found.refine_options) == (contrast, refine)
    other = Segmenter(model, ContrastOptions(samples=2), RefineOptions()).set_image(image)
    found = other.query("dog", samples=1)
    assert found.contrast_options == ContrastOptions(samples=1)
    assert found.refine_options == RefineOptions()


def test_several_queries_give_the_masks_of_single_ones(
    model: FakeBackbone, image: np.ndarray
) -> None:
    both = segment(image, ["the dog", "the ball", "the cat"], model=model)
    assert [found.query for found in both] == ["the dog", "the ball", "the cat"]
    for found in both:
        assert_same(found, segment(image, found.query, model=model))


@pytest.mark.parametrize("name", ["eps_backbone", "v_backbone"])
@pytest.mark.parametrize("reference", ["null", "absent", "swap"])
def test_networks_give_the_same_bits_alone_and_together(
    name: str, reference: str, request: pytest.FixtureRequest, tiny_image: np.ndarray
) -> None:
    backbone = request.getfixturevalue(name)
    chosen: dict[str, Any] = {"reference": reference, "samples": 3, "batch_size": 2,
                              "strength": (0.4, 0.6)}  # fmt: skip
    queries = ["the dog", "a red ball", "the cat"]
    segmenter = Segmenter(backbone).set_image(tiny_image)
    together = segmenter.query(queries, **chosen)
    for query, found in zip(queries, together, strict=True):
        assert_same(found, segment(tiny_image, query, model=backbone, **chosen))
    # The other way round, and from the warm cache.
    for query, found in zip(queries, together, strict=True):
        assert_same(found, segmenter.query(query, **chosen))
    assert found.mask.shape == tiny_image.shape[:2]


def assert_same(a: Segmentation, b: Segmentation) -> None:
    assert a.mask.tobytes() == b.mask.tobytes()
    assert a.score.tobytes() == b.score.tobytes()
    assert a.contrast is not None
    assert b.contrast is not None
    assert a.contrast.tobytes() == b.contrast.tobytes()
    assert a.presence == b.presence


def test_shared_prompts_are_predicted_once(model: FakeBackbone, image: np.ndarray) -> None:
    segmenter = Segmenter(model).set_image(image)
    segmenter.query("the dog", samples=4)
    assert segmenter.evaluations == 8  # the query, the empty text
    segmenter.query(["the ball", "the boat"], samples=4)
    assert segmenter.evaluations == 16  # two queries
    segmenter.query(["the dog", "the ball"], samples=4, threshold="otsu")
    assert segmenter.evaluations == 16
    segmenter.query("the dog", samples=4, seed=1)
    assert segmenter.evaluations == 24
    assert sum(draws for draws, _ in model.calls) == 24
    assert model.encoded == 1


def test_setting_the_same_image_again_costs_nothing(model: FakeBackbone, image: np.ndarray) -> None:
    segmenter = Segmenter(model).set_image(image)
    segmenter.query("the dog")
    before = len(model.calls)
    segmenter.set_image(image.copy()).query("the dog")
    assert (model.encoded, len(model.calls)) == (1, before)
    segmenter.set_image(image[::-1]).query("the dog")
    assert model.encoded == 2
    assert len(model.calls) == 2 * before


def test_a_small_cache_gives_the_same_masks(model: FakeBackbone, image: np.ndarray) -> None:
    wide = Segmenter(model).set_image(image)
    narrow = Segmenter(model, cache_bytes=0).set_image(image)
    for query in ("the dog", "the ball", "the dog"):
        assert_same(wide.query(query), narrow.query(query))
    assert narrow.evaluations > wide.evaluations


def test_the_callers_image_may_change_afterwards(model: FakeBackbone, image: np.ndarray) -> None:
    segmenter = Segmenter(model).set_image(image)
    kept = image.copy()
    image[:] = 0
    np.testing.assert_array_equal(segmenter.image, kept)
    assert image.flags.writeable


def test_the_seed_and_nothing_else_draws_the_noise(
    eps_backbone: Any, tiny_image: np.ndarray
) -> None:
    import torch

    def contrast(seed: int) -> np.ndarray:
        found = segment(tiny_image, "dog", model=eps_backbone, samples=2, seed=seed)
        assert found.contrast is not None
        return found.contrast

    torch.manual_seed(1)
    first = contrast(0)
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, contrast(0))
    assert not np.array_equal(first, contrast(1))


def test_exclusive_masks_share_no_pixel(image: np.ndarray) -> None:
    overlapping = (0.25, 0.2, 0.75, 0.7)
    model = FakeBackbone({"dog": DOG, "cat": overlapping})
    apart = segment(image, ["the dog", "the cat"], model=model)
    assert (apart[0].mask & apart[1].mask).any()
    rivals = segment(image, ["the dog", "the cat"], model=model, exclusive=True)
    assert not (rivals[0].mask & rivals[1].mask).any()
    assert rivals[0].notes == (f"{apart[0].notes[0]}; competing with 'the cat'",)
    assert [found.notes for found in remask(rivals)] == [found.notes for found in apart]
    union = truth(DOG) | truth(overlapping)
    assert iou(rivals[0].mask | rivals[1].mask, union) > 0.9


def test_absent_queries_do_not_compete(model: FakeBackbone, image: np.ndarray) -> None:
    dog, cat = segment(image, ["the dog", "the cat"], model=model, exclusive=True, min_presence=0.5)
    assert iou(dog.mask, truth(DOG)) > 0.95
    assert not cat.mask.any()


def test_what_is_not_there_gives_an_empty_mask(model: FakeBackbone, image: np.ndarray) -> None:
    found = segment(image, "the cat", model=model, min_presence=0.5)
    assert found.presence < 0.5
    assert not found.mask.any()
    assert any(note.startswith("the mask is empty: presence") for note in found.notes)
    there = segment(image, "the dog", model=model, min_presence=0.5)
    assert not any("empty" in note for note in there.notes)


def test_unknown_words_are_named(model: FakeBackbone, image: np.ndarray) -> None:
    found = segment(image, "the zorby dog", model=model)
    assert any('"zorby"' in note for note in found.notes)
    assert iou(found.mask, truth(DOG)) > 0.95


def test_a_query_without_a_known_word_finds_nothing(model: FakeBackbone, image: np.ndarray) -> None:
    segmenter = Segmenter(model).set_image(image)
    zorb, dog = segmenter.query(["the zorb", "the dog"])
    assert not zorb.mask.any()
    assert zorb.presence == 0
    assert any("no word" in note for note in zorb.notes)
    assert iou(dog.mask, truth(DOG)) > 0.95
    before = len(model.calls)
    segmenter.query("the blub")
    assert len(model.calls) == before


@pytest.mark.parametrize("exclusive", [False, True])
def test_what_is_measured_is_cut_as_a_query_is(
    model: FakeBackbone, image: np.ndarray, exclusive: bool
) -> None:
    segmenter = Segmenter(model).set_image(image)
    queries = ["the dog", "a boat", "a unicorn"]
    options: dict[str, Any] = {"min_presence": 0.4, "crf": True, "samples": 4, "level": 0.4}
    wanted = segmenter.query(queries, exclusive=exclusive, **options)
    measured = segmenter.measure(queries, **options)
    for found, query in zip(cut(measured, image, exclusive=exclusive), wanted, strict=True):
        assert_same(found, query)
        assert found.describe() == query.describe()
    alone = segmenter.measure("the dog", **options)
    assert_same(cut(alone, image), segmenter.query("the dog", **options))


def test_one_measurement_is_cut_at_any_size_and_with_any_options(
    model: FakeBackbone, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Refiner, "refine", lambda self, contrast: pytest.fail("refined"))
    measured = Segmenter(model).set_image(image).measure("the dog")
    monkeypatch.undo()
    small = np.ascontiguousarray(image[::2, ::2])
    found = cut(measured, small, RefineOptions.off(level=0.7))
    assert found.mask.shape == small.shape[:2]
    expected, score = refine(measured.contrast, small, RefineOptions.off(level=0.7))
    np.testing.assert_array_equal(found.mask, expected)
    np.testing.assert_array_equal(found.score, score)
    assert cut([], small) == []


def test_remask_needs_no_model(model: FakeBackbone, image: np.ndarray) -> None:
    segmenter = Segmenter(model).set_image(image)
    first = segmenter.query("the dog")
    calls = len(model.calls)
    changes: list[dict[str, Any]] = [
        {"threshold": "quantile", "level": 0.9}, {"crf": True}, {"min_presence": 1.0},
    ]  # fmt: skip
    for chosen in changes:
        again = remask(first, **chosen)
        assert len(model.calls) == calls
        assert_same(again, segmenter.query("the dog", **chosen))
        assert again.notes == segmenter.query("the dog", **chosen).notes
        # And back: the note on an emptied mask goes with its cause.
        assert_same(remask(again, refine=first.refine_options), first)
        assert remask(again, refine=first.refine_options).notes == first.notes


def test_remask_lets_results_compete(model: FakeBackbone, image: np.ndarray) -> None:
    segmenter = Segmenter(model).set_image(image)
    queries = ["the dog", "the ball"]
    for a, b in zip(
        remask(segmenter.query(queries), exclusive=True, crf=True),
        segmenter.query(queries, exclusive=True, crf=True),
        strict=True,
    ):
        assert_same(a, b)


def test_remask_says_what_it_lacks(model: FakeBackbone, image: np.ndarray) -> None:
    found = segment(image, "the dog", model=model)
    with pytest.raises(InputError, match="image must be given"):
        remask(replace(found, image=None))
    assert_same(remask(replace(found, image=None), image=image), found)
    with pytest.raises(InputError, match="contrast map"):
        remask(replace(found, contrast=None))
    with pytest.raises(InputError, match="mask's size"):
        remask(found, image=image[:-1])
    with pytest.raises(InputError, match="'samples'"):
        remask(found, samples=3)  # pyright: ignore[reportCallIssue]


def test_progress_counts_and_can_stop(model: FakeBackbone, image: np.ndarray) -> None:
    seen: list[tuple[int, int, str]] = []
    segment(image, ["the dog", "the ball"], model=model, samples=4, batch_size=2,
            progress=lambda *step: seen.append(step))  # fmt: skip
    assert seen == [*((k, 4, "contrast") for k in (1, 2, 3, 4)), (1, 2, "refine"), (2, 2, "refine")]
    with pytest.raises(CancelledError, match="step 1 of 2"):
        segment(image, "the dog", model=model, samples=4, batch_size=2,
                progress=lambda *_: False)  # fmt: skip


def test_nothing_is_printed(
    model: FakeBackbone, image: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    segment(image, ["the dog", "the zorb"], model=model, min_presence=0.9)
    assert capfd.readouterr() == ("", "")


def test_threads_get_the_masks_of_one_thread(eps_backbone: Any, tiny_image: np.ndarray) -> None:
    queries = ["dog", "cat", "ball", "apple"]
    alone = {q: segment(tiny_image, q, model=eps_backbone, samples=2) for q in queries}
    shared = Segmenter(eps_backbone).set_image(tiny_image)
    found: dict[tuple[str, str], Segmentation] = {}

    def work(query: str) -> None:
        found["shared", query] = shared.query(query, samples=2)
        found["own", query] = segment(tiny_image, query, model=eps_backbone, samples=2)

    threads = [threading.Thread(target=work, args=(query,)) for query in queries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for (_, query), result in found.items():
        assert_same(result, alone[query])


def test_a_model_by_name_is_loaded_once(tiny_folder: Any, tiny_image: np.ndarray) -> None:
    first = Segmenter(str(tiny_folder))
    assert Segmenter(str(tiny_folder)).model is first.model
    assert first.set_image(tiny_image).query("dog", samples=1).model == str(tiny_folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampels": 3}, "'sampels'; did you mean 'samples'?"),
        ({"samples": 0}, "samples must be a whole number from 1 to 1000, got 0"),
        ({"strength": 1.5}, r"strength must be one or more numbers in \(0, 1\], got \(1.5,\)"),
        ({"threshold": "magic"}, "threshold must be one of"),
    ],
)
def test_bad_options(
    model: FakeBackbone, image: np.ndarray, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        segment(image, "the dog", model=model, **arguments)


def test_a_query_needs_an_image(model: FakeBackbone) -> None:
    with pytest.raises(InputError, match="call set_image first"):
        Segmenter(model).query("the dog")
    with pytest.raises(InputError, match="model must be a name, a folder or a Backbone"):
        Segmenter(3)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 1), (3, 5), (97, 161)])
def test_any_shape_comes_back_at_its_own_size(eps_backbone: Any, shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    found = segment(pixels, "dog", model=eps_backbone, samples=1, refine=RefineOptions())
    assert found.mask.shape == shape
    assert np.isfinite(found.score).all()
