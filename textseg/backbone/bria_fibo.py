"""Bria's FIBO and FIBO 2: flow transformers told many layers of their text encoder.

Source: https://huggingface.co/briaai/FIBO, https://huggingface.co/briaai/Fibo-2.0-dev.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections import OrderedDict

import torch

from .families import BRIA_FIBO, BRIA_FIBO_2
from .flow import ToldByTokens, for_each
from .flux import position_ids
from .quiet import quietly

KEPT_TOKENS = 4096
EMPTY = 128000
"""The token, that a text begins with, which stands for the empty prompt."""


class ToldByLayers(ToldByTokens):
    """A flow whose network looks at many layers of its text encoder.

    They take up to 300 kB a token. So an embedding holds the numbers of the tokens, (L, 2) with the
    column of real ones, and what the encoder says of the last prompts, up to 4096 tokens of them,
    is kept beside.
    """

    def _configure(self) -> None:
        super()._configure()
        self._heard: OrderedDict[tuple[int, ...], torch.Tensor] = OrderedDict()

    def _tokens(self, prompt: str) -> torch.Tensor:
        numbers = self._numbers(prompt)
        self._states(numbers)
        return torch.tensor(numbers, device=self.device, dtype=torch.float32)[:, None]

    def _seen(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.stack([self._states(tuple(row)) for row in tokens[..., 0].int().tolist()])

    def _states(self, numbers: tuple[int, ...]) -> torch.Tensor:
        """What the encoder says of a prompt's tokens, (L, D)."""
        if numbers not in self._heard:
            ids = torch.tensor([numbers], device=self.device)
            with quietly():
                layers = self.text_encoder(
                    input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True
                ).hidden_states
            self._heard[numbers] = self._laid_out(layers)[0]
        self._heard.move_to_end(numbers)
        while len(self._heard) > 1 and sum(map(len, self._heard)) > KEPT_TOKENS:
            self._heard.popitem(last=False)
        return self._heard[numbers]

    @abstractmethod
    def _numbers(self, prompt: str) -> tuple[int, ...]:
        """The tokens of a prompt."""

    def _laid_out(self, layers: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """The encoder's layers, (1, L, E) each, side by side, (1, L, D)."""
        return torch.cat(layers, -1)


class BriaFibo(ToldByLayers):
    """FIBO, told by SmolLM3. Every block is told a layer of its own, the last the last, and that
    one several times where the blocks are more."""

    kind = BRIA_FIBO
    _longest = 3000
    _native_cells = 64

    def _told(
        self, z: torch.Tensor, sigma: float, text: torch.Tensor, vector: torch.Tensor
    ) -> torch.Tensor:
        h, w = z.shape[-2:]
        config = self.unet.config
        layers = text.split(config["text_encoder_dim"], -1)
        blocks = config["num_layers"] + config["num_single_layers"]
        out = self.unet(
            hidden_states=z.flatten(2).transpose(1, 2),
            timestep=for_each(z, sigma * self.num_train_timesteps),
            encoder_hidden_states=torch.cat([layers[-1], layers[-2]], -1),
            text_encoder_layers=[*layers, *[layers[-1]] * (blocks - len(layers))][-blocks:],
            txt_ids=torch.zeros(text.shape[1], 3, device=z.device),
            img_ids=position_ids(h, w).to(z.device),
        ).sample
        return out.transpose(1, 2).unflatten(2, (h, w))

    def _numbers(self, prompt: str) -> tuple[int, ...]:
        if not prompt:
            return (EMPTY,)
        return tuple(self.tokenizer(prompt, max_length=self._longest, truncation=True).input_ids)


class BriaFibo2(ToldByLayers):
    """FIBO 2, told by Qwen3-VL. Captions in JSON are brought into the form it was trained on, and
    the empty prompt is a caption of empty values, both as in its pipeline; pictures of words to be
    written are left out."""

    kind = BRIA_FIBO_2
    _longest = 4096
    _native_cells = 128

    def _told(
        self, z: torch.Tensor, sigma: float, text: torch.Tensor, vector: torch.Tensor
    ) -> torch.Tensor:
        bundles = text.unflatten(-1, (len(self.pipe.text_encoder_out_layers), -1))
        return self.unet(
            hidden_states=z,
            timestep=torch.full((len(z),), sigma, device=z.device),
            encoder_hidden_states=bundles.transpose(1, 2),
        ).sample

    def _numbers(self, prompt: str) -> tuple[int, ...]:
        from diffusers.pipelines.bria_fibo2.pipeline_bria_fibo2 import DEFAULT_NEGATIVE_PROMPT

        caption, _ = self.pipe._parse_prompt(prompt)
        if not isinstance(caption, str):
            prompt = json.dumps(caption or {}, separators=(",", ":"), ensure_ascii=False)
        text = self.pipe.prompt_template_encode.format(prompt or DEFAULT_NEGATIVE_PROMPT)
        words = self.tokenizer.tokenizer
        return tuple(words(text, max_length=self._longest, truncation=True).input_ids)

    def _laid_out(self, layers: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Bundles of layers, each brought to a mean square of 1 a token."""
        chosen = [layers[i].float() for bundle in self.pipe.text_encoder_out_layers for i in bundle]
        sizes = [x.square().mean(-1, keepdim=True) for x in chosen]
        unit = [x * torch.rsqrt(size + 1e-6) for x, size in zip(chosen, sizes, strict=True)]
        return torch.cat(unit, -1).to(layers[0].dtype)

    def _token_limit(self) -> int:
        before = self.pipe.prompt_template_encode.partition("{}")[0]
        return self._longest - len(self.tokenizer.tokenizer(before).input_ids)
