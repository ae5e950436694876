"""DDIM: the levels of a schedule, one step between two levels, and encoding an image to noise.

Source: Song et al. 2021, arXiv 2010.02502, Eq. 12 without its random term; used as the encoder of
DiffEdit, Couairon et al. 2022, arXiv 2210.11427, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from .backbone.schedulers import reference_signal
from .errors import InputError
from .progress import report

if TYPE_CHECKING:
    import torch

    from .backbone.base import Backbone
    from .progress import Progress


def ddim_levels(num_train_timesteps: int, steps: int, ratio: float = 1.0) -> list[int]:
    """Timesteps from the clean image up to the fraction `ratio` of the schedule.

    The full schedule has `steps` equal strides that end at T - 1 ("trailing" spacing); `ratio`
    takes the first round(ratio * steps) of them, at least one.

    Returns:
        ascending timesteps; the first is -1, the clean end.
    """
    if not 1 <= steps <= num_train_timesteps:
        raise InputError(
            f"steps must be a whole number from 1 to {num_train_timesteps}, got {steps!r}"
        )
    if not 0 < ratio <= 1:
        raise InputError(f"encode_ratio must be a number in (0, 1], got {ratio!r}")
    count = max(1, math.floor(ratio * steps + 0.5))
    return [-1] + [round(i * num_train_timesteps / steps) - 1 for i in range(1, count + 1)]


def edit_levels(backbone: Backbone, steps: int, ratio: float = 1.0) -> list[int]:
    """The timesteps of a model that are as noisy as Stable Diffusion's `ddim_levels`.

    A ratio is thus the same amount of noise for every model. Levels that fall together on a coarse
    schedule are taken once.

    Returns:
        ascending timesteps; the first is -1, the clean end.
    """
    levels = ddim_levels(len(reference_signal()), steps, ratio)
    return [-1, *sorted({backbone.same_noise(t) for t in levels[1:]})]


def ddim_step(
    latents: torch.Tensor, eps: torch.Tensor, alpha_from: float, alpha_to: float
) -> torch.Tensor:
    """One deterministic DDIM step, up or down (Eq. 12 of arXiv 2010.02502 with sigma = 0).

    Args:
        latents: x at the level with cumulative signal power `alpha_from`, any shape.
        eps: predicted noise, same shape.
        alpha_from, alpha_to: cumulative signal powers of the two levels, in (0, 1].

    Returns:
        sqrt(alpha_to) * x0 + sqrt(1 - alpha_to) * eps, with x0 the clean image that x and eps
        imply.
    """
    clean = (latents - math.sqrt(1 - alpha_from) * eps) / math.sqrt(alpha_from)
    return math.sqrt(alpha_to) * clean + math.sqrt(1 - alpha_to) * eps


def guided_noise(
    backbone: Backbone,
    latents: torch.Tensor,
    t: int,
    prompt: torch.Tensor,
    negative: torch.Tensor,
    guidance_scale: float,
    noisy_at: int | None = None,
) -> torch.Tensor:
    """Predicted noise with classifier-free guidance, (C, h, w).

    eps = eps_negative + guidance_scale * (eps_prompt - eps_negative); a scale of 1 or 0 needs one
    evaluation of the model, any other two. Models with guidance distilled into them are told the
    scale, whatever it is, and evaluated once; there the negative prompt has no part.

    Args:
        latents: (C, h, w).
        t, noisy_at: as for `Backbone.predict`.
        prompt, negative: embeddings, (L, D) each.
    """
    import torch

    if backbone.distilled_guidance is not None:
        told = backbone.with_guidance(prompt, guidance_scale)
        return backbone.predict(latents[None], t, told, noisy_at=noisy_at)[0]
    if guidance_scale in (0, 1):
        only = prompt if guidance_scale == 1 else negative
        return backbone.predict(latents[None], t, only, noisy_at=noisy_at)[0]
    texts = torch.stack([negative, prompt])
    pair = backbone.predict(torch.stack([latents, latents]), t, texts, noisy_at=noisy_at)
    return pair[0] + guidance_scale * (pair[1] - pair[0])


class Trajectory:
    """The latents x_t of an encoded image at every level of its schedule.

    Kept whole, N + 1 levels take 4 * (N + 1) * C * h * w bytes: 1.7 MB for 25 steps of a 512-pixel
    image (4 x 64 x 64). With `keep="checkpoints"` about 2 * sqrt(N) levels are held at a time and
    the others are encoded again, once each when read from the top down, to the same bits.

    Attributes:
        levels: ascending timesteps; the first is the clean end.
    """

    def __init__(
        self,
        levels: Sequence[int],
        start: torch.Tensor,
        step: Callable[[torch.Tensor, int], torch.Tensor],
        keep: Literal["all", "checkpoints"] = "all",
    ) -> None:
        """Begin at `start`; `add` gives the levels above it, one by one.

        Args:
            step: step(x, i) takes x from level i to level i + 1, to the same bits each time.
        """
        if keep not in ("all", "checkpoints"):
            raise InputError(f"keep must be 'all' or 'checkpoints', got {keep!r}")
        self.levels: list[int] = list(levels)
        self._step = step
        last = len(self.levels) - 1
        self._stride = 1 if keep == "all" else max(1, math.isqrt(last))
        self._kept = {0: start}
        self._segment: dict[int, torch.Tensor] = {}

    def add(self, latents: torch.Tensor, index: int) -> None:
        """Take the latents at `levels[index]`."""
        if index % self._stride == 0 or index + 1 == len(self.levels):
            self._kept[index] = latents

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Latents (C, h, w) at `levels[index]`."""
        index = range(len(self.levels))[index]
        if index in self._kept:
            return self._kept[index]
        if index not in self._segment:
            first = index - index % self._stride
            end = min(first + self._stride, len(self.levels) - 1)
            latents, self._segment = self._kept[first], {}
            for i in range(first, end - 1):
                latents = self._step(latents, i)
                self._segment[i + 1] = latents
        return self._segment[index]

    @property
    def held(self) -> int:
        """Number of levels in memory."""
        return len(self._kept) + len(self._segment)


