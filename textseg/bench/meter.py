"""Evaluations, seconds and memory of a piece of work on a model, and what the machine can do."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """What a piece of work took.

    Attributes:
        evaluations: noisy images the UNet ran on.
        calls: calls of the UNet.
        wall_s: seconds on the clock.
        cpu_s: processor seconds of this process, all threads; fairer than the clock where other
            programs share the machine.
        stages: seconds by stage, "unet", "vae", "text" and "rest": processor seconds where the
            model runs on the CPU, else seconds on the clock.
        peak_bytes: most memory above what was held before (resident memory, or the accelerator's);
            None where it cannot be told.
    """

    evaluations: int = 0
    calls: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    peak_bytes: int | None = None


class Meter:
    """Measures work on a model.

    Args:
        backbone: a `LatentUNet` or a kin of it.
    """

    def __init__(self, backbone: Any) -> None:
        self.backbone = backbone
        self.on_cpu: bool = backbone.device.type == "cpu"
        self._base = _settled_memory(backbone.device)

    def seconds(self, cost: Cost) -> float:
        """The clock that counts here: the processor's on the CPU, else the wall's."""
        return cost.cpu_s if self.on_cpu else cost.wall_s

    def run(self, work: Callable[[], object]) -> Cost:
        """Do it once, and say what it took. Peak memory is above what was held when the meter was
        made."""
        cost = Cost(stages=dict.fromkeys(("unet", "vae", "text"), 0.0))
        _settled_memory(self.backbone.device)
        _reset_peak(self.backbone.device)
        with self._watched(cost):
            wall, cpu, clock = time.perf_counter(), time.process_time(), self._clock()
            work()
            total = self._clock() - clock
            cost.wall_s, cost.cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        cost.stages["rest"] = max(0.0, total - sum(cost.stages.values()))
        peak = _peak_memory(self.backbone.device)
        if peak is not None and self._base is not None:
            cost.peak_bytes = max(0, peak - self._base)
        return cost

    def _clock(self) -> float:
        if self.on_cpu:
            return time.process_time()
        _wait(self.backbone.device)
        return time.perf_counter()

    @contextlib.contextmanager
    def _watched(self, cost: Cost) -> Iterator[None]:
        started: list[float] = []

        def before(_: Any, args: Any, kwargs: Any) -> None:
            started.append(self._clock())

        def after(stage: str) -> Callable[..., None]:
            def stop(_: Any, args: Any, kwargs: Any, __: Any) -> None:
                cost.stages[stage] += self._clock() - started.pop()
                if stage == "unet":
                    cost.calls += 1
                    cost.evaluations += len(args[0] if args else kwargs["sample"])

            return stop

        def timed(work: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(work)
            def run(*args: Any, **kwargs: Any) -> Any:
                start = self._clock()
                result = work(*args, **kwargs)
                cost.stages["vae"] += self._clock() - start
                return result

            return run

        model = self.backbone
        watched = [("unet", model.unet), ("text", model.text_encoder)]
        second = getattr(model.pipe, "text_encoder_2", None)
        watched += [] if second is None else [("text", second)]
        hooks = []
        for stage, module in watched:
            hooks.append(module.register_forward_pre_hook(before, with_kwargs=True))
            hooks.append(module.register_forward_hook(after(stage), with_kwargs=True))
        # All that autoencoders have in common are these two methods, which no hook sees.
        for name in ("encode", "decode"):
            setattr(model.vae, name, timed(getattr(model.vae, name)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for name in ("encode", "decode"):
                delattr(model.vae, name)


@dataclass(frozen=True)
class Speed:
    """Floating-point operations per second: the best that matrix products and convolutions of a
    UNet's sizes reach on this machine, in this dtype, by the clock that `Meter.seconds` takes."""

    matmul: float
    convolution: float


def machine_speed(
    device: torch.device, dtype: torch.dtype, *, small: bool = False, repeats: int = 3
) -> Speed:
    """Measure `Speed`; the fastest of a few repeats and shapes counts.

    Args:
        small: matrices of 512 instead of 2048 and fewer channels, for tests.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter

    def best(work: Callable[[], object], operations: float) -> float:
        fastest = float("inf")
        for _ in range(repeats + 1):
            _wait(device)
            start = clock()
            work()
            _wait(device)
            fastest = min(fastest, clock() - start)
        return operations / max(fastest, 1e-9)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=dtype)

    products, convolutions = [], []
    with torch.inference_mode():
        for side in (256, 512) if small else (1024, 2048, 4096 if device.type != "cpu" else 1536):
            a, b = tensor(side, side), tensor(side, side)
            products.append(best(lambda a=a, b=b: a @ b, 2.0 * side**3))
        shapes = ((32, 24), (64, 12)) if small else ((320, 64), (640, 32), (1280, 16))
        for channels, cells in shapes:
            x, w = tensor(2, channels, cells, cells), tensor(channels, channels, 3, 3)
            convolutions.append(
                best(
                    lambda x=x, w=w: torch.nn.functional.conv2d(x, w, padding=1),
                    2.0 * 2 * 9 * channels**2 * cells**2,
                )
            )
    return Speed(max(products), max(convolutions))


def unet_operations(backbone: Any, latents: torch.Tensor, t: int) -> dict[str, int]:
    """Floating-point operations of one evaluation: {"convolution": ..., "matmul": ...}.

    torch's counter knows the fused attention of GPUs only; that of the CPU is counted here.
    """
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={fused: attention}) as counter:
        backbone.predict(torch.zeros_like(latents)[None], t, backbone.embed(["a thing"])[0])
    counted = counter.get_flop_counts().get("Global", {})
    convolution = sum(n for op, n in counted.items() if "convolution" in str(op))
    return {"convolution": convolution, "matmul": sum(counted.values()) - convolution}


def _wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _settled_memory(device: torch.device) -> int | None:
    """Bytes held now, once what is free has been given back."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _status("VmRSS")


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu":
        with contextlib.suppress(OSError):
            _RESET.write_text("5")


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") if device.type == "cpu" else None


def _status(name: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith(f"{name}:")), None)
