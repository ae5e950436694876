"""Text to image with the same backbone that segments and edits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ._version import __version__
from .checks import check_text
from .errors import InputError
from .inversion import ddim_decode, ddim_levels, guided_noise
from .option_table import documented
from .options import GenerateOptions
from .progress import Progress, report
from .showing import Shown, quoted, size_text

if TYPE_CHECKING:
    import os

    import torch
    from PIL.Image import Image
    from typing_extensions import Unpack

    from .arguments import GenerateArguments
    from .backbone.base import Backbone


@dataclass(frozen=True, eq=False)
class Generation(Shown):
    """An image made from a prompt, and how.

    Attributes:
        image: (H, W, 3) uint8.
        prompt: the prompt as given.
        options: with the seed of this very image.
        model, version: the model's name and textseg's version.
        notes: what the caller should know, e.g. which words the model does not know.
    """

    image: np.ndarray
    prompt: str
    options: GenerateOptions
    model: str
    version: str = __version__
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        size = size_text(*self.image.shape[:2])
        return f"Generation({quoted(self.prompt)}, {size}, seed {self.options.seed})"

    def describe(self) -> dict[str, Any]:
        """How this image was made, JSON-able; written into every file it is saved to."""
        return {
            "textseg": self.version,
            "kind": "generation",
            "prompt": self.prompt,
            "model": self.model,
            "seed": self.options.seed,
            "options": asdict(self.options),
            "size": list(self.image.shape[:2]),
            "notes": list(self.notes),
        }

    def to_pil(self) -> Image:
        """The image as a Pillow picture, without the label that `save` writes."""
        from .saving import as_picture

        return as_picture(self.image)

    def _look(self, longest: int | None = None) -> Image:
        return self.to_pil()

    def save(self, path: str | os.PathLike[str], visible_label: bool = False) -> None:
        """Write the image, whole or not at all, labelled as made by a model.

        Args:
            path: .png, .webp (lossless), .jpg or .jpeg (quality 95).
            visible_label: also write "Generated with AI" in the lower left corner.

        Raises:
            OutputError: the file cannot be written.
            InputError: another suffix.
        """
        from .saving import picture_suffix, write_atomic

        write_atomic(path, self.to_bytes(picture_suffix(path), visible_label))

    def to_bytes(self, suffix: str = ".png", visible_label: bool = False) -> bytes:
        """The bytes of the file that `save` writes; `suffix` says the format."""
        from .drawing import draw_labels
        from .provenance import TRAINED, xmp_label
        from .saving import encode_picture, picture_suffix

        picture_suffix(f"result{suffix}")
        pixels = self.image
        if visible_label:
            pixels = draw_labels(pixels, [("Generated with AI", None)], corner="lower left")
        return encode_picture(pixels, suffix, self.describe(), xmp=xmp_label(TRAINED))


def starting_noise(shape: Sequence[int], seed: int, prompt: str) -> torch.Tensor:
    """Standard normal noise (C, h, w) float32, drawn on the CPU from the seed and the prompt."""
    from .predictions import draw_noise

    identity = hashlib.sha256(prompt.encode()).hexdigest()
    return draw_noise(shape, seed, identity, -1, 0)


@overload
def generate(
    prompt: str,
    *,
    count: None = None,
    model: Backbone | str = "mini",
    options: GenerateOptions | None = None,
    progress: Progress | None = None,
    **overrides: Unpack[GenerateArguments],
) -> Generation: ...
@overload
def generate(
    prompt: str,
    *,
    count: int,
    model: Backbone | str = "mini",
    options: GenerateOptions | None = None,
    progress: Progress | None = None,
    **overrides: Unpack[GenerateArguments],
) -> list[Generation]: ...
@overload
def generate(
    prompt: Sequence[str],
    *,
    count: int | None = None,
    model: Backbone | str = "mini",
    options: GenerateOptions | None = None,
    progress: Progress | None = None,
    **overrides: Unpack[GenerateArguments],
) -> list[Generation]: ...
@documented(GenerateOptions)
def generate(
    prompt: str | Sequence[str],
    *,
    count: int | None = None,
    model: Backbone | str = "mini",
    options: GenerateOptions | None = None,
    progress: Progress | None = None,
    **overrides: Any,
) -> Generation | list[Generation]:
    """Make images from prompts.

    Images are made one after the other, so that each is the same whether made alone or in a batch.

    Args:
        prompt: one prompt, or several.
        count: images per prompt; a list is returned if it is given, or if there are several
            prompts. Image i of the list has seed + i.
        model: a name or a loaded model; one that does not paint leaves it to the one it names.
        options: the model's own or the usual defaults if None.
        progress: called as progress(done, total, stage); returning False stops.
        overrides: single fields of `GenerateOptions`.

    Raises:
        InputError: a bad argument; CancelledError: `progress` returned False.
    """
    made = list(generate_each(prompt, count, model, options, progress, **overrides))
    return made[0] if isinstance(prompt, str) and count is None else made


def generate_each(
    prompt: str | Sequence[str],
    count: int | None = None,
    model: Backbone | str = "mini",
    options: GenerateOptions | None = None,
    progress: Progress | None = None,
    **overrides: Any,
) -> Iterator[Generation]:
    """The images of `generate`, each as soon as it is made; arguments and errors as there."""
    from .backbone.shared import lock_of, painter_of, shared
    from .editing import guidance_notes, prompt_notes

    prompts = [prompt] if isinstance(prompt, str) or not isinstance(prompt, Sequence) else [*prompt]
    if not prompts:
        raise InputError(f"prompt must be a text or texts, got {prompt!r}")
    for text in prompts:
        check_text("prompt", text)
    if count is not None and (not isinstance(count, int) or count < 1):
        raise InputError(f"count must be a whole number of at least 1, got {count!r}")
    backbone = painter_of(shared(model))
    unknown = set(overrides) - {f.name for f in fields(GenerateOptions)}
    if unknown:
        raise InputError(f"options of generate have no field {sorted(unknown)[0]!r}")
    defaults = GenerateOptions(**backbone.calibration.get("generate", {}))
    chosen = replace(options or defaults, **overrides)
    jobs = [p for p in prompts for _ in range(count or 1)]
    # The last image's seed is refused before the first image is made.
    replace(chosen, seed=chosen.seed + len(jobs) - 1)
    for i, text in enumerate(jobs):
        this = replace(chosen, seed=chosen.seed + i)
        notes = prompt_notes(backbone, text, this.negative_prompt)
        notes += guidance_notes(backbone, this)
        with lock_of(backbone):
            image = _generate_one(backbone, text, this, progress, f"image {i + 1} of {len(jobs)}")
        yield Generation(image, text, this, backbone.name, notes=tuple(notes))


def _generate_one(
    backbone: Backbone, prompt: str, options: GenerateOptions, progress: Progress | None, stage: str
) -> np.ndarray:
    side = backbone.native_size
    height, width = _fit(backbone, options.height or side, options.width or side)
    backbone.check_size(height, width)
    # The encoder alone knows the shape of a model's latents.
    shape = backbone.encode(np.zeros((height, width, 3), np.uint8)).shape
    noise = starting_noise(shape, options.seed, prompt).to(backbone.device)
    if options.scheduler == "ddim":
        levels = ddim_levels(backbone.num_train_timesteps, options.steps)
        latents = ddim_decode(
            backbone,
            noise,
            levels,
            prompt=prompt,
            progress=progress,
            negative_prompt=options.negative_prompt,
            stage=stage,
            guidance_scale=options.guidance_scale,
        )
    else:
        latents = _sample(backbone, noise, prompt, options, progress, stage)
    return backbone.decode(latents)


def _fit(backbone: Backbone, height: int, width: int) -> tuple[int, int]:
    """The sides nearest to those asked for that the model can make."""
    m = backbone.multiple
    return max(1, round(height / m)) * m, max(1, round(width / m)) * m


def _sample(
    backbone: Backbone,
    noise: torch.Tensor,
    prompt: str,
    options: GenerateOptions,
    progress: Progress | None,
    stage: str,
) -> torch.Tensor:
    """Clean latents (C, h, w) by a diffusers scheduler."""
    import torch

    from .backbone.schedulers import make_scheduler, sample

    text, negative = backbone.embed([prompt, options.negative_prompt])
    scheduler = make_scheduler(backbone, options.scheduler, options.steps)
    with torch.no_grad():
        return sample(
            scheduler,
            noise,
            lambda x, t: guided_noise(backbone, x, t, text, negative, options.guidance_scale),
            lambda done, total: report(progress, done, total, stage),
            torch.Generator().manual_seed(options.seed),
        )
