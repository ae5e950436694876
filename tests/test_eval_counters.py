"""Counters against other programs' and against counting by hand."""

import numpy as np
import pytest
from eval_tools import LabelsTruth

from textseg_eval.aggregate import Bootstrap, Tally, best_threshold
from textseg_eval.counters import (
    BINS,
    Counts,
    average_precision,
    count_edges,
    count_mask,
    hard_histogram,
    histogram,
    pack_histogram,
    replicate_weights,
    threshold_counts,
    to_bins,
    unpack_histogram,
)
from textseg_eval.datasets import Example
from textseg_eval.methods import Answer
from textseg_eval.protocols import BACKGROUND, LabelMap


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_bins_make_every_threshold_exact(rng):
    score = np.concatenate([rng.random(500), np.arange(257) / 256]).astype(np.float32)
    bins = to_bins(score)
    for k in (0, 1, 100, 128, 255, 256):
        assert np.array_equal(bins >= k, score >= k / 256)
    assert to_bins(np.array([-1.0, 2.0])).tolist() == [0, 256]


def test_every_threshold_of_a_histogram_equals_counting_again(rng):
    score = rng.random((13, 22)).astype(np.float32)
    truth, ignore = rng.random((2, 13, 22)) > 0.7
    hist = unpack_histogram(pack_histogram(histogram(to_bins(score), truth, ignore)))
    counts = threshold_counts(hist)
    for k in range(BINS):
        mask = (score >= k / 256) & ~ignore
        assert counts[:, k].tolist() == [(mask & truth).sum(), mask.sum()]
    below = threshold_counts(hist, below=True)
    for k in range(BINS):
        mask = (score < k / 256) & ~ignore
        assert below[:, k].tolist() == [(mask & truth).sum(), mask.sum()]


def test_hard_histogram_is_that_of_a_score_of_0_and_1(rng):
    mask, truth = rng.random((2, 9, 14)) > 0.5
    counts = count_mask(mask, truth)
    expected = histogram(to_bins(mask.astype(np.float32)), truth)
    assert np.array_equal(hard_histogram(counts, int(truth.sum()), truth.size), expected)


def test_class_sums_equal_a_confusion_matrix(rng):
    torchmetrics = pytest.importorskip("torchmetrics")
    torch = pytest.importorskip("torch")
    classes, height, width = [1, 5, 9], 17, 23
    protocol = LabelMap({key: (str(key),) for key in classes})
    tally = Tally([BACKGROUND, *classes], Bootstrap(replicates=0))
    matrix = torchmetrics.ConfusionMatrix(task="multiclass", num_classes=4)
    for image_id in range(3):
        truth = rng.integers(0, 4, (height, width))
        scores = rng.random((3, height, width)).astype(np.float32)
        example = Example(image_id, "", "", LabelsTruth(truth, classes))
        queries = protocol.queries(example)
        rows = protocol.rows(example, queries, Answer(scores), 160)
        tally.add({"image_id": image_id, "rows": rows})
        labels = np.where(scores.max(0) >= 160 / 256, scores.argmax(0) + 1, 0)
        matrix.update(torch.from_numpy(labels), torch.from_numpy(truth))
    confusion = matrix.compute().numpy().astype(int)
    union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    table = tally.class_table({BACKGROUND: "background", 1: "a", 5: "b", 9: "c"})
    assert [entry["fixed"]["intersection"] for entry in table] == np.diag(confusion).tolist()
    assert [entry["fixed"]["union"] for entry in table] == union.tolist()
    assert tally.figures()["fixed"]["miou"]["value"] == pytest.approx(
        (np.diag(confusion) / union).mean(), abs=1e-12
    )
    assert tally.curve()[160] == pytest.approx(tally.figures()["fixed"]["miou"]["value"])


