"""Quality against cost: mean IoU of present queries against UNet evaluations per query, plotted.

    python eval/plot_cost.py --images data/drawn/val --annotations \\
        data/drawn/annotations/instances_val.json --output cost.json --plot docs/images/cost.png

Each query is asked alone, of an image not asked before, so that nothing is shared between queries.
Ours runs with the model's own options, with 1, 2, 4 and 8 draws and with stopping, with and without
refinement; diffusers' DiffEdit as a user calls it, with 1, 2, 5 and 10 draws. `--from cost.json`
plots again without measuring. Needs matplotlib; `textseg` must be importable.
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
    from textseg.image import load_image
    from textseg.options import NO_REFINEMENT
    from textseg.segmenter import Segmenter
    from textseg_eval.coco import load_coco
    from textseg_eval.methods.base import MethodSpec
    from textseg_eval.methods.models import backbone_of, unet_of
    from textseg_eval.methods.public_diffedit import PublicDiffEdit

    dataset = load_coco(args.images, args.annotations).limited(args.limit, 0)
    backbone: Any = backbone_of(MethodSpec("textseg", args.model))
    unet_of(backbone, "plot_cost")
    meter = Meter(backbone)

    def ours(options: dict[str, Any]) -> Any:
        return lambda image, name: Segmenter(backbone).set_image(image).query(name, **options).mask

    def theirs(samples: int) -> Any:
        spec = MethodSpec("diffedit-public", args.model, {"samples": samples})
        method = PublicDiffEdit(spec)

        def answer(image: np.ndarray, name: str) -> np.ndarray:
            masks = method(image, [name]).masks
            assert masks is not None
            return masks[0]

        return answer

    settings = {("textseg", name): ours(options) for name, options in OURS.items()}
    settings |= {("textseg, unrefined", name): ours(options | NO_REFINEMENT)
                 for name, options in OURS.items()}  # fmt: skip
    settings |= {("diffusers", f"n = {n}"): theirs(n) for n in PUBLIC_SAMPLES}
    found: dict[tuple[str, str], list[tuple[float, int, float]]] = {key: [] for key in settings}
    for example in tqdm(dataset.examples, unit="image", disable=not sys.stderr.isatty()):
        image = load_image(example.path)
        for key in sorted(example.truth.keys()[0]):
            truth, ignored = example.truth.region(key)
            counted = np.ones_like(truth) if ignored is None else ~ignored
            for setting, answer in settings.items():
                masks: list[np.ndarray] = []

                def work(answer: Any = answer, key: int = key, image: Any = image,
                         masks: list[np.ndarray] = masks) -> None:  # fmt: skip
                    masks.append(answer(image, dataset.categories[key]))

                cost = meter.run(work)
                union = ((masks[0] | truth) & counted).sum()
                iou = float(((masks[0] & truth) & counted).sum() / max(1, union))
                found[setting].append((iou, cost.evaluations, meter.seconds(cost)))
    rows = []
    for (method, setting), values in found.items():
        iou, evaluations, seconds = np.array(values, float).T
        rows.append({
            "method": method, "setting": setting, "queries": len(iou), "miou": float(iou.mean()),
            "error": float(iou.std(ddof=1) / np.sqrt(len(iou))),
            "evaluations": float(evaluations.mean()), "seconds": float(seconds.mean()),
        })  # fmt: skip
    return {"model": backbone.name, "images": len(dataset.examples), "rows": rows}


def table(report: dict[str, Any]) -> str:
    lines = ["| method | setting | UNet evaluations per query | seconds | mean IoU |",
             "|---|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {r['method']} | {r['setting']} | {r['evaluations']:.1f} | {r['seconds']:.2f} "
        f"| {r['miou']:.3f} ± {r['error']:.3f} |"
        for r in report["rows"]
    ]
    return "\n".join(lines)


def plot(report: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), dpi=110)
    styles = {"textseg": ("o", "#1a7f5a"), "textseg, unrefined": ("s", "#7fb69d"),
              "diffusers": ("^", "#b0413e")}  # fmt: skip
    for method, (marker, colour) in styles.items():
        rows = [r for r in report["rows"] if r["method"] == method]
        plain = [r for r in rows if r["setting"].startswith("n")]
        axes.errorbar([r["evaluations"] for r in plain], [r["miou"] for r in plain],
                      [r["error"] for r in plain], marker=marker, color=colour, label=method,
                      capsize=2, lw=1)  # fmt: skip
        stopped = [r for r in rows if r not in plain]
        if stopped:
            axes.scatter([r["evaluations"] for r in stopped], [r["miou"] for r in stopped],
                         marker="*", s=90, color=colour, label=f"{method}, stopping")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks([2, 4, 8, 16, 32, 40], ["2", "4", "8", "16", "32", "40"])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("UNet evaluations per query")
    axes.set_ylabel("mean IoU")
    axes.set_title(f"{report['model']}, {report['rows'][0]['queries']} queries", fontsize=10)
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


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
