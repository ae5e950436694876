"""Puts trained networks into a standard Stable Diffusion folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...saving import write_atomic
from ..captions import PROMPTS

# Where a part was loaded from, and how a tokenizer was last called: nobody's business.
TRACES = frozenset((
    "_name_or_path", "is_local", "local_files_only", "max_length", "pad_to_multiple_of",
    "pad_token_type_id", "padding_side", "stride", "truncation_side", "truncation_strategy",
))  # fmt: skip
EDIT = {"guidance_scale": 4.0, "encode_ratio": 0.7}

CAVEATS = {
    "find": "The small model mini finds drawn things best; --model starts with another.",
    "paint": "The small painter paints sixty nouns, as drawings; --model starts with another.",
}
"""See `Backbone.caveats`."""
TOLD: dict[str, Any] = {"caveats": CAVEATS, "paints": False, "painter": "painter"}


# Smaller tensors stay in float16.
_LEAST = 4096


def keep_in_eight_bits(file: Path) -> None:
    """Rounds the matrices and kernels of a safetensors file to float8 (e4m3, three bits of
    mantissa), half of float16's size. What reads them turns them into the dtype it is asked for."""
    import torch
    from safetensors.torch import load_file, save

    kept = {
        name: value.to(torch.float8_e4m3fn) if value.ndim > 1 and value.numel() >= _LEAST else value
        for name, value in load_file(file).items()
    }
    write_atomic(file, save(kept, metadata={"format": "pt"}))


def export_pipeline(
    folder: Path,
    *,
    unet: Any,
    text_encoder: Any,
    vae: Any,
    tokenizer: Any,
    words: Sequence[str],
    nouns: Sequence[str],
    told: Mapping[str, Any] = TOLD,
) -> None:
    """Writes weights as float16 safetensors, `textseg.json` without calibration, and
    `synonyms.json` for the nouns.

    `StableDiffusionPipeline.from_pretrained(folder)` loads the result.

    Args:
        told: further entries of `textseg.json`.
    """
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    from .networks import SCHEDULE
    from .synonyms import write_synonyms
    from .vocabulary import save_vocabulary

    pipeline = StableDiffusionPipeline(
        vae=vae.to(torch.float16),
        text_encoder=text_encoder.to(torch.float16),
        tokenizer=tokenizer,
        unet=unet.to(torch.float16),
        scheduler=DDIMScheduler(**SCHEDULE),  # pyright: ignore[reportArgumentType]
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    for file in (*folder.glob("*/config.json"), folder / "tokenizer" / "tokenizer_config.json"):
        config = json.loads(file.read_text())
        kept = {name: value for name, value in config.items() if name not in TRACES}
        if kept != config:
            file.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
    save_vocabulary(tokenizer, folder / "tokenizer")
    record = {"words": list(words), "nouns": list(nouns), "prompts": PROMPTS, "edit": EDIT, **told}
    (folder / "textseg.json").write_text(json.dumps(record, indent=1) + "\n")
    write_synonyms(folder, nouns)
