"""Where the UNet attends to a word: DAAM's idea, and DiffSegmenter's with self-attention.

Tang et al. 2022, arXiv 2210.04885 (attention to a word, averaged over heads and layers), here for a
given image noised to one level; Wang et al. 2023, arXiv 2309.02773 (spread by self-attention).
Written from the papers' equations; their code was not used, and their figures are not reproduced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from textseg.errors import InputError
from textseg.image import image_identity, resize_image
from textseg.predictions import draw_noise

from .base import Answer, Method, MethodSpec
from .models import backbone_of, fill_prompt, take_options, unet_of


class CrossAttention(Method):
    """Attention of every cell to the query's tokens, rescaled to [0, 1] per query.

    Options: `template` of the prompt, `strength` of the noise, `samples` noise draws, `seed`, and
    `largest`, the most cells of a layer that is recorded. The presence is the mean attention over
    the strongest 2 % of cells, before rescaling.
    """

    propagate = False
    defaults: ClassVar[dict[str, Any]] = {
        "template": "a photo of {a}", "strength": 0.1, "samples": 1, "seed": 0, "largest": 4096,
    }  # fmt: skip

    def __init__(self, spec: MethodSpec) -> None:
        self.name = spec.method
        self.options = take_options(spec, self.defaults)
        if not 0 < self.options["strength"] <= 1 or self.options["samples"] < 1:
            raise InputError(
                "strength must be in (0, 1] and samples at least 1, got "
                f"{self.options['strength']} and {self.options['samples']}"
            )
        self.backbone: Any = backbone_of(spec)
        self.unet = unet_of(self.backbone, spec.method)

    def __call__(self, image: np.ndarray, queries: Sequence[str]) -> Answer:
        import cv2
        import torch

        height, width = image.shape[:2]
        latents = self.backbone.encode(resize_image(image, self.backbone.fit_size(height, width)))
        t = self.backbone.timestep(self.options["strength"])
        identity = image_identity(image)
        noise = torch.stack(
            [draw_noise(tuple(latents.shape), self.options["seed"], identity, t, index)
             for index in range(self.options["samples"])]
        )  # fmt: skip
        noisy = self.backbone.add_noise(latents, noise.to(latents.device), t)
        scores = np.zeros((len(queries), height, width), np.float32)
        presence = np.zeros(len(queries))
        for row, query in enumerate(queries):
            prompt = fill_prompt(self.options["template"], query)
            tokens = noun_tokens(self.backbone.tokenizer, prompt, fill_prompt("{noun}", query),
                                 self.backbone.max_tokens)  # fmt: skip
            recorder = Recorder(tokens, self.options["largest"], self.propagate)
            with recorder.on(self.unet):
                self.backbone.predict(noisy, t, self.backbone.embed([prompt])[0])
            heat = recorder.heat(*latents.shape[-2:])
            top = np.sort(heat, axis=None)[-max(1, round(0.02 * heat.size)) :]
            presence[row] = top.mean()
            large = cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR)
            low, high = float(large.min()), float(large.max())
            if high > low:
                scores[row] = np.clip((large - low) / (high - low), 0, 1)
        return Answer(scores, None, presence)


class CrossSelfAttention(CrossAttention):
    """The same, each layer's map spread once by the mean self-attention at its size."""

    propagate = True


def noun_tokens(tokenizer: Any, prompt: str, noun: str, max_tokens: int) -> list[int]:
    """Places of a noun's tokens in a prompt's; of all its words where the noun is not found."""
    whole = tokenizer(prompt, truncation=True, max_length=max_tokens).input_ids
    part = tokenizer(noun, add_special_tokens=False).input_ids
    for start in range(len(whole) - len(part), 0, -1):
        if part and whole[start : start + len(part)] == part:
            return list(range(start, start + len(part)))
    return list(range(1, max(2, len(whole) - 1)))


class Recorder:
    """Collects attention while a UNet runs.

    Args:
        tokens: places of the text tokens whose attention counts.
        largest: layers of more cells are not recorded.
        propagate: record self-attention too.
    """

    def __init__(self, tokens: Sequence[int], largest: int, propagate: bool) -> None:
        self.tokens, self.largest, self.propagate = list(tokens), largest, propagate
        self.cross: dict[int, list[Any]] = {}
        self.self_: dict[int, list[Any]] = {}

    def on(self, unet: Any) -> _Recording:
        """A context in which the UNet's attention is recorded."""
        return _Recording(unet, self)

    def add(self, probabilities: Any, batch: int, cross: bool) -> None:
        """Take in one layer's attention (batch * heads, cells, tokens or cells)."""
        cells = probabilities.shape[1]
        if cells > self.largest or (not cross and not self.propagate):
            return
        shaped = probabilities.float().reshape(batch, -1, *probabilities.shape[1:])
        if cross:
            value = shaped[..., self.tokens].mean(dim=(0, 1, 3))
            self.cross.setdefault(cells, []).append(value)
        else:
            self.self_.setdefault(cells, []).append(shaped.mean(dim=(0, 1)))

    def heat(self, height: int, width: int) -> np.ndarray:
        """Mean over the layers, (height, width) float32, of attention brought to that size.

        Raises:
            InputError: no layer was small enough to be recorded.
        """
        import torch

        if not self.cross:
            raise InputError(f"largest must reach the UNet's smallest layer, got {self.largest}")
        maps = []
        for cells, layers in self.cross.items():
            h, w = _layer_size(cells, height, width)
            for value in layers:
                if self.propagate and cells in self.self_:
                    value = torch.stack(self.self_[cells]).mean(dim=0) @ value
                maps.append(
                    torch.nn.functional.interpolate(
                        value.reshape(1, 1, h, w), (height, width), mode="bilinear",
                        align_corners=False,
                    )[0, 0]
                )  # fmt: skip
        return torch.stack(maps).mean(dim=0).cpu().numpy().astype(np.float32)


def _layer_size(cells: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a UNet layer of so many cells: the latents', halved and rounded up."""
    h, w = height, width
    while h * w > cells:
        h, w = -(-h // 2), -(-w // 2)
    if h * w != cells:
        raise InputError(f"UNet layers must halve {height} x {width}, got one of {cells} cells")
    return h, w


class _Recording:
    def __init__(self, unet: Any, recorder: Recorder) -> None:
        self.unet, self.recorder = unet, recorder

    def __enter__(self) -> None:
        self.before = dict(self.unet.attn_processors)
        self.unet.set_attn_processor(
            {name: _Processor(self.recorder, ".attn2." in name) for name in self.before}
        )

    def __exit__(self, *_: object) -> None:
        self.unet.set_attn_processor(self.before)


class _Processor:
    """Attention written out, softmax(Q K^T / sqrt(d)) V, with the softmax handed to a recorder."""

    def __init__(self, recorder: Recorder, cross: bool) -> None:
        self.recorder, self.cross = recorder, cross

    def __call__(
        self,
        attn: Any,
        hidden_states: Any,
        encoder_hidden_states: Any = None,
        attention_mask: Any = None,
        temb: Any = None,
        **_: Any,
    ) -> Any:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if attn.norm_cross and encoder_hidden_states is not None:
            context = attn.norm_encoder_hidden_states(context)
        query, key, value = (
            attn.head_to_batch_dim(part)
            for part in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        probabilities = attn.get_attention_scores(query, key, attention_mask)
        self.recorder.add(probabilities, len(hidden_states), self.cross)
        result = attn.batch_to_head_dim(probabilities @ value)
        for layer in attn.to_out:
            result = layer(result)
        if attn.residual_connection:
            result = result + hidden_states
        return result / attn.rescale_output_factor
