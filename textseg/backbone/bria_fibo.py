"""Bria's FIBO: a flow transformer each of whose blocks is told another layer of its text encoder.

Source: https://huggingface.co/briaai/FIBO.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict

import torch

from .families import BRIA_FIBO
from .flow import ToldByTokens
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
    """Trained on long descriptions in JSON, told by SmolLM3. Of the encoder's layers the last is
    told to the last block, and more often where the blocks are more."""

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
            timestep=torch.full(
                (len(z),), sigma * self.num_train_timesteps, device=z.device, dtype=z.dtype
            ),
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
