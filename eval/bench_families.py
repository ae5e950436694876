"""What one contrast costs at full size: SDXL and Stable Diffusion 3 medium with random weights.

Time and memory do not depend on what the weights are, so none are downloaded; the maps mean
nothing. SD 3 is built without T5 (`text_encoder_3`), whose 4.7 billion weights take 9.5 GB in
bfloat16 and run once per prompt.

    python eval/bench_families.py sdxl
    python eval/bench_families.py sd3 --offload disk --output sd3.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from textseg.backbone.families import SD3, SDXL
from textseg.backbone.latent import LatentModel
from textseg.backbone.offload import to_disk
from textseg.backbone.quiet import quietly
from textseg.backbone.registry import EMBEDDED
from textseg.backbone.sd3 import MMDiT
from textseg.backbone.sdxl import LatentUNetXL
from textseg.contrast import measure
from textseg.options import ContrastOptions
from textseg.predictions import Predictions
from textseg.prompts import PromptPair

OFFLOAD = False


def filled(make: Any, dtype: torch.dtype) -> Any:
    """A module built without memory, then given random weights in its precision, in place; with
    `OFFLOAD`, moved to disk at once, as `textseg.load(..., offload="disk")` does."""
    with torch.device("meta"):
        module = make()
    buffers = {name for name, _ in module.named_buffers()}
    module = module.to(dtype).to_empty(device="cpu").eval().requires_grad_(False)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            _fill(parameter)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    for name, buffer in module.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
        elif name in buffers:
            buffer.normal_(std=0.02)
    module.weights = sum(p.numel() for p in module.parameters())
    if OFFLOAD and dtype != torch.float32:
        to_disk(module, torch.device("cpu"))
    return module


def _fill(parameter: torch.Tensor) -> None:
    """Repeat a million draws: as random as a benchmark needs, and a hundred times as fast."""
    flat, pool = parameter.view(-1), torch.randn(2**20).to(parameter.dtype) * 0.02
    for first in range(0, len(flat), len(pool)):
        flat[first : first + len(pool)] = pool[: len(flat) - first]


def words() -> Any:
    """A CLIP tokenizer of the real length; mini's vocabulary is part of the package."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(EMBEDDED / "mini" / "tokenizer", model_max_length=77)


