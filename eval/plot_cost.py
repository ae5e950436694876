"""The curve of quality against cost: mean IoU and UNet evaluations per query, ours and diffusers'.

    python eval/plot_cost.py --images data/drawn/val --annotations \\
        data/drawn/annotations/instances_val.json --limit 20 --output cost.json \\
        --plot docs/images/cost.png

Each query is asked alone, of an image not asked before, so that nothing is shared between queries.
Ours runs with the model's own options, with 1, 2, 4 and 8 draws and with stopping, with and without
refinement; diffusers' DiffEdit as a user calls it, with 1, 2, 5 and 10 draws. `--from cost.json`
plots again without measuring. `textseg` must be importable.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

OURS: dict[str, dict[str, Any]] = {
    **{f"n = {n}": {"samples": n, "batch_size": n} for n in (1, 2, 4, 8)},
    **{f"stop at {risk}": {"samples": 16, "batch_size": 1, "stop_risk": risk}
       for risk in (0.2, 0.05)},
}  # fmt: skip
PUBLIC_SAMPLES = (1, 2, 5, 10)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Rows of method, setting, mean IoU with its standard error, evaluations, seconds."""
    from tqdm import tqdm

    from textseg.bench import Meter
    from textseg.cutting import remask
    from textseg.image import load_image
    from textseg.options import NO_REFINEMENT
    from textseg.segmenter import Segmenter
    from textseg_eval.datasets import load_coco
    from textseg_eval.methods.base import MethodSpec
    from textseg_eval.methods.models import backbone_of, unet_of
    from textseg_eval.methods.public_diffedit import PublicDiffEdit

    dataset = load_coco(args.images, args.annotations).limited(args.limit, 0)
    # In the precision the public pipeline is measured in, so that both share one UNet.
    backbone: Any = backbone_of(MethodSpec("textseg", args.model, dtype="float32"))
    unet_of(backbone, "plot_cost")
    meter = Meter(backbone)

    def ours(options: dict[str, Any]) -> Any:
        return lambda image, name: Segmenter(backbone).set_image(image).query(name, **options)

    def theirs(samples: int) -> Any:
        spec = MethodSpec("diffedit-public", args.model, {"samples": samples})
        method = PublicDiffEdit(spec)

        def answer(image: np.ndarray, name: str) -> np.ndarray:
            masks = method(image, [name]).masks
            assert masks is not None
            return masks[0]

        return answer

    settings = {("textseg", name): ours(options) for name, options in OURS.items()}
    settings |= {("diffusers", f"n = {n}"): theirs(n) for n in PUBLIC_SAMPLES}
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for example in tqdm(dataset.examples, unit="image", disable=not sys.stderr.isatty()):
        image = load_image(example.path)
        for key in sorted(example.truth.keys()[0]):
            truth, ignored = example.truth.region(key)
            counted = np.ones_like(truth) if ignored is None else ~ignored

            def iou(mask: np.ndarray, truth: Any = truth, counted: Any = counted) -> float:
                union = ((mask | truth) & counted).sum()
                return float((mask & truth & counted).sum() / max(1, union))

            for (method, setting), answer in settings.items():
                answers: list[Any] = []

                def work(answer: Any = answer, key: int = key, image: Any = image,
                         answers: list[Any] = answers) -> None:  # fmt: skip
                    answers.append(answer(image, dataset.categories[key]))

                cost = meter.run(work)
                masks = {method: answers[0]}
                if method == "textseg":
                    unrefined = remask(answers[0], **NO_REFINEMENT)
                    masks = {method: answers[0].mask, f"{method}, unrefined": unrefined.mask}
                for name, mask in masks.items():
                    seconds = meter.seconds(cost) if name == method else np.nan
                    row = found.setdefault((name, setting), [])
                    row.append((iou(mask), cost.evaluations, seconds))
    rows = []
    for (method, setting), values in found.items():
        ious, evaluations, seconds = np.array(values, float).T
        rows.append({
            "method": method, "setting": setting, "queries": len(ious), "miou": float(ious.mean()),
            "error": float(ious.std(ddof=1) / np.sqrt(len(ious))),
            "evaluations": float(evaluations.mean()),
            "seconds": None if np.isnan(seconds).any() else float(seconds.mean()),
        })  # fmt: skip
    return {"model": backbone.name, "images": len(dataset.examples), "rows": rows}


def table(report: dict[str, Any]) -> str:
    lines = ["| method | setting | UNet evaluations per query | seconds | mean IoU |",
             "|---|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {r['method']} | {r['setting']} | {r['evaluations']:.1f} "
        f"| {'' if r['seconds'] is None else format(r['seconds'], '.2f')} "
        f"| {r['miou']:.3f} ± {r['error']:.3f} |"
        for r in sorted(report["rows"], key=lambda r: r["method"])
    ]
    return "\n".join(lines)


