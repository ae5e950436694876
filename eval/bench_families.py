"""What one contrast costs at full size, with random weights: Stable Diffusion 1.5, SDXL, Stable
Diffusion 3 medium and Flux.1 dev.

Time and memory do not depend on what the weights are, so none are downloaded; the maps mean
nothing. SD 3 is built without T5 (`text_encoder_3`), whose 4.7 billion weights take 9.5 GB in
bfloat16 and run once per prompt; Flux with one narrow layer of it.

    python eval/bench_families.py sdxl
    python eval/bench_families.py sd3 --offload disk --output sd3.json
    python eval/bench_families.py flux --device cuda --repeats 3 --compiled
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

from textseg.backbone.families import FLUX, LATENT_UNET, SD3, SDXL
from textseg.backbone.flux import Flux
from textseg.backbone.latent import LatentModel
from textseg.backbone.latent_unet import LatentUNet
from textseg.backbone.offload import offload, to_disk
from textseg.backbone.quiet import quietly
from textseg.backbone.registry import EMBEDDED
from textseg.backbone.sd3 import MMDiT
from textseg.backbone.sdxl import LatentUNetXL
from textseg.contrast import measure
from textseg.options import ContrastOptions
from textseg.predictions import Predictions
from textseg.prompts import PromptPair

OFFLOAD = False
PLACE = "cpu"
"""Where parts are made."""


def filled(make: Any, dtype: torch.dtype) -> Any:
    """A module built without memory, then given random weights in its precision, in place; with
    `OFFLOAD`, moved to disk at once, as `textseg.load(..., offload="disk")` does."""
    with torch.device("meta"):
        module = make()
    buffers = {name for name, _ in module.named_buffers()}
    module = module.to(dtype).to_empty(device=PLACE).eval().requires_grad_(False)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            _fill(parameter)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    for name, buffer in module.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1], device=buffer.device).expand_as(buffer))
        elif name in buffers:
            buffer.normal_(std=0.02)
    module.weights = sum(p.numel() for p in module.parameters())
    if OFFLOAD and dtype != torch.float32:
        to_disk(module, torch.device("cpu"))
    return module


def _fill(parameter: torch.Tensor) -> None:
    """Repeat a million draws: as random as a benchmark needs, and a hundred times as fast."""
    flat, pool = parameter.view(-1), torch.randn(2**20).to(parameter) * 0.02
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


def sd15(dtype: torch.dtype) -> Any:
    """The parts of Stable Diffusion 1.5, 1.1 billion weights."""
    import diffusers

    network: Any = diffusers.UNet2DConditionModel
    pipeline: Any = diffusers.StableDiffusionPipeline
    tokenizer = words()
    return pipeline(
        vae=filled(lambda: autoencoder(4), torch.float32),
        text_encoder=filled(lambda: clip(tokenizer, 768, 12, 12, False), dtype),
        tokenizer=tokenizer,
        unet=filled(lambda: network(sample_size=64, cross_attention_dim=768), dtype),
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
            clip_sample=False,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
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


def flux(dtype: torch.dtype) -> Any:
    """The parts of black-forest-labs/FLUX.1-dev, 12 billion weights, with one layer of T5."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    tokenizer = words()
    narrow = T5Config(vocab_size=len(tokenizer), d_model=4096, d_ff=64, num_layers=1, num_heads=1)
    return FluxPipeline(
        vae=filled(lambda: autoencoder(16, scaling_factor=0.3611, shift_factor=0.1159,
                                       use_quant_conv=False, use_post_quant_conv=False),
                   torch.float32),
        text_encoder=filled(lambda: clip(tokenizer, 768, 12, 12, False), dtype),
        text_encoder_2=filled(lambda: T5EncoderModel(narrow), dtype),
        tokenizer=tokenizer, tokenizer_2=tokenizer,
        transformer=filled(lambda: FluxTransformer2DModel(guidance_embeds=True), dtype),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )  # fmt: skip


KINDS: dict[str, tuple[Any, Callable[[torch.dtype], Any], type[LatentModel], int]] = {
    "sd15": (LATENT_UNET, sd15, LatentUNet, 512),
    "sdxl": (SDXL, sdxl, LatentUNetXL, 1024),
    "sd3": (SD3, sd3, MMDiT, 1024),
    "flux": (FLUX, flux, Flux, 1024),
}
"""Name -> family, builder, class and native side."""
TINY = {"sd15": "latent-unet", "sdxl": "sdxl", "sd3": "sd3-without-t5", "flux": "flux"}
"""Name -> its pipeline of `tests/tiny_models.py`."""


