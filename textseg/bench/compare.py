"""Ours against diffusers' `StableDiffusionDiffEditPipeline`, in one run."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import Rule, option, validate, whole
from ..errors import InputError
from ..image import resize_image
from ..options import ContrastOptions, EditOptions, RefineOptions

if TYPE_CHECKING:
    from .meter import Speed
    from .profiling import Spent

PUBLIC_SAMPLES = 10
PUBLIC_STRENGTH = 0.5
SHAPES = 16
_DTYPES = Rule(
    "bfloat16 or float16, or both",
    lambda v: isinstance(v, (tuple, list)) and all(one in ("bfloat16", "float16") for one in v),
)


@dataclass(frozen=True)
class BenchOptions:
    """What is measured.

    Attributes:
        samples: noise draws of both at equal n, 1 to 1000.
        queries: queries in the measurement of several on one image, 1 to 100.
        size: side of the square test image in pixels; 0 is the model's own.
        repeats: 1 to 100; the fastest counts.
        defaults: also measure both with their default settings.
        edit: also measure an edit: encoding and decoding.
        steps: steps of that edit over the full schedule, 2 to 1000.
        speed: measure the machine's speed and the share of it that the UNet reaches.
        profile: say where the UNet's time goes, by kind of operation and, with `speed`, by shape
            and how much of it is lost against the machine's speed.
        rounding: also compare contrast maps in these dtypes with that in the model's own.
    """

    samples: int = option(10, whole(1, 1000))
    queries: int = option(8, whole(1, 100))
    size: int = option(0, whole(0, 8192))
    repeats: int = option(1, whole(1, 100))
    defaults: bool = False
    edit: bool = False
    steps: int = option(50, whole(2, 1000))
    speed: bool = True
    profile: bool = False
    rounding: tuple[str, ...] = option((), _DTYPES)

    __post_init__ = validate


def compare(
    backbone: Any,
    image: np.ndarray,
    queries: Sequence[str],
    options: BenchOptions | None = None,
    progress: Callable[[int, int, str], object] | None = None,
) -> dict[str, Any]:
    """Measure both on one image.

    The public pipeline answers one query per call, as it is made; it is left out for models it
    cannot run (families other than Stable Diffusion 1 and 2, autoencoders that are not KL).

    Args:
        backbone: a latent UNet or a kin of it.
        image: (H, W, 3) uint8.
        queries: as many as `options.queries`, all different.
        progress: called as progress(done, total, what) before each measurement.

    Returns:
        JSON-able: "machine", "model", "rows" (one per method and setting, see `Cost`), "ratios"
        (theirs over ours), "unet", "profile" (shares of time by kind of operation), "shapes" (by
        operation and shape, most time lost against the machine's speed first) and "rounding".
    """
    import torch

    from ..refine import Refiner
    from .meter import Meter, machine_speed, unet_operations
    from .profiling import by_kind, profile_unet
    from .rounding import rounding_floor

    options = options or BenchOptions()
    if len(set(queries)) < options.queries:
        raise InputError(f"queries must be {options.queries} different ones, got {len(queries)}")
    queries = list(queries)[: options.queries]
    works = _works(backbone, image, queries, options)
    total = len(works) * options.repeats + options.speed + options.profile + len(options.rounding)
    done = 0

    def about(what: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done, total, what)
        done += 1

    # What is done once per process is no part of any figure: imports, kernels, first pages.
    warm = _latents(backbone, image)[None]
    backbone.predict(warm, backbone.timestep(PUBLIC_STRENGTH), backbone.embed([""])[0])
    Refiner(np.zeros((80, 80, 3), np.uint8)).refine(np.eye(4))
    del warm
    meter = Meter(backbone)
    rows = []
    for (setting, method), work in works.items():
        costs = []
        for _ in range(options.repeats):
            about(f"{method}, {setting}")
            _forget_texts(backbone)
            costs.append(meter.run(work))
        best = min(costs, key=meter.seconds)
        rows.append({"setting": setting, "method": method, "seconds": meter.seconds(best)}
                    | asdict(best))  # fmt: skip
    report: dict[str, Any] = {
        "machine": _machine(backbone),
        "model": {"name": backbone.name, "dtype": str(backbone.dtype).removeprefix("torch.")},
        "options": asdict(options) | {"rounding": list(options.rounding)},
        "rows": rows,
        "ratios": _ratios(rows),
    }
    ours = next(row for row in rows if row["method"] == "textseg")
    speed = None
    latents: Any = _latents(backbone, image) if options.speed or options.profile else None
    if options.speed:
        about("machine speed")
        speed = machine_speed(backbone.device, backbone.dtype)
        need = unet_operations(backbone, latents, backbone.timestep(PUBLIC_STRENGTH))
        ideal = need["matmul"] / speed.matmul + need["convolution"] / speed.convolution
        seconds = ours["stages"]["unet"] / ours["evaluations"]
        report["unet"] = {
            "operations": need, "seconds": seconds, "machine": asdict(speed),
            "reached": sum(need.values()) / seconds, "share": ideal / seconds,
        }  # fmt: skip
    if options.profile:
        about("profile")
        parts = profile_unet(backbone, latents, backbone.timestep(PUBLIC_STRENGTH))
        report["profile"] = by_kind(parts)
        if speed is not None:
            report["shapes"] = _shapes(parts, speed, torch.get_num_threads() if meter.on_cpu else 1)
    report["rounding"] = {}
    for name in options.rounding:
        about(f"rounding of {name}")
        contrast = ContrastOptions(samples=options.samples, batch_size=options.samples)
        report["rounding"][name] = rounding_floor(
            backbone, image, queries[0], getattr(torch, name), contrast, RefineOptions.off()
        )
    return report


def _works(
    backbone: Any, image: np.ndarray, queries: list[str], options: BenchOptions
) -> dict[tuple[str, str], Callable[[], object]]:
    """(setting, method) -> the work, theirs before ours."""
    from ..editing import edit
    from ..segmenter import Segmenter
    from .models import diffedit_pipeline

    n, several = options.samples, f"{options.queries} queries"
    public = diffedit_pipeline(backbone) if backbone.diffedit_parts else None
    small = resize_image(image, backbone.fit_size(*image.shape[:2]))
    pixels = small[None].astype(np.float32) / 255

    def theirs(asked: Sequence[str], samples: int) -> Callable[[], object]:
        return lambda: [public_mask(public, pixels, f"a photo of {q}", samples) for q in asked]

    def ours(
        asked: list[str], contrast: ContrastOptions | None, refine: RefineOptions | None
    ) -> Callable[[], object]:
        return lambda: Segmenter(backbone, contrast, refine).set_image(image).query(asked)

    equal = ContrastOptions(samples=n, batch_size=n)
    plain = RefineOptions.off()
    works: dict[tuple[str, str], Callable[[], object] | None] = {}

    def add(setting: str, asked: list[str], samples: int, *ours_options: Any) -> None:
        works[setting, "diffusers"] = public and theirs(asked, samples)
        works[setting, "textseg"] = ours(asked, *ours_options)

    add(f"1 query, n = {n}", queries[:1], n, equal, plain)
    if options.queries > 1:
        add(f"{several}, n = {n}", queries, n, equal, plain)
    if options.defaults:
        add("1 query, defaults", queries[:1], PUBLIC_SAMPLES, None, None)
        if options.queries > 1:
            add(f"{several}, defaults", queries, PUBLIC_SAMPLES, None, None)
    if options.edit:
        setting = f"edit, {options.steps} steps"
        region = np.zeros(image.shape[:2], bool)
        region[image.shape[0] // 4 : image.shape[0] // 2, image.shape[1] // 4 :] = True
        works[setting, "diffusers"] = public and (
            lambda: _public_edit(public, pixels, backbone.factor, options.steps)
        )
        works[setting, "textseg"] = lambda: edit(
            image, prompt="a photo of a cat", model=backbone, mask=region,
            options=EditOptions(steps=options.steps, encode_ratio=PUBLIC_STRENGTH),
        )  # fmt: skip
    return {key: work for key, work in works.items() if work is not None}


def public_mask(
    pipeline: Any, pixels: np.ndarray, prompt: str, samples: int, **arguments: Any
) -> np.ndarray:
    """`generate_mask` with its defaults, at the latents' size: (h, w) of 0 and 1.

    Args:
        pixels: (1, H, W, 3) float32 in [0, 1].
    """
    import warnings

    import torch

    key = hashlib.sha256(prompt.encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(key[:7], "big"))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        [mask] = pipeline.generate_mask(
            image=pixels, target_prompt=prompt, source_prompt="", num_maps_per_mask=samples,
            mask_encode_strength=PUBLIC_STRENGTH, generator=generator, output_type="np",
            **arguments,
        )  # fmt: skip
    return mask


def _public_edit(pipeline: Any, pixels: np.ndarray, factor: int, steps: int) -> object:
    import warnings

    import torch

    _, height, width, _ = pixels.shape
    mask = np.zeros((1, height // factor, width // factor), np.float32)
    mask[:, mask.shape[1] // 4 : mask.shape[1] // 2, mask.shape[2] // 4 :] = 1
    common = {"num_inference_steps": steps, "inpaint_strength": PUBLIC_STRENGTH}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inverted = pipeline.invert(
            prompt="", image=pixels, generator=torch.Generator("cpu").manual_seed(0), **common
        ).latents
        return pipeline(
            prompt="a photo of a cat", mask_image=mask, image_latents=inverted, **common
        )


def _forget_texts(backbone: Any) -> None:
    """Each measurement embeds its prompts anew."""
    backbone._embeddings.clear()


def _latents(backbone: Any, image: np.ndarray) -> Any:
    return backbone.encode(resize_image(image, backbone.fit_size(*image.shape[:2])))


def _ratios(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Theirs over ours, by setting."""
    by = {(row["setting"], row["method"]): row for row in rows}
    ratios = {}
    for setting, method in by:
        other = by.get((setting, "diffusers"))
        if method == "textseg" and other is not None:
            ours = by[setting, method]
            ratios[setting] = {
                name: other[name] / ours[name]
                for name in ("evaluations", "seconds", "peak_bytes")
                if other[name] and ours[name]
            }
    return ratios


def _shapes(parts: Sequence[Spent], speed: Speed, threads: int) -> list[dict[str, Any]]:
    total = sum(part.seconds for part in parts)
    rows = [
        asdict(part)
        | {
            "share": part.seconds / total,
            "reached": part.ideal(speed, threads) / max(part.seconds, 1e-12),
            "lost": (part.seconds - part.ideal(speed, threads)) / total,
        }
        for part in parts
    ]
    return sorted(rows, key=lambda row: -row["lost"])


def _machine(backbone: Any) -> dict[str, Any]:
    import diffusers
    import torch

    from .._version import __version__

    on_cpu = backbone.device.type == "cpu"
    name = (
        torch.cuda.get_device_name(backbone.device)
        if backbone.device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    return {
        "device": str(backbone.device), "name": name, "system": platform.system(),
        "threads": torch.get_num_threads() if on_cpu else None,
        "clock": "processor seconds" if on_cpu else "seconds",
        "textseg": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__,
    }  # fmt: skip


def table(report: dict[str, Any]) -> str:
    """A report of `compare` for people, in Markdown."""
    machine, model = report["machine"], report["model"]
    lines = [
        f"{model['name']}, {model['dtype']}, on {machine['device']} ({machine['name']}), "
        f"torch {machine['torch']}, diffusers {machine['diffusers']}; times in "
        f"{machine['clock']}" + (f", {machine['threads']} threads" * bool(machine["threads"])),
        "",
        "| setting | method | UNet evaluations | total | UNet | autoencoder | text | rest "
        "| peak memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        stages, peak = row["stages"], row["peak_bytes"]
        lines.append(
            f"| {row['setting']} | {row['method']} | {row['evaluations']} | {row['seconds']:.2f} "
            f"| {stages['unet']:.2f} | {stages['vae']:.2f} | {stages['text']:.2f} "
            f"| {stages['rest']:.2f} | {'' if peak is None else f'{peak / 2**20:.0f} MiB'} |"
        )
    if report["ratios"]:
        lines += [
            "",
            "| theirs over ours | evaluations | time | peak memory |",
            "|---|---|---|---|",
        ]
    for setting, ratio in report["ratios"].items():
        cells = (f"{ratio[k]:.2f}" if k in ratio else "" for k in
                 ("evaluations", "seconds", "peak_bytes"))  # fmt: skip
        lines.append(f"| {setting} | {' | '.join(cells)} |")
    if "unet" in report:
        unet = report["unet"]
        lines += [
            "",
            f"UNet: {sum(unet['operations'].values()) / 1e9:.1f} GFLOP per evaluation at "
            f"{unet['reached'] / 1e9:.1f} GFLOP/s, {unet['share']:.0%} of what this machine does "
            f"in matrix products ({unet['machine']['matmul'] / 1e9:.1f} GFLOP/s) and convolutions "
            f"({unet['machine']['convolution'] / 1e9:.1f} GFLOP/s).",
        ]
    if "profile" in report:
        shares = ", ".join(f"{kind} {share:.0%}" for kind, share in report["profile"].items())
        lines += ["", f"Where the UNet's time goes: {shares}."]
    if "shapes" in report:
        lines += [
            "",
            "| operation | shape | calls | share of the time | of the machine's speed | lost |",
            "|---|---|---|---|---|---|",
        ]
        for row in report["shapes"][:SHAPES]:
            reached = f"{row['reached']:.0%}" if row["operations"] else ""
            lines.append(
                f"| {row['operation']} | {row['shape']} | {row['calls']} | {row['share']:.1%} "
                f"| {reached} | {row['lost']:.1%} |"
            )
    for name, floor in report["rounding"].items():
        lines += [
            "",
            f"Rounding of {name}: the contrast map differs by {floor['floor']:.2g} on average and "
            f"{floor['worst']:.2g} at most, where its mean is {floor['contrast']:.2g} and its peak "
            f"{floor['peak']:.2g}; {floor['changed']:.1%} of the mask's cells change sides.",
        ]
    return "\n".join(lines)
