"""The noise a model predicts in one image, each prediction made once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

    from .backbone.base import Backbone
    from .options import ContrastOptions
    from .prompts import PromptPair

LARGEST = 64
"""Noisy images in one call of the model that serves several prompts or images."""


def draw_noise(shape: Sequence[int], seed: int, identity: str, t: int, index: int) -> torch.Tensor:
    """One draw from a standard normal, (C, h, w) float32 on the CPU.

    It depends on nothing but the seed, the image, the timestep and its own index: batches, devices,
    workers and the other noise levels do not change it.
    """
    import torch

    key = hashlib.sha256(f"{seed}/{identity}/{t}/{index}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(key[:8], "big") >> 1)
    return torch.randn(tuple(shape), generator=generator)


class Predictions:
    """Noise predictions for one image, each made once.

    One call of the model holds draws of one prompt and one level only, so a prediction has the same
    bits whatever else is asked. The predictions last used are kept, up to `max_bytes` (one prompt
    at one level takes 650 KB for 10 draws of 4 x 64 x 64 latents).

    Attributes:
        evaluations: images the UNet has been run on so far.
    """

    def __init__(
        self,
        backbone: Backbone,
        latents: torch.Tensor,
        identity: str,
        *,
        max_bytes: int = 2**28,
    ) -> None:
        """
        Args:
            latents: clean latents (C, h, w).
            identity: of the image, from `image_identity`; with the seed it fixes the noise.
        """
        self.backbone: Backbone = backbone
        self.latents: torch.Tensor = latents
        self.identity: str = identity
        self.evaluations: int = 0
        self._room = max_bytes
        self._kept: OrderedDict[tuple[str, int, int, int, int], torch.Tensor] = OrderedDict()
        self._names: dict[tuple[int, int], np.ndarray | None] = {}

    def noise(self, t: int, seed: int, draws: range) -> torch.Tensor:
        """The true noise of some draws, (N, C, h, w) on the backbone's device."""
        import torch

        shape = tuple(self.latents.shape)
        drawn = [draw_noise(shape, seed, self.identity, t, i) for i in draws]
        return torch.stack(drawn).to(self.latents.device)

    def predict(self, prompt: str, t: int, seed: int, draws: range) -> torch.Tensor:
        """Predicted noise of some draws under a prompt, (N, C, h, w) float32."""
        key = (prompt, t, seed, draws.start, draws.stop)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        noisy = self.backbone.add_noise(self.latents, self.noise(t, seed, draws), t)
        predicted = self.backbone.predict(noisy, t, self.backbone.embed([prompt])[0])
        self._keep(key, predicted)
        return predicted

    def cell_names(self, t: int, seed: int) -> np.ndarray | None:
        """What each cell shows, from the first draw, as `Backbone.name_cells` has it.

        Returns:
            (1 + K, h', w') float32 log-probabilities, of none and of each of the model's K nouns;
            None where the model cannot tell.
        """
        if (t, seed) not in self._names:
            noisy = self.backbone.add_noise(self.latents, self.noise(t, seed, range(1)), t)
            found = self.backbone.name_cells(noisy, t)
            self._names[t, seed] = None if found is None else found[0].cpu().numpy()
        return self._names[t, seed]

    def holds(self, prompt: str, t: int, seed: int, draws: range) -> bool:
        """Whether `predict` would answer without the model."""
        return (prompt, t, seed, draws.start, draws.stop) in self._kept

    def _keep(self, key: tuple[str, int, int, int, int], predicted: torch.Tensor) -> None:
        self.evaluations += len(predicted)
        self._kept[key] = predicted
        self._room -= predicted.nbytes
        while self._room < 0 and len(self._kept) > 1:
            self._room += self._kept.popitem(last=False)[1].nbytes


Wanted = tuple[Predictions, str, int, range]
"""A prediction that will be asked for: of an image, under a prompt, with a seed, of some draws."""


def draw_batches(options: ContrastOptions) -> list[range]:
    """The draws of one level, in the batches one call of the model takes."""
    size = options.batch_size or options.samples
    return [range(i, min(i + size, options.samples)) for i in range(0, options.samples, size)]


def predict_ahead(
    asked: Sequence[tuple[Predictions, Sequence[PromptPair], ContrastOptions]],
    *,
    largest: int = LARGEST,
    step_done: Callable[[int, int], object] | None = None,
) -> None:
    """Make the predictions that `measure` will ask for, and leave them where it will look.

    Those of one timestep and one latent size share calls of the model, whatever image, prompt and
    draw they belong to. Their last bits differ from those made alone.

    Args:
        asked: images, pairs of prompts and options, all of one model.
        largest: noisy images in one call.
        step_done: told after each call how many of how many are done.
    """
    wanted: dict[tuple[int, tuple[int, ...]], list[Wanted]] = {}
    for image, pairs, options in asked:
        prompts = dict.fromkeys(p for pair in pairs for p in (pair.query, *pair.references))
        for strength in options.strength:
            t = image.backbone.timestep(strength)
            mine = wanted.setdefault((t, tuple(image.latents.shape)), [])
            for draws in draw_batches(options):
                for prompt in prompts:
                    one = (image, prompt, options.seed, draws)
                    if one not in mine and not image.holds(prompt, t, options.seed, draws):
                        mine.append(one)
    calls: list[tuple[int, list[Wanted]]] = []
    for (t, _), some in wanted.items():
        room = 0
        for one in some:
            if room < len(one[-1]):
                calls.append((t, []))
                room = largest
            calls[-1][1].append(one)
            room -= len(one[-1])
    for number, (t, some) in enumerate(calls, 1):
        predict_together(some, t)
        if step_done is not None:
            step_done(number, len(calls))


def predict_together(wanted: Sequence[Wanted], t: int) -> None:
    """Make predictions of several images and prompts in one call of the model, and keep each where
    its `Predictions.predict` finds it. Their last bits differ from those of separate calls.

    Args:
        wanted: (predictions, prompt, seed, draws), all of one model and one latent size.
        t: timestep, the same for all.
    """
    import torch

    backbone = wanted[0][0].backbone
    noisy, embedded = [], []
    for image, prompt, seed, draws in wanted:
        noisy.append(backbone.add_noise(image.latents, image.noise(t, seed, draws), t))
        embedded.append(backbone.embed([prompt]).expand(len(draws), -1, -1))
    predicted = backbone.predict(torch.cat(noisy), t, torch.cat(embedded))
    parts = predicted.split([len(draws) for *_, draws in wanted])
    for (image, prompt, seed, draws), part in zip(wanted, parts, strict=True):
        image._keep((prompt, t, seed, draws.start, draws.stop), part.clone())