def ddim_encode(
    backbone: Backbone,
    latents: torch.Tensor,
    levels: Sequence[int],
    *,
    prompt: str = "",
    negative_prompt: str = "",
    guidance_scale: float = 1.0,
    fixed_point: int = 0,
    keep: Literal["all", "checkpoints"] = "all",
    progress: Progress | None = None,
) -> Trajectory:
    """Encode clean latents to noise along the DDIM trajectory (DiffEdit step 2).

    Unconditional by default, as in the paper: the empty prompt without guidance. Costs
    (1 + fixed_point) evaluations per step, twice that with guidance.

    The decoding step from a level t uses eps(x_t, t), which is unknown on the way up. The first
    guess is eps(x_s, t) with s the level below, as in diffusers' DDIMInverseScheduler; each
    fixed-point iteration repeats the step with eps at the current guess of x_t (Pan et al. 2023,
    arXiv 2309.04907, without their acceleration). At the fixed point the decoding step undoes this
    one exactly.

    Args:
        latents: clean latents x_0, (C, h, w).
        levels: ascending timesteps from `ddim_levels`.

    Returns:
        the latents at every level; the last is x_r.
    """
    import torch

    if fixed_point < 0:
        raise InputError(f"fixed_point must be a whole number of at least 0, got {fixed_point!r}")
    text, negative = backbone.embed([prompt, negative_prompt])

    @torch.no_grad()
    def step(x: torch.Tensor, i: int) -> torch.Tensor:
        source, target = levels[i], levels[i + 1]
        low, high = backbone.alpha_bar(source), backbone.alpha_bar(target)
        eps = guided_noise(backbone, x, target, text, negative, guidance_scale, noisy_at=source)
        up = ddim_step(x, eps, low, high)
        for _ in range(fixed_point):
            eps = guided_noise(backbone, up, target, text, negative, guidance_scale)
            up = ddim_step(x, eps, low, high)
        return up

    encoded, last = Trajectory(levels, latents, step, keep), len(levels) - 1
    for i in range(last):
        latents = step(latents, i)
        encoded.add(latents, i + 1)
        report(progress, i + 1, last, "encoding")
    return encoded


def ddim_decode(
    backbone: Backbone,
    latents: torch.Tensor,
    levels: Sequence[int],
    *,
    prompt: str,
    negative_prompt: str = "",
    guidance_scale: float = 1.0,
    after_step: Callable[[torch.Tensor, int], torch.Tensor] | None = None,
    progress: Progress | None = None,
    stage: str = "decoding",
) -> torch.Tensor:
    """Decode noisy latents to clean ones, level by level.

    Args:
        latents: (C, h, w) at the last of `levels`.
        levels: ascending timesteps from `ddim_levels`.
        after_step: given the new latents and the index of their level in `levels`, returns what
            the next step goes on with: the place for a mask.

    Returns:
        latents at the first of `levels`, (C, h, w).
    """
    import torch

    text, negative = backbone.embed([prompt, negative_prompt])
    last = len(levels) - 1
    for i in range(last - 1, -1, -1):
        source, target = levels[i + 1], levels[i]
        with torch.no_grad():
            eps = guided_noise(backbone, latents, source, text, negative, guidance_scale)
            latents = ddim_step(
                latents, eps, backbone.alpha_bar(source), backbone.alpha_bar(target)
            )
        if after_step is not None:
            latents = after_step(latents, i)
        report(progress, last - i, last, stage)
    return latents