def test_edges_against_brute_force(rng):
    def brute(mask, truth):
        height, width = mask.shape
        radius = max(1, round(0.008 * float(np.hypot(height, width))))

        def edge(region):
            return {
                (y, x)
                for y, x in zip(*np.nonzero(region), strict=True)
                if any(
                    0 <= y + b < height and 0 <= x + a < width and not region[y + b, x + a]
                    for a, b in ((1, 0), (-1, 0), (0, 1), (0, -1))
                )
            }

        def near(one, many):
            return any((one[0] - y) ** 2 + (one[1] - x) ** 2 <= radius**2 for y, x in many)

        first, second = edge(mask), edge(truth)
        return (
            sum(near(p, second) for p in first), len(first),
            sum(near(p, first) for p in second), len(second),
        )  # fmt: skip

    for _ in range(4):
        mask, truth = np.zeros((2, 40, 190), bool)
        for region in (mask, truth):
            for _ in range(2):
                y, x = rng.integers(0, 30), rng.integers(0, 170)
                region[y : y + rng.integers(3, 20), x : x + rng.integers(3, 40)] = True
        assert count_edges(mask, truth) == brute(mask, truth)


def test_boundary_f_at_the_ends():
    truth = np.zeros((12, 20), bool)
    truth[3:9, 4:15] = True
    assert count_mask(truth, truth).boundary_f() == 1
    assert count_mask(np.zeros_like(truth), truth).boundary_f() == 0
    full = np.ones_like(truth)
    assert count_mask(full, full).boundary_f() == 1
    assert Counts(1, 2).boundary_f() is None


def test_average_precision_against_scikit_learn_rule(rng):
    # Recall steps times the precision there, ties as one step (sklearn's definition).
    scores = rng.integers(0, 6, 60) / 5
    present = rng.random(60) > 0.6
    expected, recall = 0.0, 0.0
    for level in sorted(set(scores), reverse=True):
        taken = scores >= level
        step = present[taken].sum() / present.sum()
        expected += (step - recall) * present[taken].mean()
        recall = step
    weights = np.ones((60, 1), np.uint8)
    assert average_precision(scores, present, weights)[0] == pytest.approx(expected)
    # A weight of 2 is the same as asking twice.
    weights[:10] = 2
    doubled = average_precision(
        np.append(scores, scores[:10]), np.append(present, present[:10]), np.ones((70, 1))
    )
    assert average_precision(scores, present, weights)[0] == pytest.approx(doubled[0])


def test_bootstrap_weights_belong_to_the_image():
    first = replicate_weights(12, 0, 4000)
    assert first[0] == 1 and first.mean() == pytest.approx(1, abs=0.06)
    assert np.array_equal(first, replicate_weights(12, 0, 4000))
    assert not np.array_equal(first, replicate_weights(13, 0, 4000))
    assert not np.array_equal(first, replicate_weights(12, 1, 4000))


def test_tallies_merge_by_addition(rng):
    records = [
        {
            "image_id": n,
            "rows": [
                {"category_id": c, "present": True, "presence": float(rng.random()), "truth": 50,
                 "own": [30, 40, 5, 9, 4, 8], "fixed": [20 + n, 60, 5, 9, 4, 8],
                 "hist": pack_histogram(rng.integers(0, 9, (2, BINS)))}
                for c in (1, 2)
            ]
            + [{"category_id": 1, "present": False, "presence": float(rng.random()),
                "truth": None, "own": [0, n % 2], "fixed": [0, 3], "hist": None}],
        }
        for n in range(9)
    ]  # fmt: skip
    whole = Tally([1, 2], Bootstrap(replicates=40))
    parts = [Tally([1, 2], Bootstrap(replicates=40)) for _ in range(2)]
    for n, record in enumerate(records):
        whole.add(record)
        parts[n > 3].add(record)
    parts[0].merge(parts[1])
    assert parts[0].presence() == whole.presence()
    assert parts[0].class_table({1: "a", 2: "b"}) == whole.class_table({1: "a", 2: "b"})
    one, other = parts[0].figures(), whole.figures()
    assert one["own"]["miou"] == other["own"]["miou"] and one["oracle"] == other["oracle"]
    assert one["own"]["empty_when_absent"]["value"] == pytest.approx(5 / 9)


def test_best_threshold_prefers_the_middle_of_a_plateau():
    curve = np.full(BINS, 0.5)
    curve[0] = 0.9
    assert best_threshold(curve) == 128
    curve[200] = 0.6
    assert best_threshold(curve) == 200
    assert best_threshold(np.full(BINS, np.nan)) is None
