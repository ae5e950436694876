"""LoRA tuning: the gain on classes a model never saw, the cost at Stable Diffusion's size.

    python eval/bench_lora.py compose node_modules runs/lora     # sets of nouns `mini` never saw
    python eval/bench_lora.py measure runs/lora runs/lora/tuned  # `mini` without and with a LoRA
    python eval/bench_lora.py memory                             # one step, random weights

`compose` writes COCO-format sets of drawn scenes: `train` in three emoji styles, and `val` in a
style (OpenMoji) that is in none of them. The backgrounds of both are drawn. `measure` gives the
mean IoU of the contrasts of `val`, unrefined, noise level and threshold from its other half.
`memory` builds the networks of Stable Diffusion 1.5 with random weights and takes one optimiser
step on one scene, as `textseg train --rank` does.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

STYLES = ("noto", "twemoji", "fluent")
UNSEEN: dict[str, tuple[str, ...]] = {
    "snail": ("snail",),
    "bee": ("bee",),
    "camel": ("camel", "dromedary_camel"),
    "shark": ("shark",),
    "spider": ("spider",),
    "pear": ("pear",),
    "corn": ("corn",),
    "crown": ("crown",),
    "bell": ("bell",),
    "hammer": ("hammer",),
    "tent": ("tent",),
    "castle": ("european_castle", "japanese_castle"),
}


def compose(packages: Path, out: Path, count: int, held_out: int) -> None:
    """Writes `out/STYLE/NOUN/*.png`, and the sets `out/train` and `out/val`."""
    from textseg.training.mini import drawn_set, sprites
    from textseg.training.mini.nouns import NOUNS

    assert not set(UNSEEN) & set(NOUNS)
    with patch.object(sprites, "DRAWINGS", UNSEEN):
        sprites.build_drawings(packages, out / "drawings", (*STYLES, "openmoji"))
    for split, styles, number, seed in (
        ("train", STYLES, count, 31), ("val", ("openmoji",), held_out, 32),
    ):  # fmt: skip
        found = sprites.load_sprites([out / "drawings" / style for style in styles])
        drawn_set.write_drawn_set(
            out / split, out / f"{split}.json", found, count=number, seed=seed,
            nouns=(*NOUNS, *UNSEEN), description="Scenes of nouns that mini was not trained on",
        )  # fmt: skip


def measure(sets: Path, lora: Path, samples: int) -> None:
    """Prints the mean IoU of `mini` on `sets/val`, by pairing, without and with the LoRA."""
    import textseg
    from textseg.training.lora_tuning import (
        cross_iou,
        measure_held_out,
        vocabulary,
        with_calibration,
    )

    report: dict[str, dict[str, float]] = {}
    for name, added in (("without", None), ("with", lora)):
        model: Any = textseg.load("mini", device="cpu", lora=added)
        record = vocabulary(model.calibration, list(UNSEEN))
        model = with_calibration(model, model.calibration | record)
        found = measure_held_out(model, sets / "val", sets / "val.json", samples)
        report[name] = {pairing: round(cross_iou(asked), 3) for pairing, asked in found.items()}
    sys.stdout.write(json.dumps(report) + "\n")


def full_size_model() -> Any:
    """The networks of Stable Diffusion 1.5 with random weights, float32."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from textseg.backbone.latent_unet import LatentUNet
    from textseg.training.mini.vocabulary import build_tokenizer, known_words

    torch.manual_seed(0)
    tokenizer = build_tokenizer(known_words())
    tokenizer.model_max_length = 77
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408, hidden_size=768, intermediate_size=3072, projection_dim=768,
            num_hidden_layers=12, num_attention_heads=12, max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    sides: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
    }
    vae = AutoencoderKL(latent_channels=4, layers_per_block=2, sample_size=512, **sides)
    scheduler: Any = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    parts = SimpleNamespace(unet=unet, vae=vae.eval(), text_encoder=text.eval(),
                            tokenizer=tokenizer, scheduler=scheduler)  # fmt: skip
    return LatentUNet(parts, "random Stable Diffusion 1.5")


def memory(rank: int, checkpointing: bool) -> None:
    """Prints one step's time and the process's peak memory."""
    from textseg.training.lora import LoraTrainer, make_accelerator
    from textseg.training.lora_data import RowPairs
    from textseg.training.lora_options import LoraOptions

    options = LoraOptions(rank=rank, batch=1, warmup=0, checkpointing=checkpointing)
    accelerator = make_accelerator(options, "cpu")
    model = full_size_model()
    built = _peak()
    parts = {n: getattr(model, n) for n in ("unet", "text_encoder", "vae")}
    counts = {n: sum(p.numel() for p in part.parameters()) for n, part in parts.items()}
    trainer = LoraTrainer(model, options, accelerator)
    with tempfile.TemporaryDirectory() as folder:
        source = _one_scene(Path(folder))
        batch = RowPairs(source, options, model.native_size, model.multiple, 1)[0]
        begin, busy = time.monotonic(), time.process_time()
        losses = trainer.train_step([batch])
        seconds, busy = time.monotonic() - begin, time.process_time() - busy
    report = {
        "parameters": counts,
        "trained": sum(p.numel() for p in trainer.parameters),
        "image": list(batch["images"].shape[2:4]),
        "checkpointing": checkpointing,
        "weights_gib": round(built, 2),
        "peak_gib": round(_peak(), 2),
        "step_seconds": round(seconds, 1),
        "step_cpu_seconds": round(busy, 1),
        "losses": {k: round(v, 4) for k, v in losses.items()},
    }
    sys.stdout.write(json.dumps(report) + "\n")


def _one_scene(folder: Path) -> Any:
    import cv2

    from textseg.training.lora_data import AnnotatedImages

    pixels = np.random.default_rng(0).integers(0, 256, (600, 800, 3)).astype(np.uint8)
    cv2.imwrite(str(folder / "a.png"), pixels)
    box = [200, 150, 560, 150, 560, 450, 200, 450]
    (folder / "a.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "a.png", "height": 600, "width": 800}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [box]}
        ],
    }))  # fmt: skip
    return AnnotatedImages(folder, folder / "a.json")


def _peak() -> float:
    """Peak resident memory of this process in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    scenes = commands.add_parser("compose")
    scenes.add_argument("packages", type=Path, help="node_modules with the emoji packages")
    scenes.add_argument("out", type=Path)
    scenes.add_argument("--count", type=int, default=300, help="scenes of the training set")
    scenes.add_argument("--held-out", type=int, default=40, help="scenes in the unseen style")
    figures = commands.add_parser("measure")
    figures.add_argument("sets", type=Path, help="what `compose` wrote")
    figures.add_argument("lora", type=Path, help="what `textseg train --rank` wrote")
    figures.add_argument("--samples", type=int, default=2, help="noise draws (default: 2)")
    step = commands.add_parser("memory")
    step.add_argument("--rank", type=int, default=16)
    step.add_argument("--no-checkpointing", action="store_true")
    args = parser.parse_args()
    if args.command == "compose":
        compose(args.packages, args.out, args.count, args.held_out)
    elif args.command == "measure":
        measure(args.sets, args.lora, args.samples)
    else:
        memory(args.rank, not args.no_checkpointing)


if __name__ == "__main__":
    main()