def tiny(name: str) -> Any:
    """The same parts, a few thousand weights: whether this script runs at all."""
    import sys
    import tempfile

    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import conftest
    from tiny_models import build

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = conftest._tokenizer(Path(folder))
        pipe = build(TINY[name], tokenizer, Path(folder) / "t5")
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.weights = sum(p.numel() for p in part.parameters())  # type: ignore[assignment]
    return pipe


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


def device_gib(device: torch.device) -> float | None:
    """Most memory held on an accelerator since the last call, in GiB."""
    if device.type != "cuda":
        return None
    most = torch.cuda.max_memory_allocated(device) / 2**30
    torch.cuda.reset_peak_memory_stats(device)
    return round(most, 2)


def main() -> int:
    parser = argparse.ArgumentParser(description="one contrast at full size, random weights")
    parser.add_argument("family", choices=KINDS)
    parser.add_argument("--offload", choices=("none", "model", "disk", "both"), default="none",
                        help="both: first without, then the same model moved to disk")  # fmt: skip
    parser.add_argument("--side", type=int, help="image side in pixels (default: the native one)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="bfloat16")
    parser.add_argument("--repeats", type=int, default=1, help="contrasts; the fastest counts")
    parser.add_argument("--compiled", action="store_true", help="compile the UNet or transformer")
    parser.add_argument("--tiny", action="store_true", help="with a few weights, to try it out")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    global OFFLOAD, PLACE
    OFFLOAD = args.offload == "disk"
    PLACE = "cpu" if args.offload != "none" else str(args.device)
    torch.manual_seed(0)
    family, build, kind, side = KINDS[args.family]
    dtype = getattr(torch, args.dtype)
    start = time.perf_counter()
    with quietly():
        pipe = tiny(args.family) if args.tiny else build(dtype)
    built = {"build": round(time.perf_counter() - start, 1), "build_peak_gib": peak_gib()}
    parts = {part: getattr(pipe, part) for part in family.networks if getattr(pipe, part)}
    if args.tiny:
        for part, network in parts.items():
            network.to(args.device, torch.float32 if part == "vae" else dtype)
    calibration = {"native_size": 64} if args.tiny else None
    model = kind(pipe, f"{args.family} with random weights", calibration)
    model.device, model.dtype = args.device, dtype
    if args.offload == "model":
        offload(parts, args.device, "model")
    if args.compiled:
        model.unet.compile()
    records = []
    for how in ("none", "disk") if args.offload == "both" else (args.offload,):
        if args.offload == "both" and how == "disk":
            for part, network in parts.items():
                if part != "vae":
                    to_disk(network, args.device)
            model._embeddings.clear()
        record = {
            "model": model.name, "weights": sum(network.weights for network in parts.values()),
            "dtype": args.dtype, "side": args.side or (64 if args.tiny else side),
            "offload": how, "compiled": args.compiled, "device": named(args.device),
            "threads": torch.get_num_threads(), **built,
        }  # fmt: skip
        record |= measured(model, record["side"], args.repeats)
        records.append(record)
        print(json.dumps(record), flush=True)
        if args.output:
            args.output.write_text(json.dumps(records, indent=1) + "\n")
    return 0


def named(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def measured(model: LatentModel, side: int, repeats: int) -> dict[str, Any]:
    """Seconds, CPU seconds and peak memory of encoding, embedding and one contrast; of several
    contrasts, the fastest's, and the first's seconds beside them."""
    record: dict[str, Any] = {"held_gib": peak_gib(reset=True)}
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)

    def timed(name: str, work: Callable[[], Any], repeats: int = 1) -> Any:
        device_gib(model.device)
        runs, result = [], None
        for _ in range(repeats):
            begun, begun_cpu = time.perf_counter(), time.process_time()
            result = work()
            if model.device.type == "cuda":
                torch.cuda.synchronize(model.device)
            runs.append((time.perf_counter() - begun, time.process_time() - begun_cpu))
        seconds, cpu_seconds = min(runs)
        record[name] = {"seconds": round(seconds, 3), "cpu_seconds": round(cpu_seconds, 1),
                        "first": round(runs[0][0], 3), "peak_gib": peak_gib(),
                        "device_gib": device_gib(model.device)}  # fmt: skip
        return result

    latents = timed("encode", lambda: model.encode(image))
    timed("embed two prompts", lambda: model.embed(["the dog", ""]))
    options = ContrastOptions(samples=1, batch_size=1)

    def contrast() -> Any:
        predictions = Predictions(model, latents, "bench")
        return measure(predictions, [PromptPair("the dog", "", "null")], options)

    [found] = timed("contrast, one draw, two prompts", contrast, repeats)
    return record | {"finite": bool(np.isfinite(found.contrast).all())}


if __name__ == "__main__":
    raise SystemExit(main())
