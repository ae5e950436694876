"""Which noun does each cell of an image show? As a UNet's cross-attention has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..english import with_article

if TYPE_CHECKING:
    from .latent_unet import LatentUNet


class _Reached(Exception):
    """Ends a pass of the network at the layer that was to be heard."""

    def __init__(self, queries: torch.Tensor) -> None:
        super().__init__()
        self.queries = queries


def _stop(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
    raise _Reached(output)


class CellNames:
    """Names the cells of an image by the first cross-attention layer of a latent UNet.

    A cell's query is compared with the keys of all nouns of the model's vocabulary, and with that
    of the start token, which stands for none of them; the softmax over them is what training's
    grounding loss teaches (`training.mini.grounding`). A contrast tells where a noun
    would be missed most, wherever that is; this tells whether what is there bears the name.
    """

    def __init__(self, model: LatentUNet, nouns: Sequence[str]) -> None:
        self.model: LatentUNet = model
        self.layer: Any = next(m for n, m in model.unet.named_modules() if n.endswith("attn2"))
        template = model.calibration.get("prompts", {}).get("absent", "a photo without {a}")
        prompts = [template.replace("{a}", with_article(noun)) for noun in nouns]
        ends = [len(model.tokenizer(prompt).input_ids) - 1 for prompt in prompts]
        with torch.inference_mode():
            embedded = model.embed(prompts)
            words = embedded[torch.arange(len(ends)), torch.tensor(ends) - 1]
            texts = torch.cat([embedded[:1, 0], words]).to(model.device, model.dtype)
            self.keys: torch.Tensor = self.layer.to_k(texts).float()

    @torch.inference_mode()
    def __call__(self, noisy: torch.Tensor, t: int) -> torch.Tensor:
        """Log-probabilities of "none" and of every noun, (N, 1 + K, h', w') float32.

        Only what comes before the layer runs: about a fifth of `mini`'s network.

        Args:
            noisy: (N, C, h, w).
            t: timestep.
        """
        model = self.model
        empty = model.embed([""]).expand(len(noisy), -1, -1).to(model.device, model.dtype)
        handle = self.layer.to_q.register_forward_hook(_stop)
        try:
            # `forward`, since a compiled network does not stop half-way.
            model.unet.forward(
                noisy.to(model.device, model.dtype), t, **model._conditions(empty, noisy.shape)
            )
        except _Reached as reached:
            queries = reached.queries.float()
        finally:
            handle.remove()
        chance = (queries @ self.keys.T * self.layer.scale).log_softmax(2).transpose(1, 2)
        h, w = noisy.shape[-2:]
        while h * w > chance.shape[2]:
            h, w = (h + 1) // 2, (w + 1) // 2
        return chance.unflatten(2, (h, w))