def clip(tokenizer: Any, width: int, layers: int, heads: int, projected: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, projection_dim=width, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def autoencoder(channels: int, **options: Any) -> Any:
    import diffusers

    kind: Any = diffusers.AutoencoderKL
    return kind(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=channels,
        sample_size=1024, **options,
    )  # fmt: skip


def sdxl(dtype: torch.dtype) -> Any:
    """The parts of stabilityai/stable-diffusion-xl-base-1.0, 3.5 billion weights."""
    import diffusers

    network: Any = diffusers.UNet2DConditionModel
    schedule: Any = diffusers.EulerDiscreteScheduler
    tokenizer = words()
    return diffusers.StableDiffusionXLPipeline(
        vae=filled(lambda: autoencoder(4, scaling_factor=0.13025), torch.float32),
        text_encoder=filled(lambda: clip(tokenizer, 768, 12, 12, False), dtype),
        text_encoder_2=filled(lambda: clip(tokenizer, 1280, 32, 20, True), dtype),
        tokenizer=tokenizer, tokenizer_2=tokenizer,
        unet=filled(lambda: network(
            sample_size=128, block_out_channels=(320, 640, 1280), layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048, use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ), dtype),
        scheduler=schedule(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        add_watermarker=False,
    )  # fmt: skip


def sd3(dtype: torch.dtype) -> Any:
    """The parts of stabilityai/stable-diffusion-3-medium-diffusers but T5, 2.9 billion weights."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    tokenizer = words()
    return StableDiffusion3Pipeline(
        vae=filled(lambda: autoencoder(16, scaling_factor=1.5305, shift_factor=0.0609,
                                       use_quant_conv=False, use_post_quant_conv=False),
                   torch.float32),
        text_encoder=filled(lambda: clip(tokenizer, 768, 12, 12, True), dtype),
        text_encoder_2=filled(lambda: clip(tokenizer, 1280, 32, 20, True), dtype),
        text_encoder_3=None, tokenizer_3=None,  # pyright: ignore[reportArgumentType]
        tokenizer=tokenizer, tokenizer_2=tokenizer,
        transformer=filled(lambda: SD3Transformer2DModel(
            sample_size=128, patch_size=2, in_channels=16, num_layers=24, attention_head_dim=64,
            num_attention_heads=24, joint_attention_dim=4096, caption_projection_dim=1536,
            pooled_projection_dim=2048, out_channels=16, pos_embed_max_size=192,
        ), dtype),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


def peak_gib(reset: bool = False) -> float:
    """Most memory the process has held, in GiB, since the last reset where Linux allows one."""
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(x.split(":", 1) for x in status.read_text().splitlines())
        return round(int(lines["VmHWM"].split()[0]) / 2**20, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description="one contrast at full size, random weights")
    parser.add_argument("family", choices=("sdxl", "sd3"))
    parser.add_argument("--offload", choices=("none", "disk", "both"), default="none",
                        help="both: first without, then the same model moved to disk")  # fmt: skip
    parser.add_argument("--side", type=int, default=1024, help="image side in pixels")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    global OFFLOAD
    OFFLOAD = args.offload == "disk"
    torch.manual_seed(0)
    family, build = (SDXL, sdxl) if args.family == "sdxl" else (SD3, sd3)
    start = time.perf_counter()
    with quietly():
        pipe = build(torch.bfloat16)
    built = {"build": round(time.perf_counter() - start, 1), "build_peak_gib": peak_gib()}
    kind = LatentUNetXL if args.family == "sdxl" else MMDiT
    model: LatentModel = kind(pipe, f"{args.family} with random weights")
    model.device, model.dtype = torch.device("cpu"), torch.bfloat16
    parts = [getattr(pipe, part) for part in family.networks if getattr(pipe, part) is not None]
    records = []
    for offload in ("none", "disk") if args.offload == "both" else (args.offload,):
        if args.offload == "both" and offload == "disk":
            for part in parts:
                if part is not pipe.vae:
                    to_disk(part, torch.device("cpu"))
            model._embeddings.clear()
        record = {
            "model": model.name, "weights": sum(part.weights for part in parts),
            "dtype": "bfloat16", "side": args.side, "offload": offload,
            "threads": torch.get_num_threads(), **built, **measured(model, args.side),
        }  # fmt: skip
        records.append(record)
        print(json.dumps(record), flush=True)
        if args.output:
            args.output.write_text(json.dumps(records, indent=1) + "\n")
    return 0


def measured(model: LatentModel, side: int) -> dict[str, Any]:
    """Seconds, CPU seconds and peak memory of encoding, embedding and one contrast."""
    record: dict[str, Any] = {"held_gib": peak_gib(reset=True)}
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begun, begun_cpu = time.perf_counter(), time.process_time()
        result = work()
        record[name] = {
            "seconds": round(time.perf_counter() - begun, 1),
            "cpu_seconds": round(time.process_time() - begun_cpu, 1),
            "peak_gib": peak_gib(),
        }
        return result

    latents = timed("encode", lambda: model.encode(image))
    timed("embed two prompts", lambda: model.embed(["the dog", ""]))
    predictions = Predictions(model, latents, "bench")
    options = ContrastOptions(samples=1, batch_size=1)
    [found] = timed(
        "contrast, one draw, two prompts",
        lambda: measure(predictions, [PromptPair("the dog", "", "null")], options),
    )
    return record | {"finite": bool(np.isfinite(found.contrast).all())}


if __name__ == "__main__":
    raise SystemExit(main())
