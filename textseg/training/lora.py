"""Sharpens a model's prompt contrasts on a data set's own classes, with LoRA and captions that say
what is not there.

Each scene gives two rows that share image, noise and noise level. Row A has an ordinary caption, or
none, and the ordinary target. Row B says that a noun is absent, and its target is the image with
that noun filled from its surroundings; where the noun really is absent, the image itself. Row B's
loss is that of the clean latents x_0, weighted by how certain these are (`Noised.certainty`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import InputError, MissingDependencyError
from ..progress import Progress, report
from ..saving import write_atomic
from . import runs
from .lora_data import AnnotatedImages, RowPairs
from .lora_options import LoraOptions
from .losses import contrast_loss

if TYPE_CHECKING:
    from ..backbone.latent_unet import LatentUNet

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
WEIGHTS_FILE = "pytorch_lora_weights.safetensors"


def make_accelerator(options: LoraOptions, device: str | None = None) -> Any:
    """The `Accelerator` of this process: one device, or what `accelerate launch` set up.

    Raises:
        MissingDependencyError: accelerate or peft is not installed.
        InputError: the device cannot compute in the precision asked for.
    """
    try:
        import peft  # noqa: F401
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingDependencyError(
            "tuning with LoRA needs accelerate and peft; pip install 'textseg[train]'"
        ) from error
    try:
        return Accelerator(
            mixed_precision=options.mixed_precision,
            gradient_accumulation_steps=options.accumulate,
            cpu=device == "cpu",
        )
    except ValueError as error:
        raise InputError(
            "mixed_precision must be one that this machine computes in, "
            f"got {options.mixed_precision!r}"
        ) from error


class LoraTrainer:
    """A model with LoRA on its attention layers, its optimiser and its place in the run.

    It resumes from `folder/checkpoint.pt`.

    Attributes:
        model: its UNet carries the adapter; everything else is frozen.
        step: optimiser steps done.
    """

    def __init__(
        self, model: LatentUNet, options: LoraOptions, accelerator: Any, folder: Path | None = None
    ) -> None:
        from peft import LoraConfig

        self.model, self.options, self.accelerator = model, options, accelerator
        self.folder = folder
        for part in (model.unet, model.vae, model.text_encoder):
            part.requires_grad_(False)
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(options.seed)
            model.unet.add_adapter(
                LoraConfig(
                    r=options.rank,
                    lora_alpha=options.scale * options.rank,  # pyright: ignore[reportArgumentType]
                    init_lora_weights="gaussian",
                    target_modules=list(TARGETS),
                )
            )
        self.parameters = [p for p in model.unet.parameters() if p.requires_grad]
        for parameter in self.parameters:
            parameter.data = parameter.data.float()
        if options.checkpointing:
            model.unet.enable_gradient_checkpointing()
        self.step = 0
        optimizer = torch.optim.AdamW(self.parameters, lr=options.lr, weight_decay=0.0)
        if folder is not None and (folder / "checkpoint.pt").exists():
            self._resume(folder / "checkpoint.pt", optimizer)
        self.unet, self.optimizer = accelerator.prepare(model.unet, optimizer)

    def state(self) -> dict[str, torch.Tensor]:
        """The adapter's weights by peft's names, on the CPU."""
        from peft import get_peft_model_state_dict

        unet = self.accelerator.unwrap_model(self.unet)
        found = get_peft_model_state_dict(unet)
        return {name: weight.detach().cpu().contiguous() for name, weight in found.items()}

    def save(self) -> None:
        """Writes the checkpoint: it is whole, or it is the one before."""
        if self.folder is None or not self.accelerator.is_main_process:
            return
        state = {
            "lora": self.state(),
            "optimizer": self.optimizer.optimizer.state_dict(),
            "step": self.step,
            "options": asdict(self.options),
            "processes": self.accelerator.num_processes,
        }
        runs.save_state(self.folder / "checkpoint.pt", state)

    def _resume(self, file: Path, optimizer: torch.optim.Optimizer) -> None:
        from peft import set_peft_model_state_dict

        saved = torch.load(file, weights_only=True, map_location="cpu")
        free = {"steps": 1, "save_every": 1.0, "workers": 0}
        now = replace(self.options, **free)
        then = replace(LoraOptions(**saved["options"]), **free)
        count = self.accelerator.num_processes
        if (now, count) != (then, saved["processes"]):
            changed = [k for k, v in asdict(now).items() if v != asdict(then)[k]] or ["processes"]
            raise InputError(
                f"{changed[0]} must be what the run in {str(file.parent)!r} began with; go on with "
                "the same options or take another folder"
            )
        set_peft_model_state_dict(self.model.unet, saved["lora"])
        optimizer.load_state_dict(saved["optimizer"])
        self.step = int(saved["step"])

    def losses(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The losses of one batch of `RowPairs`: "diffusion", "counterfactual" and "contrast"."""
        model = self.model
        clean, target = self._encode(batch["images"], batch["changed"])
        device = clean.device
        last = model.num_train_timesteps - 1
        t = [min(int(level * (last + 1)), last) for level in np.asarray(batch["levels"]).tolist()]
        noise = torch.stack([_normal(clean.shape[1:], int(s)) for s in batch["seeds"]]).to(device)
        noised = model.noised(clean, noise, t)
        embedding = model.embed([*batch["ordinary"], *batch["absent"]]).clone().to(model.dtype)
        out = self.unet(
            noised.noisy.repeat(2, 1, 1, 1).to(model.dtype),
            torch.tensor(t, device=device).repeat(2),
            encoder_hidden_states=embedding,
        ).sample.float()
        x0_a, x0_b = map(noised.clean_of, out.chunk(2))
        error = (x0_b - target).square().mean((1, 2, 3))
        cells = F.interpolate(
            torch.as_tensor(np.asarray(batch["masks"]))[:, None].to(device), clean.shape[-2:],
            mode="area",
        )[:, 0]  # fmt: skip
        return {
            "diffusion": F.mse_loss(out[: len(clean)], noised.target),
            "counterfactual": (noised.certainty * error).mean(),
            "contrast": contrast_loss(x0_a - x0_b, cells, noised.alpha_bar),
        }

    def train_step(self, batches: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """One optimiser step on `options.accumulate` batches; returns the mean losses."""
        o = self.options
        rate = runs.ramp(self.step, o.warmup + 1, min(self.step / o.steps, 1.0))
        runs.set_rates([self.optimizer], [o.lr], rate)
        self.model.unet.train()
        sums: dict[str, float] = {}
        for batch in batches:
            with self.accelerator.accumulate(self.unet):
                found = self.losses(batch)
                total = found["diffusion"] + found["counterfactual"]
                total = total + o.contrast * found["contrast"]
                if not torch.isfinite(total):
                    raise InputError(
                        f"lr must be small enough for the loss to stay finite, got {o.lr} and a "
                        f"loss of {total.item()} at step {self.step}"
                    )
                self.accelerator.backward(total)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.parameters, 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value.item() / o.accumulate
        self.step += 1
        return sums

    @torch.no_grad()
    def _encode(self, images: np.ndarray, changed: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 2, H, W, 3) uint8 to the latents of both, (B, C, h, w) float32 each."""
        clean, target = [], []
        for pair, differs in zip(np.asarray(images), np.asarray(changed), strict=True):
            clean.append(self.model.encode(pair[0]).clone())
            target.append(self.model.encode(pair[1]).clone() if differs else clean[-1])
        return torch.stack(clean), torch.stack(target)


def _normal(shape: torch.Size, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))


def save_lora(folder: Path, state: Mapping[str, torch.Tensor], scale: float = 1.0) -> Path:
    """Writes `pytorch_lora_weights.safetensors`, which diffusers' `load_lora_weights` reads.

    Args:
        state: as `LoraTrainer.state`.
        scale: alpha / rank. It goes into the weights, since files without it are read as 1.
    """
    from diffusers.utils import convert_state_dict_to_diffusers
    from safetensors.torch import save

    named = convert_state_dict_to_diffusers(dict(state))
    weights = {
        f"unet.{name}": (w * scale if ".lora.up." in name else w).contiguous()
        for name, w in named.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / WEIGHTS_FILE, save(weights, metadata={"format": "pt"}))
    return folder / WEIGHTS_FILE


def run_steps(
    trainer: LoraTrainer, source: AnnotatedImages, progress: Progress | None = None
) -> None:
    """Trains to `options.steps`; logs to `folder/log.jsonl`, and saves checkpoints.

    Args:
        progress: called after each step, stage "tune".
    """
    o, accelerator, folder = trainer.options, trainer.accelerator, trainer.folder
    size = o.size or trainer.model.native_size
    process = (accelerator.process_index, accelerator.num_processes)
    rows = RowPairs(source, o, size, trainer.model.multiple, o.steps * o.accumulate, process)
    ahead = torch.utils.data.Subset(rows, range(trainer.step * o.accumulate, len(rows)))
    batches = iter(torch.utils.data.DataLoader(ahead, batch_size=None, num_workers=o.workers))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    saved = begin = time.monotonic()
    while trainer.step < o.steps:
        found = trainer.train_step(next(batches) for _ in range(o.accumulate))
        if folder is not None and accelerator.is_main_process:
            row = {"step": trainer.step, "seconds": round(time.monotonic() - begin, 2)} | found
            runs.log_row(folder / "log.jsonl", row)
        if time.monotonic() - saved > o.save_every or trainer.step == o.steps:
            trainer.save()
            saved = time.monotonic()
        report(progress, trainer.step, o.steps, "tune")
    accelerator.wait_for_everyone()
