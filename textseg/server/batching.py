"""Noise predictions of several requests in one call of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..backbone.shared import lock_of
from ..contrast import draw_batches, predict_together
from ..segmenter import Plan, Segmenter

if TYPE_CHECKING:
    from ..contrast import Predictions

LARGEST = 64
"""Noisy images in one call of the model."""


def predict_ahead(
    wanted: Sequence[tuple[Segmenter, Plan]],
) -> None:
    """Make the predictions that queries will ask for, and leave them where they will look.

    Predictions of one timestep and one latent size share calls of up to `LARGEST` images, whatever
    image, prompt and draw they belong to. Their last bits differ from those made alone.
    """
    calls: dict[tuple[int, tuple[int, ...]], list[tuple[Predictions, str, int, range]]] = {}
    model = wanted[0][0].model
    with lock_of(model):
        for segmenter, plan in wanted:
            predictions, options = segmenter.predictions, plan.contrast
            prompts = dict.fromkeys(
                p for pair in plan.pairs for p in (pair.query, *pair.references)
            )
            for strength in options.strength:
                t = model.timestep(strength)
                mine = calls.setdefault((t, tuple(predictions.latents.shape)), [])
                for draws in draw_batches(options):
                    for prompt in prompts:
                        one = (predictions, prompt, options.seed, draws)
                        if one not in mine and not predictions.holds(prompt, t, *one[2:]):
                            mine.append(one)
        for (t, _), some in calls.items():
            part: list[tuple[Predictions, str, int, range]] = []
            for one in some:
                if sum(len(draws) for *_, draws in [*part, one]) > LARGEST and part:
                    predict_together(part, t)
                    part = []
                part.append(one)
            if part:
                predict_together(part, t)
