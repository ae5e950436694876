"""What training runs share beside their steps: learning rates, logs, checkpoints, averaged weights,
and the loop of those that end by the clock."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from ..saving import write_atomic

LOGGED = 25
"""Steps from one row of a timed run's log to the next."""

Row = dict[str, Any]
Report = Callable[[Row], object]


def ramp(step: int, warmup: int, done: float, least: float = 0.0) -> float:
    """The share of the full learning rate: it rises over the first `warmup` steps, and falls to
    `least` along a cosine as `done` goes from 0 to 1."""
    cosine = least + (1 - least) / 2 * (1 + math.cos(math.pi * done))
    return min(1.0, (step + 1) / max(warmup, 1)) * cosine


def set_rates(
    optimizers: Iterable[torch.optim.Optimizer], full: Sequence[float], share: float
) -> None:
    """Gives each of the optimisers' parameter groups its full rate times `share`."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    for group, rate in zip(groups, full, strict=True):
        group["lr"] = rate * share


def descend(
    loss: torch.Tensor,
    optimizers: Sequence[torch.optim.Optimizer],
    clipped: Iterable[torch.Tensor] = (),
) -> None:
    """One step of every optimiser; the gradients of `clipped` are cut to a norm of 1 in all."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(clipped, 1.0)
    for optimizer in optimizers:
        optimizer.step()


@torch.no_grad()
def average(averaged: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Moves averaged weights towards those of the model."""
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)


def save_state(file: Path, state: Mapping[str, Any]) -> None:
    """Writes a checkpoint: it is whole, or it is the one before."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_atomic(file, buffer.getvalue())


def states_of(parts: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """The states of networks and optimisers, to be saved."""
    return {name: [part.state_dict() for part in listed] for name, listed in parts.items()}


def restore(parts: Mapping[str, Sequence[Any]], states: Mapping[str, Any]) -> None:
    """Puts saved states back; one that stands alone is that of one part."""
    for name, listed in parts.items():
        saved = states[name] if isinstance(states[name], list) else [states[name]]
        for part, state in zip(listed, saved, strict=True):
            part.load_state_dict(state)


def log_row(file: Path, row: Row) -> None:
    """Adds a line of JSON to a log."""
    with file.open("a", encoding="utf-8") as log:
        log.write(json.dumps(row) + "\n")


class Timed(Protocol):
    """A run: steps and seconds done so far, and a step that is told the share of the time that has
    passed and returns figures."""

    step: int
    elapsed: float

    def update(self, done: float) -> dict[str, float]: ...


def run_for(
    run: Timed,
    seconds: float,
    report: Report,
    save: Callable[[], object] | None = None,
    save_every: float = math.inf,
    used: Callable[[], float] = lambda: 0.0,
) -> None:
    """Runs until `seconds` have passed, those of earlier calls with them.

    Args:
        used: the share that is used up of what else there is a limit to; at 1 the run ends, too.
        report: called every `LOGGED` steps with "step", "seconds" and running means of the figures.
        save: called every `save_every` seconds, and at the end.
    """
    begin, before = time.monotonic(), run.elapsed
    saved = begin
    mean: dict[str, float] = {}
    while (done := max(run.elapsed / seconds, used())) < 1:
        for name, value in run.update(done).items():
            mean[name] = value if name not in mean else 0.98 * mean[name] + 0.02 * value
        now = time.monotonic()
        run.elapsed = before + now - begin
        if run.step % LOGGED == 0:
            report({"step": run.step, "seconds": round(run.elapsed), **mean})
        if save is not None and now - saved > save_every:
            save()
            saved = now
    if save is not None:
        save()
