"""CLIP's text encoder and tokenizer without transformers, whose import takes longer than a mask.

They read the same folders, and their embeddings have the same bits (`tests/test_startup.py`).
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from ..errors import ModelError


class Tokens(NamedTuple):
    """A text's tokens: lists of L integers, or tensors (1, L) int64."""

    input_ids: Any
    attention_mask: Any

    def to(self, device: torch.device) -> Tokens:
        return Tokens(self.input_ids.to(device), self.attention_mask.to(device))


class ClipTokenizer:
    """What `LatentUNet` needs of transformers' CLIPTokenizer.

    Attributes:
        model_max_length: most tokens of a text, start and end included.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(os.fspath(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.model_max_length: int = int(config["model_max_length"])
        self._pad = self._tokenizer.token_to_id(config["pad_token"])
        self._suffix = self._tokenizer.model.end_of_word_suffix

    def __call__(
        self,
        text: str,
        *,
        padding: str | None = None,
        max_length: int | None = None,
        truncation: bool = False,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> Tokens:
        length = max_length or self.model_max_length
        ids = self._tokenizer.encode(text).ids
        if truncation and len(ids) > length:
            ids = [*ids[: length - 1], ids[-1]]
        missing = max(0, length - len(ids)) if padding == "max_length" else 0
        mask = [1] * len(ids) + [0] * missing
        ids = ids + [self._pad] * missing
        if return_tensors is None:
            return Tokens(ids, mask)
        return Tokens(torch.tensor([ids]), torch.tensor([mask]))

    def decode(self, ids: list[int], *, skip_special_tokens: bool = False) -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return text.replace(self._suffix, " ").strip()


class ClipTextEncoder(torch.nn.Module):
    """The text encoder of Radford et al. 2021, arXiv 2103.00020, as transformers' CLIPTextModel.

    Args:
        config: a text encoder's `config.json`.
        weights: its tensors by name.

    Raises:
        ModelError: an activation other than "quick_gelu" and "gelu".
    """

    def __init__(self, config: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        if config["hidden_act"] not in ("quick_gelu", "gelu"):
            raise ModelError(f"hidden_act must be quick_gelu or gelu, got {config['hidden_act']!r}")
        self.config: Any = SimpleNamespace(**config, to_dict=lambda: config)
        for name, tensor in weights.items():
            # A module's own names for its tensors must not have dots.
            self.register_buffer(name.removeprefix("text_model.").replace(".", "/"), tensor)

    def forward(self, ids: torch.Tensor, attention_mask: None = None) -> tuple[torch.Tensor]:
        """Tokens (B, L) int64 to hidden states (B, L, D), all of them looked at."""
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        x = F.embedding(ids, self._get("embeddings/token_embedding/weight"))
        x = x + F.embedding(positions, self._get("embeddings/position_embedding/weight"))
        for i in range(self.config.num_hidden_layers):
            layer = f"encoder/layers/{i}"
            x = x + self._attention(self._norm(x, f"{layer}/layer_norm1"), f"{layer}/self_attn")
            hidden = self._linear(self._norm(x, f"{layer}/layer_norm2"), f"{layer}/mlp/fc1")
            if self.config.hidden_act == "gelu":
                hidden = F.gelu(hidden)
            else:
                hidden = hidden * torch.sigmoid(1.702 * hidden)
            x = x + self._linear(hidden, f"{layer}/mlp/fc2")
        return (self._norm(x, "final_layer_norm"),)

    def _attention(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """Every token looks at itself and those before it."""
        q, k, v = (
            self._linear(x, f"{name}/{part}_proj")
            .unflatten(2, (self.config.num_attention_heads, -1))
            .transpose(1, 2)
            for part in "qkv"
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self._linear(seen.transpose(1, 2).flatten(2), f"{name}/out_proj")

    def _get(self, name: str) -> torch.Tensor:
        return self.get_buffer(name)

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self._get(f"{name}/weight"), self._get(f"{name}/bias"))

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self._get(f"{name}/weight"), self._get(f"{name}/bias")
        return F.layer_norm(x, x.shape[-1:], weight, bias, self.config.layer_norm_eps)
