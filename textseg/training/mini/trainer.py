"""Trains the embedded model: an ordinary latent diffusion model that understands absence.

Each scene gives two rows of a batch that share image, noise and noise level. Row A has an ordinary
caption, or none, and the ordinary target. Row B says that a noun is absent; its target is the scene
without that noun (a counterfactual) or, where the noun really is absent, the scene itself.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...english import with_article
from ...errors import InputError
from ..captions import absent_caption, present_caption, unknown_word
from ..losses import contrast_loss
from .analysis import BLOCK, CHANNELS, BlockAnalysis, to_pixels
from .grounding import CrossAttentionQueries, NounHeads, grounding_loss
from .muon import Muon
from .networks import SCHEDULE, build_text_encoder, build_unet
from .options import TrainOptions
from .semantics import Semantics
from .vocabulary import MAX_TOKENS, build_tokenizer, known_words

# Recognition steps take timesteps below this.
RECOGNITION_LEVELS = 150
# Of the steps of the first part; the others keep the rest of the network in touch.
RECOGNITION_SHARE = 0.95
# Of nouns said to be absent that are chosen for looking like one that is there, and of how many.
HARD_SHARE = 0.5
HARD_CHOICES = 12
# Share of a cell that a mask covers, from which the cell counts as changed.
TOUCHED = 0.1


class Pool:
    """Scenes of one image size, the oldest replaced first.

    What a classifier sees in a scene without one of its nouns is looked at when it is first asked
    for: most never are.
    """

    def __init__(self, limit: int, semantics: Semantics) -> None:
        self.limit, self.semantics = limit, semantics
        self.scenes: list[dict[str, torch.Tensor]] = []
        self._next = 0

    def add(self, scene: dict[str, torch.Tensor]) -> None:
        """Adds a scene: `pixels` (1 + K, C, h, w) latents, `seen` (S, h', w') of the whole scene,
        `masks` (K, h, w) cell shares, `nouns` (K,), `images` (K, H, W, 3) uint8 without each."""
        if len(self.scenes) < self.limit:
            self.scenes.append(scene)
        else:
            self.scenes[self._next] = scene
            self._next = (self._next + 1) % self.limit

    def draw(self, rng: np.random.Generator, n: int) -> list[dict[str, torch.Tensor]]:
        """n random scenes."""
        return [self.scenes[i] for i in rng.integers(len(self.scenes), size=n)]

    def clean(self, scenes: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor:
        """The latents (B, C, h, w) float32 of whole scenes."""
        return self._joined([s["pixels"][0] for s in scenes], [s["seen"] for s in scenes])

    def without(
        self, scenes: Sequence[dict[str, torch.Tensor]], slots: Sequence[int], whole: torch.Tensor
    ) -> torch.Tensor:
        """The latents (B, C, h, w) of scenes without the noun in a slot; those of the `whole`
        scenes (`clean`) where it is -1.

        What the classifier sees changes far around an object; it is changed inside the mask only.
        """
        missing = [(s, k) for s, k in zip(scenes, slots, strict=True)
                   if k >= 0 and f"seen {k}" not in s]  # fmt: skip
        if missing:
            images = torch.stack([s["images"][k] for s, k in missing])
            seen = self.semantics(to_pixels(images)).half()
            for (scene, k), found in zip(missing, seen, strict=True):
                scene[f"seen {k}"] = found
        pixels = [s["pixels"][k + 1] for s, k in zip(scenes, slots, strict=True)]
        seen = [s[f"seen {k}"] if k >= 0 else s["seen"] for s, k in zip(scenes, slots, strict=True)]
        changed = self._joined(pixels, seen)
        for i, (scene, k) in enumerate(zip(scenes, slots, strict=True)):
            if k >= 0:
                outside = scene["masks"][k] < TOUCHED
                changed[i, CHANNELS:, outside] = whole[i, CHANNELS:, outside]
        return changed

    def _joined(self, pixels: list[torch.Tensor], seen: list[torch.Tensor]) -> torch.Tensor:
        first = torch.stack(pixels).float()
        last = F.interpolate(
            torch.stack(seen).float(), first.shape[2:], mode="bilinear", align_corners=False
        )
        return torch.cat([first, last], 1)


def _timesteps(rng: np.random.Generator, n: int) -> np.ndarray:
    """Mostly low noise, where names are read and contrasts taken; the rest is for making images."""
    ranges = np.array([(10, 200), (200, 600), (0, 1000)])
    low, high = ranges[rng.choice(3, n, p=(0.6, 0.25, 0.15))].T
    return rng.integers(low, high)


def _stacked(scenes: Sequence[dict[str, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks (B, K, h, w) float32 and nouns (B, K)."""
    return (torch.stack([s["masks"] for s in scenes]).float(),
            torch.stack([s["nouns"] for s in scenes]))  # fmt: skip