_STYLES = {"textseg": ("circle", "#1a7f5a"), "textseg, unrefined": ("square", "#7fb69d"),
           "diffusers": ("triangle", "#b0413e")}  # fmt: skip


def plot(report: dict[str, Any], path: Path) -> None:
    """Evaluations (logarithmic) against mean IoU with its standard error, drawn with Pillow."""
    from PIL import Image, ImageDraw, ImageFont

    rows = report["rows"]
    scale = 2
    width, height = 720 * scale, 430 * scale
    left, top, right, bottom = 70 * scale, 36 * scale, width - 20 * scale, height - 56 * scale
    most = max(r["evaluations"] for r in rows) * 1.15
    least = min(r["evaluations"] for r in rows) / 1.15
    highest = min(1.0, np.ceil(10 * max(r["miou"] + r["error"] for r in rows) + 0.5) / 10)
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    font, large = (ImageFont.load_default(size * scale) for size in (12, 14))

    def x(evaluations: float) -> float:
        return left + (right - left) * float(np.log(evaluations / least) / np.log(most / least))

    def y(miou: float) -> float:
        return bottom - (bottom - top) * miou / highest

    def mark(shape: str, at: tuple[float, float], colour: str, fill: bool = True) -> None:
        across, down, r = *at, 5 * scale
        inside = colour if fill else "white"
        box = (across - r, down - r, across + r, down + r)
        if shape == "circle":
            draw.ellipse(box, inside, colour, scale)
        elif shape == "square":
            draw.rectangle(box, inside, colour, scale)
        else:
            corners = [(across, down - r), (across + r, down + r), (across - r, down + r)]
            draw.polygon(corners, inside, colour, scale)

    for tick in (n for n in (1, 2, 4, 8, 16, 32, 64) if least <= n <= most):
        draw.line((x(tick), top, x(tick), bottom), "#e4e4e4", scale)
        draw.text((x(tick), bottom + 8 * scale), str(tick), "#333", font, anchor="mt")
    for tenth in range(round(10 * highest) + 1):
        draw.line((left, y(tenth / 10), right, y(tenth / 10)), "#e4e4e4", scale)
        draw.text((left - 8 * scale, y(tenth / 10)), f"{tenth / 10:.1f}", "#333", font, anchor="rm")
    draw.line((left, top, left, bottom, right, bottom), "#333", scale)
    for at, (method, (shape, colour)) in enumerate(_STYLES.items()):
        own = [r for r in rows if r["method"] == method]
        plain = sorted((r for r in own if r["setting"].startswith("n")),
                       key=lambda r: r["evaluations"])  # fmt: skip
        draw.line([(x(r["evaluations"]), y(r["miou"])) for r in plain], colour, 2 * scale)
        for r in own:
            across = x(r["evaluations"])
            ends = [y(r["miou"] + sign * r["error"]) for sign in (-1, 1)]
            draw.line((across, ends[0], across, ends[1]), colour, scale)
            mark(shape, (across, y(r["miou"])), colour, r in plain)
        label = (left + (16 + 190 * at) * scale, top + 14 * scale)
        mark(shape, label, colour)
        draw.text((label[0] + 12 * scale, label[1]), method, "#333", font, anchor="lm")
    queries = rows[0]["queries"]
    title = f"{report['model']}, {queries} queries on {report['images']} images; hollow: stopping"
    draw.text(((left + right) / 2, 8 * scale), title, "#111", large, anchor="mt")
    draw.text(((left + right) / 2, height - 6 * scale), "UNet evaluations per query",
              "#111", large, anchor="mb")  # fmt: skip
    draw.text((6 * scale, 8 * scale), "mean IoU", "#111", large, anchor="lt")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.resize((width // scale, height // scale), Image.Resampling.LANCZOS).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--limit", type=int, help="at most so many images")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--plot", type=Path, help="PNG file for the plot")
    parser.add_argument("--from", dest="given", type=Path, help="figures to plot again")
    args = parser.parse_args()
    if args.given is None and (args.images is None or args.annotations is None):
        parser.error("--images and --annotations, or --from, must be given")
    report = json.loads(args.given.read_text()) if args.given else measure(args)
    if args.output:
        args.output.write_text(json.dumps(report, indent=2) + "\n")
    if args.plot:
        plot(report, args.plot)
    sys.stdout.write(table(report) + "\n")


if __name__ == "__main__":
    main()
