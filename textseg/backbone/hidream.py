"""HiDream-I1: a flow transformer of experts over latents, told its text by four encoders.

Source: Cai et al. 2025, arXiv 2505.22705.
"""

from __future__ import annotations

import torch

from ..errors import InputError
from .families import HIDREAM
from .flow import FlowTransformer
from .quiet import quietly

TOKENS = 128


class HiDream(FlowTransformer):
    """Its network points from noise to image.

    An embedding holds T5's tokens, (128, 4096), then every layer of Llama 3.1 that the network is
    told of, (128, 4096) each, padding included, filled up with zeros to the wider of both; then the
    pooled vectors of two CLIPs.
    """

    kind = HIDREAM
    _native_cells = 128

    def _configure(self) -> None:
        super()._configure()
        clips = self.pipe.text_encoder, self.pipe.text_encoder_2
        self._pooled = sum(int(clip.config.projection_dim) for clip in clips)
        self.tokenizer, self.max_tokens = self.pipe.tokenizer_3, TOKENS

    def _velocity(self, z: torch.Tensor, sigma: float, embedding: torch.Tensor) -> torch.Tensor:
        sequence, pooled, _ = self._unpack(embedding)
        t5, llama = self.unet.config["caption_channels"]
        first, *layers = sequence.to(z.dtype).split(TOKENS, 1)
        told = dict(zip(self._layers(), (layer[..., :llama] for layer in layers), strict=True))
        return -self.unet(
            z,
            timesteps=z.new_full((len(z),), sigma * self.num_train_timesteps),
            encoder_hidden_states_t5=first[..., :t5],
            encoder_hidden_states_llama3=told,
            pooled_embeds=pooled.to(z.dtype),
        ).sample

    def _layers(self) -> list[int]:
        return sorted(set(self.unet.config["llama_layers"]))

    def _encode_text(self, prompt: str) -> torch.Tensor:
        with quietly():
            t5, _, llama, _, pooled, _ = self.pipe.encode_prompt(
                prompt, device=self.device, do_classifier_free_guidance=False,
                max_sequence_length=TOKENS,
            )  # fmt: skip
        parts = [t5[0].float(), *llama[self._layers(), 0].float()]
        width = max(part.shape[1] for part in parts)
        wide = [torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts]
        return self._pack(torch.cat(wide), pooled[0].float())

    def _native_tokens(self) -> int:
        return self.unet.max_seq

    def check_size(self, height: int, width: int) -> None:
        most = self.unet.max_seq * self.multiple**2
        if height * width > most:
            raise InputError(
                f"height times width must be at most {most} for {self.name!r}, whose network knows "
                f"no more places, got {height} and {width}"
            )

    def fit_size(self, height: int, width: int) -> tuple[int, int]:
        """As `LatentModel.fit_size`, with no more cells than the network's sequence holds."""
        h, w = super().fit_size(height, width)
        while h * w > self.unet.max_seq * self.multiple**2:
            h, w = (h - self.multiple, w) if h > w else (h, w - self.multiple)
        return h, w
