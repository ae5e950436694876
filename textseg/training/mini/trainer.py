"""Trains the embedded model: an ordinary latent diffusion model that understands absence.

Each scene gives two rows of a batch that share image, noise and noise level. Row A has an ordinary
caption, or none, and the ordinary target. Row B says that a noun is absent; its target is the scene
without that noun (a counterfactual) or, where the noun really is absent, the scene itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...backbone.noised import Noised
from ...english import with_article
from ...errors import InputError
from .. import runs
from ..captions import caption_rows
from ..losses import contrast_loss
from .analysis import BLOCK, CHANNELS, to_pixels
from .grounding import CrossAttentionQueries, NounHeads, grounding_loss
from .muon import Muon
from .networks import SCHEDULE, build_text_encoder, build_unet
from .options import TrainOptions
from .pool import Pool
from .semantics import Semantics
from .vocabulary import MAX_TOKENS, build_tokenizer, known_words, tokenizer_of, vocabulary_of

# Recognition steps take timesteps below this.
RECOGNITION_LEVELS = 150
# Of the steps of the first part; the others keep the rest of the network in touch.
RECOGNITION_SHARE = 0.95
# Of nouns said to be absent that are chosen for looking like one that is there, and of how many.
HARD_SHARE = 0.5
HARD_CHOICES = 12
# Of captions, with a word that means nothing.
UNKNOWN_SHARE = 0.05
# The learning rates end at this share of themselves.
LAST_RATE = 0.02


def _timesteps(rng: np.random.Generator, n: int) -> np.ndarray:
    """Mostly low noise, where names are read and contrasts taken; the rest is for making images."""
    ranges = np.array([(10, 200), (200, 600), (0, 1000)])
    low, high = ranges[rng.choice(3, n, p=(0.6, 0.25, 0.15))].T
    return rng.integers(low, high)


@dataclass(frozen=True)
class _Drawn:
    """Scenes of a step, noised.

    Attributes:
        scenes: B of a `Pool`, with `masks` (B, K, h, w) float32 and `nouns` (B, K).
        rows_a, rows_b, slots: as of `Trainer.captions`.
        t: (B,) timesteps.
        noised: the latents.
    """

    scenes: Sequence[dict[str, torch.Tensor]]
    masks: torch.Tensor
    nouns: torch.Tensor
    rows_a: list[str]
    rows_b: list[str]
    slots: torch.Tensor
    t: torch.Tensor
    noised: Noised


class Trainer:
    """Holds networks, averaged weights and optimiser.

    It resumes from `folder/state.pt`; without one it starts from the model folder `init`, or from
    random weights.
    """

    def __init__(
        self,
        folder: Path,
        analysis: torch.nn.Conv2d,
        semantics: Semantics,
        nouns: Sequence[str],
        options: TrainOptions,
        init: Path | None = None,
    ) -> None:
        torch.manual_seed(options.seed)
        self.folder, self.options, self.nouns = folder, options, list(nouns)
        self.analysis, self.semantics = analysis, semantics
        self.words = known_words(nouns)
        file = folder / "state.pt"
        saved = torch.load(file, weights_only=True) if file.exists() else {}
        self.tokenizer = self._tokenizer(init, saved.get("tokenizer"))
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
        for averaged, model in zip(self.averaged, (self.unet, self.text), strict=True):
            averaged.load_state_dict(model.state_dict())
        first, last = SCHEDULE["beta_start"], SCHEDULE["beta_end"]
        betas = torch.linspace(first**0.5, last**0.5, SCHEDULE["num_train_timesteps"]) ** 2
        self.alpha_bar = torch.cumprod(1 - betas, 0)
        self.step, self.elapsed, self.scenes = 0, 0.0, 0
        self.pools: dict[tuple[int, ...], Pool] = {}
        self.batches: Iterator[dict[str, Any]] = iter(())
        self.rng = np.random.default_rng(options.seed)
        if saved:
            self._resume(saved)

    def _tokenizer(self, init: Path | None, saved: Any) -> Any:
        """The tokenizer whose ids the embeddings of a checkpoint or of `init` stand for: building
        it again numbers words otherwise."""
        if saved is not None:
            return tokenizer_of(*saved)
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

    @property
    def _parts(self) -> dict[str, Sequence[Any]]:
        """What a checkpoint holds the states of."""
        return {
            "unet": [self.unet], "text": [self.text], "heads": [self.heads],
            "averaged": self.averaged, "optimizers": self.optimizers,
        }  # fmt: skip

    def _resume(self, state: dict[str, Any]) -> None:
        runs.restore(self._parts, state)
        self.step, self.elapsed, self.scenes = state["step"], state["elapsed"], state["scenes"]
        self.rng = np.random.default_rng((self.options.seed, self.step))

    def save(self) -> None:
        """Writes the checkpoint `folder/state.pt`."""
        done = {
            "step": self.step, "elapsed": self.elapsed, "scenes": self.scenes,
            "tokenizer": vocabulary_of(self.tokenizer),
        }  # fmt: skip
        runs.save_state(self.folder / "state.pt", runs.states_of(self._parts) | done)

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

    def _absent_noun(self, there: Sequence[int], likeness: torch.Tensor) -> str:
        """A noun that is not there: any, or of some the one most like a noun that is."""
        order = self.rng.permutation(len(self.nouns)).tolist()
        others = [i for i in order if i not in there][:HARD_CHOICES]
        if not there or self.rng.random() >= HARD_SHARE:
            return self.nouns[others[0]]
        return self.nouns[max(others, key=lambda i: float(likeness[i, list(there)].max()))]

    def captions(self, nouns: torch.Tensor) -> tuple[list[str], list[str], torch.Tensor]:
        """Captions of rows A and B.

        Returns:
            The captions, and for each scene the slot that row B removes, -1 where its noun is
            absent.
        """
        likeness = self.heads.likeness()
        rows = []
        for present in nouns.tolist():
            there = [i for i in present if i >= 0]
            other = partial(self._absent_noun, there, likeness)
            names = [self.nouns[i] for i in there]
            rows.append(caption_rows(self.rng, names, other, self.options.absent, UNKNOWN_SHARE))
        ordinary, absent, slots = zip(*rows, strict=True)
        return list(ordinary), list(absent), torch.tensor(slots)

    def _draw(
        self, pool: Pool, count: int, timesteps: Callable[[np.random.Generator, int], np.ndarray]
    ) -> _Drawn:
        scenes = pool.draw(self.rng, count)
        nouns = torch.stack([s["nouns"] for s in scenes])
        captions = self.captions(nouns)
        t = torch.from_numpy(timesteps(self.rng, count))
        clean = pool.clean(scenes)
        masks = torch.stack([s["masks"] for s in scenes]).float()
        kind = SCHEDULE["prediction_type"]
        noised = Noised(clean, torch.randn(clean.shape), self.alpha_bar[t], kind)
        return _Drawn(scenes, masks, nouns, *captions, t, noised)

    def train_step(self, pool: Pool) -> dict[str, float]:
        """One optimiser step on scenes of the pool; returns the losses."""
        o = self.options
        done = min(self.elapsed / (o.hours * 3600), 1.0)
        paired = self.rng.random() < o.pairs[0] + done * (o.pairs[1] - o.pairs[0])
        b, rows = (o.batch, 2) if paired else (2 * o.batch, 1)
        drawn = self._draw(pool, b, _timesteps)
        noised = drawn.noised
        self.recorded.clear()
        with self._autocast():
            predicted = self.unet(
                noised.noisy.repeat(rows, 1, 1, 1).contiguous(memory_format=torch.channels_last),
                drawn.t.repeat(rows),
                self.embed([*drawn.rows_a, *drawn.rows_b] if paired else drawn.rows_a),
            )
        v = predicted.sample.float()
        losses = {"diffusion": F.mse_loss(v[:b], noised.target)}
        total = losses["diffusion"]
        if paired:
            x0_a, x0_b = map(noised.clean_of, v.chunk(2))
            slots = drawn.slots
            taken = drawn.masks[torch.arange(b), slots.clamp(min=0)]
            mask = taken * (slots >= 0)[:, None, None]
            without = pool.without(drawn.scenes, slots.tolist(), noised.clean)
            losses["counterfactual"] = F.mse_loss(x0_b, without)
            losses["contrast"] = contrast_loss(x0_a - x0_b, mask, noised.alpha_bar)
            total = total + losses["counterfactual"] + o.contrast * losses["contrast"]
        for name, value in self._ground(drawn, rows).items():
            losses[name] = value
            total = total + getattr(o, name) * value
        return self._descend(total, losses, b)

    def recognition_step(self, pool: Pool) -> dict[str, float]:
        """One optimiser step of the UNet's way down alone, on grounding; returns the losses.

        It costs a third of a whole pass, and what it teaches, to tell nouns apart, is what takes
        the most examples.
        """
        b = self.options.recognition_batch
        drawn = self._draw(pool, b, lambda rng, n: rng.integers(0, RECOGNITION_LEVELS, n))
        self.recorded.clear()
        with self._autocast():
            embedding = self.embed([*drawn.rows_a[: b // 2], *drawn.rows_b[b // 2 :]])
            x = self.unet.conv_in(drawn.noised.noisy.contiguous(memory_format=torch.channels_last))
            time_embedding = self.unet.time_embedding(self.unet.time_proj(drawn.t))
            for block in self.unet.down_blocks:
                text = {"encoder_hidden_states": embedding} if hasattr(block, "attentions") else {}
                x, _ = block(hidden_states=x, temb=time_embedding, **text)
        losses = self._ground(drawn)
        return self._descend(losses["grounding"] + losses["heads"], losses, b)

    def _ground(self, drawn: _Drawn, rows: int = 1) -> dict[str, torch.Tensor]:
        masks, weight = drawn.masks.repeat(rows, 1, 1, 1), drawn.noised.alpha_bar.repeat(rows)
        picked, places = self._pick_nouns(drawn.nouns.repeat(rows, 1))
        with self._autocast():
            start, keys = self.noun_keys(picked)
            losses = grounding_loss(
                self.recorded, self.heads, start, keys, picked, masks, places, weight
            )
        return dict(zip(("grounding", "heads"), losses, strict=True))

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def _descend(
        self, total: torch.Tensor, losses: dict[str, torch.Tensor], scenes: int
    ) -> dict[str, float]:
        runs.descend(total, self.optimizers, self.parameters)
        self.step += 1
        self.scenes += scenes
        decay = min(self.options.ema, (1 + self.step) / (20 + self.step))
        for averaged, model in zip(self.averaged, (self.unet, self.text), strict=True):
            runs.average(averaged, model, decay)
        return {name: value.item() for name, value in losses.items()}

    def update(self, done: float) -> dict[str, float]:
        """One step, of either kind, where a share `done` of the time has passed; the losses."""
        o = self.options
        pool = self._fill()
        rate = runs.ramp(self.step, o.warmup, done, LAST_RATE)
        runs.set_rates(self.optimizers, (o.matrix_lr, o.lr), rate)
        early = done < o.recognition and self.rng.random() < RECOGNITION_SHARE
        return (self.recognition_step if early else self.train_step)(pool)

    def run(self, batches: Iterator[dict[str, Any]], progress: runs.Report | None = None) -> None:
        """Trains until the time given by the options is used up; logs to `folder/log.jsonl`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "options.json").write_text(json.dumps(asdict(self.options), indent=1))
        self.batches = batches

        def report(row: runs.Row) -> None:
            row = {"step": row["step"], "scenes": self.scenes, **row}
            runs.log_row(self.folder / "log.jsonl", row)
            if progress:
                progress(row)

        seconds = self.options.hours * 3600
        runs.run_for(self, seconds, report, self.save, self.options.save_every)

    def _fill(self) -> Pool:
        while True:
            scenes = self.encode(next(self.batches))
            size = tuple(scenes[0]["pixels"].shape[-2:])
            pool = self.pools.setdefault(size, Pool(self.options.pool, self.semantics))
            for scene in scenes:
                pool.add(scene)
            if len(pool.scenes) >= 4 * self.options.batch:
                return pool