class Trainer:
    """Holds networks, averaged weights and optimiser.

    It resumes from `folder/state.pt`; without one it starts from the model folder `init`, or from
    random weights.
    """

    def __init__(
        self,
        folder: Path,
        analysis: BlockAnalysis,
        semantics: Semantics,
        nouns: Sequence[str],
        options: TrainOptions,
        init: Path | None = None,
    ) -> None:
        torch.manual_seed(options.seed)
        self.folder, self.options, self.nouns = folder, options, list(nouns)
        self.analysis, self.semantics = analysis, semantics
        self.words = known_words(nouns)
        self.tokenizer = self._tokenizer(init)
        self.text = build_text_encoder(self.tokenizer)
        channels = CHANNELS + semantics.channels
        self.unet = build_unet(channels).to(memory_format=torch.channels_last)
        if init is not None:
            self._start_from(init)
        self.recorded = CrossAttentionQueries(self.unet)
        self.heads = NounHeads(self.recorded, len(nouns))
        self.parameters = [
            *self.unet.parameters(), *self.text.parameters(), *self.heads.parameters()
        ]  # fmt: skip
        self.dtype: torch.dtype = getattr(torch, options.precision)
        matrices, rest = self._split()
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=options.matrix_lr, dtype=self.dtype),
            torch.optim.AdamW(rest, lr=options.lr, betas=(0.9, 0.99), weight_decay=0.0),
        ]
        self.averaged = [build_unet(channels), build_text_encoder(self.tokenizer)]
        for average, model in zip(self.averaged, (self.unet, self.text), strict=True):
            average.load_state_dict(model.state_dict())
        first, last = SCHEDULE["beta_start"], SCHEDULE["beta_end"]
        betas = torch.linspace(first**0.5, last**0.5, SCHEDULE["num_train_timesteps"]) ** 2
        self.alpha_bar = torch.cumprod(1 - betas, 0)
        self.step, self.elapsed, self.scenes = 0, 0.0, 0
        self.pools: dict[tuple[int, ...], Pool] = {}
        self.rng = np.random.default_rng(options.seed)
        if (folder / "state.pt").exists():
            self._resume()

    def _tokenizer(self, init: Path | None) -> Any:
        """The tokenizer whose ids the embeddings of `init` stand for: building it again may number
        pieces of words otherwise."""
        if init is None:
            return build_tokenizer(self.words)
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(init / "tokenizer", local_files_only=True)

    def _start_from(self, folder: Path) -> None:
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel

        for model, kind, part in ((self.unet, UNet2DConditionModel, "unet"),
                                  (self.text, CLIPTextModel, "text_encoder")):  # fmt: skip
            given: Any = kind.from_pretrained(folder / part, local_files_only=True)
            try:
                model.load_state_dict(given.float().state_dict())
            except RuntimeError as error:
                raise InputError(
                    f"init must be a model that `textseg train` wrote, got {str(folder)!r}"
                ) from error

    def _split(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The matrices, and the rest: biases, norms and the text's embedding tables."""
        tables = {id(m.weight) for m in self.text.modules() if isinstance(m, torch.nn.Embedding)}
        matrices = [p for p in self.parameters if p.ndim > 1 and id(p) not in tables]
        chosen = {id(p) for p in matrices}
        return matrices, [p for p in self.parameters if id(p) not in chosen]

    def _resume(self) -> None:
        state = torch.load(self.folder / "state.pt", weights_only=True)
        self.unet.load_state_dict(state["unet"])
        self.text.load_state_dict(state["text"])
        for model, weights in zip(self.averaged, state["averaged"], strict=True):
            model.load_state_dict(weights)
        self.heads.load_state_dict(state["heads"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.elapsed, self.scenes = state["step"], state["elapsed"], state["scenes"]
        self.rng = np.random.default_rng((self.options.seed, self.step))

    def save(self) -> None:
        """Writes the checkpoint in one piece: it is whole or it is the one before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "unet": self.unet.state_dict(),
            "text": self.text.state_dict(),
            "heads": self.heads.state_dict(),
            "averaged": [m.state_dict() for m in self.averaged],
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "elapsed": self.elapsed,
            "scenes": self.scenes,
        }
        temporary = self.folder / "state.tmp"
        torch.save(state, temporary)
        os.replace(temporary, self.folder / "state.pt")

    def encode(self, batch: dict[str, Any]) -> list[dict[str, torch.Tensor]]:
        """A batch of scenes, as `Pool.add` takes them."""
        images = torch.as_tensor(batch["images"])
        b, k = images.shape[:2]
        flat = to_pixels(images.flatten(0, 1))
        pixels = self.analysis(flat).half().unflatten(0, (b, k))
        seen = self.semantics(flat.unflatten(0, (b, k))[:, 0]).half()
        masks = F.avg_pool2d(torch.as_tensor(batch["masks"]).float(), BLOCK).half()
        nouns = torch.as_tensor(batch["nouns"])
        return [
            {
                "pixels": pixels[i], "seen": seen[i], "masks": masks[i], "nouns": nouns[i],
                "images": images[i, 1:][nouns[i] >= 0].clone(),
            }
            for i in range(b)
        ]  # fmt: skip

    def tokens(self, prompts: Sequence[str], length: int = MAX_TOKENS) -> torch.Tensor:
        """Prompts to token ids (N, length)."""
        coded = self.tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True,
            return_tensors="pt",
        )  # fmt: skip
        return coded.input_ids

    def embed(self, prompts: Sequence[str]) -> torch.Tensor:
        """Prompts to embeddings (N, L, D) with the current weights."""
        return self.text(self.tokens(prompts)).last_hidden_state

    def noun_keys(self, picked: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embedding of the start token, (D,), and of the last word of the picked nouns, (N, D)."""
        lead = ["without {}", "{}", "a photo without {}", "a photo of {}"][self.step % 4]
        names = [self.nouns[i] for i in picked]
        ids = self.tokens([lead.format(with_article(n) if self.step % 3 else n) for n in names], 10)
        hidden = self.text(ids).last_hidden_state
        end = (ids == self.tokenizer.eos_token_id).int().argmax(1)
        return hidden[0, 0], hidden[torch.arange(len(ids)), end - 1]

    def _pick_nouns(self, nouns: torch.Tensor) -> tuple[list[int], torch.Tensor]:
        """The nouns of a batch and `options.negatives` others, and `nouns` as places in that
        list."""
        there = {i for i in nouns.flatten().tolist() if i >= 0}
        others = [i for i in self.rng.permutation(len(self.nouns)).tolist() if i not in there]
        picked = sorted(there) + others[: self.options.negatives]
        place = torch.full((len(self.nouns) + 1,), -1)
        place[picked] = torch.arange(len(picked))
        return picked, place[nouns]

    def _absent_noun(self, there: Sequence[int], likeness: torch.Tensor) -> int:
        """A noun that is not there: any, or of some the one most like a noun that is."""
        order = self.rng.permutation(len(self.nouns)).tolist()
        others = [i for i in order if i not in there][:HARD_CHOICES]
        if not there or self.rng.random() >= HARD_SHARE:
            return others[0]
        return max(others, key=lambda i: float(likeness[i, list(there)].max()))

    def captions(self, nouns: torch.Tensor) -> tuple[list[str], list[str], torch.Tensor]:
        """Captions of rows A and B.

        Returns:
            The captions, and for each scene the slot that row B removes, -1 where its noun is
            absent.
        """
        rng = self.rng
        likeness = self.heads.likeness()
        rows_a, rows_b, slots = [], [], []
        for present in nouns.tolist():
            there = [i for i in present if i >= 0]
            slot = int(rng.integers(len(there))) if there else -1
            names = [self.nouns[i] for i in there]
            if slot < 0 or rng.random() < self.options.absent:
                slot = -1
                noun = self.nouns[self._absent_noun(there, likeness)]
                others = names
            else:
                noun = names[slot]
                others = [n for n in names if n != noun]
            style = rng.random()
            if style < 0.4 or not names:
                row_a = ""
            elif style < 0.6 and slot >= 0:
                row_a = present_caption(rng, [noun])
            else:
                row_a = present_caption(rng, names[: int(rng.integers(1, len(names) + 1))])
            if row_a and rng.random() < 0.05:
                row_a = f"{row_a} {rng.choice(['and', 'with', 'without'])} {unknown_word(rng)}"
            rows_a.append(row_a)
            named = others if len(others) and rng.random() < 0.2 else ()
            rows_b.append(absent_caption(rng, noun, named))
            slots.append(slot)
        return rows_a, rows_b, torch.tensor(slots)

    def train_step(self, pool: Pool) -> dict[str, float]:
        """One optimiser step on scenes of the pool; returns the losses."""
        o = self.options
        done = min(self.elapsed / (o.hours * 3600), 1.0)
        paired = self.rng.random() < o.pairs[0] + done * (o.pairs[1] - o.pairs[0])
        scenes = pool.draw(self.rng, o.batch * (1 if paired else 2))
        b = len(scenes)
        masks, nouns = _stacked(scenes)
        rows_a, rows_b, slots = self.captions(nouns)
        t = torch.from_numpy(_timesteps(self.rng, b))
        abar = self.alpha_bar[t].view(b, 1, 1, 1)
        signal, sigma = abar.sqrt(), (1 - abar).sqrt()
        clean = pool.clean(scenes)
        noise = torch.randn(clean.shape)
        noisy = signal * clean + sigma * noise
        visible = self.alpha_bar[t]
        rows = 2 if paired else 1
        self.recorded.clear()
        with self._autocast():
            predicted = self.unet(
                noisy.repeat(rows, 1, 1, 1).contiguous(memory_format=torch.channels_last),
                t.repeat(rows),
                self.embed([*rows_a, *rows_b] if paired else rows_a),
            )
        v = predicted.sample.float()
        losses = {"diffusion": F.mse_loss(v[:b], signal * noise - sigma * clean)}
        total = losses["diffusion"]
        if paired:
            x0_a, x0_b = (signal * noisy - sigma * part for part in v.chunk(2))
            index = torch.arange(b)
            mask = masks[index, slots.clamp(min=0)] * (slots >= 0)[:, None, None]
            without = pool.without(scenes, slots.tolist(), clean)
            losses["counterfactual"] = F.mse_loss(x0_b, without)
            losses["contrast"] = contrast_loss(x0_a - x0_b, mask, visible)
            total = total + losses["counterfactual"] + o.contrast * losses["contrast"]
        grounded = self._ground(
            masks.repeat(rows, 1, 1, 1), nouns.repeat(rows, 1), visible.repeat(rows)
        )
        for name, value in grounded.items():
            losses[name] = value
            total = total + getattr(o, name) * value
        self._update(total, b)
        return {name: value.item() for name, value in losses.items()}

    def recognition_step(self, pool: Pool) -> dict[str, float]:
        """One optimiser step of the UNet's way down alone, on grounding; returns the losses.

        It costs a third of a whole pass, and what it teaches, to tell nouns apart, is what takes
        the most examples.
        """
        o = self.options
        scenes = pool.draw(self.rng, o.recognition_batch)
        b = len(scenes)
        masks, nouns = _stacked(scenes)
        rows_a, rows_b, _ = self.captions(nouns)
        t = torch.from_numpy(self.rng.integers(0, RECOGNITION_LEVELS, b))
        abar = self.alpha_bar[t].view(b, 1, 1, 1)
        clean = pool.clean(scenes)
        noisy = abar.sqrt() * clean + (1 - abar).sqrt() * torch.randn_like(clean)
        self.recorded.clear()
        with self._autocast():
            embedding = self.embed([*rows_a[: b // 2], *rows_b[b // 2 :]])
            x = self.unet.conv_in(noisy.contiguous(memory_format=torch.channels_last))
            time_embedding = self.unet.time_embedding(self.unet.time_proj(t))
            for block in self.unet.down_blocks:
                text = {"encoder_hidden_states": embedding} if hasattr(block, "attentions") else {}
                x, _ = block(hidden_states=x, temb=time_embedding, **text)
        losses = self._ground(masks, nouns, self.alpha_bar[t])
        self._update(losses["grounding"] + losses["heads"], b)
        return {name: value.item() for name, value in losses.items()}

    def _ground(
        self, masks: torch.Tensor, nouns: torch.Tensor, weight: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        picked, places = self._pick_nouns(nouns)
        with self._autocast():
            start, keys = self.noun_keys(picked)
            losses = grounding_loss(
                self.recorded, self.heads, start, keys, picked, masks, places, weight
            )
        return dict(zip(("grounding", "heads"), losses, strict=True))

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def _update(self, total: torch.Tensor, scenes: int) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self.scenes += scenes
        decay = min(self.options.ema, (1 + self.step) / (20 + self.step))
        with torch.no_grad():
            for average, model in zip(self.averaged, (self.unet, self.text), strict=True):
                torch._foreach_lerp_(
                    list(average.parameters()), list(model.parameters()), 1 - decay
                )

    def run(
        self, batches: Iterator[dict[str, Any]], progress: Callable[[dict], None] | None = None
    ) -> None:
        """Trains until the time given by the options is used up; logs to `folder/log.jsonl`."""
        o = self.options
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "options.json").write_text(json.dumps(asdict(o), indent=1))
        begin, before, saved = time.monotonic(), self.elapsed, time.monotonic()
        mean: dict[str, float] = {}
        with open(self.folder / "log.jsonl", "a") as log:
            while self.elapsed < o.hours * 3600:
                pool = self._fill(batches)
                done = self.elapsed / (o.hours * 3600)
                rate = min(1.0, (self.step + 1) / o.warmup) * (
                    0.02 + 0.49 * (1 + math.cos(math.pi * done))
                )
                for optimizer, lr in zip(self.optimizers, (o.matrix_lr, o.lr), strict=True):
                    for group in optimizer.param_groups:
                        group["lr"] = lr * rate
                early = done < o.recognition and self.rng.random() < RECOGNITION_SHARE
                for name, value in (self.recognition_step if early else self.train_step)(
                    pool
                ).items():
                    mean[name] = value if name not in mean else 0.98 * mean[name] + 0.02 * value
                self.elapsed = before + time.monotonic() - begin
                if self.step % 25 == 0:
                    row = {
                        "step": self.step,
                        "scenes": self.scenes,
                        "seconds": round(self.elapsed),
                        **mean,
                    }
                    log.write(json.dumps(row) + "\n")
                    log.flush()
                    if progress:
                        progress(row)
                if time.monotonic() - saved > o.save_every:
                    self.save()
                    saved = time.monotonic()
        self.save()

    def _fill(self, batches: Iterator[dict[str, Any]]) -> Pool:
        while True:
            scenes = self.encode(next(batches))
            size = tuple(scenes[0]["pixels"].shape[-2:])
            pool = self.pools.setdefault(size, Pool(self.options.pool, self.semantics))
            for scene in scenes:
                pool.add(scene)
            if len(pool.scenes) >= 4 * self.options.batch:
                return pool
