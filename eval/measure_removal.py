"""How well objects are taken out by filling, on composed scenes that are known without the object.

    python eval/measure_removal.py --packages node_modules --cutouts photo-cutouts \\
        --backgrounds backgrounds -o out/removal

composes scenes of drawn and photographed objects (never trained on: OpenMoji, every fifth
photographed cutout) over drawn and photographed backgrounds, half of them with a cast shadow. Every
filling, over every growth of the region, is compared with the truth by PSNR and SSIM (scikit-image)
over the object, its shadow and a margin; then the object is asked for again. Writes `figures.json`
and prints the table. A page of pictures of `data/drawn`: `--page FILE.jpg`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from skimage.restoration import inpaint_biharmonic
from tqdm import tqdm

from textseg import Segmenter, edit
from textseg.coco import read_coco
from textseg.edit_methods import opencv_inpaint
from textseg.filling import grow_region, push_pull
from textseg.training.mini.scenes import (
    SceneOptions,
    compose,
    load_backgrounds,
    split_backgrounds,
)
from textseg.training.mini.sprites import build_drawings, load_sprites, split_cutouts
from textseg_eval.edit_metrics import background_psnr, background_ssim

DRAWN = Path(__file__).resolve().parent.parent / "data" / "drawn"
SIZE = (360, 480)
xphoto: Any = getattr(cv2, "xphoto", None)
"""Of opencv-contrib-python; its fillings are left out without it."""
SCENES = SceneOptions(counts=(0.6, 0.4), scale=(0.2, 0.5), photo_backgrounds=0.5)
MARGIN = 0.03
"""Of the longer side: how far around an object and its shadow the figures reach."""


def navier_stokes(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return cv2.inpaint(np.ascontiguousarray(image), mask.astype(np.uint8), 3, cv2.INPAINT_NS)


def biharmonic(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """scikit-image's, at half size: its time grows fast with the region."""
    half = (image.shape[1] // 2, image.shape[0] // 2)
    small = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
    region = cv2.resize(mask.astype(np.uint8), half, interpolation=cv2.INTER_AREA) > 0
    filled = (inpaint_biharmonic(small, region, channel_axis=2) * 255).clip(0, 255)
    whole = cv2.resize(filled.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return np.where(mask[..., None], whole, image)


def frequency_selective(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Of opencv-contrib-python."""
    done = np.zeros_like(image)
    known = (~mask).astype(np.uint8) * 255
    xphoto.inpaint(np.ascontiguousarray(image), known, done, xphoto.INPAINT_FSR_FAST)
    return done


def shift_map(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Of opencv-contrib-python."""
    lab = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2Lab)
    done = np.zeros_like(lab)
    known = (~mask).astype(np.uint8) * 255
    xphoto.inpaint(lab, known, done, xphoto.INPAINT_SHIFTMAP)
    return np.where(mask[..., None], cv2.cvtColor(done, cv2.COLOR_Lab2RGB), image)


FILLINGS: dict[str, Callable[..., np.ndarray]] = {
    "push-pull": push_pull,
    "telea": lambda image, mask: opencv_inpaint(image, mask, None),
    "navier-stokes": navier_stokes,
    "biharmonic": biharmonic,
}
if xphoto is not None:
    FILLINGS |= {"fsr": frequency_selective, "shift-map": shift_map}


@dataclass(frozen=True)
class Removal:
    """A scene, one of its nouns, and the truth without it.

    Attributes:
        image, truth: (H, W, 3) uint8.
        mask: (H, W) bool, the object.
        region: (H, W) bool, what the figures are taken over.
    """

    kind: str
    noun: str
    image: np.ndarray
    truth: np.ndarray
    mask: np.ndarray
    region: np.ndarray


def cast_shadow(
    rng: np.random.Generator, image: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The image with a soft shadow beside the object, and where it is darker for it."""
    reach = 0.02 * max(mask.shape)
    shift = np.array([[1, 0, rng.uniform(-2, 2) * reach], [0, 1, rng.uniform(0.3, 1) * reach]])
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), float(reach * rng.uniform(0.2, 0.5)))
    soft = cv2.warpAffine(soft, shift, (mask.shape[1], mask.shape[0])) * rng.uniform(0.2, 0.5)
    soft[mask] = 0
    shaded = np.rint(image * (1 - soft[..., None])).astype(np.uint8)
    return shaded, soft > 0.02


def make_scenes(kinds: dict[str, Any], photos: Sequence[np.ndarray], count: int) -> list[Removal]:
    """`count` scenes of each kind of object."""
    made = []
    for number, (kind, sprites) in enumerate(kinds.items()):
        for i in range(count):
            rng = np.random.default_rng([31, number, i])
            scene = compose(rng, sprites, SIZE, photos, SCENES)
            if not scene.nouns:
                continue
            image, mask = scene.image, scene.masks[-1]
            touched = mask
            if i % 2:
                image, shadow = cast_shadow(rng, image, mask)
                touched = mask | shadow
            made.append(Removal(kind, scene.nouns[-1], image, scene.without[-1], mask,
                                grow_region(touched, MARGIN)))  # fmt: skip
    return made


def measure(
    scenes: Sequence[Removal], found: Sequence[np.ndarray], fillings: dict[str, Callable[..., Any]],
    growths: Sequence[float], asked: Callable[[np.ndarray, str], bool] | None,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Figures by "FILLING GROWTH MASK"; `asked` says whether a noun is still found."""
    rows: dict[str, list[dict[str, float]]] = {}
    for scene, mask in zip(tqdm(scenes, desc="fill", leave=False), found, strict=True):
        regions = {"found": mask, "true": scene.mask}
        for name, fill in fillings.items():
            for growth in growths:
                for whose, region in regions.items():
                    if not region.any():
                        continue
                    grown = grow_region(region, growth)
                    begun = time.perf_counter()
                    done = fill(scene.image, grown)
                    row = {"seconds": time.perf_counter() - begun}
                    for metric in (background_psnr, background_ssim):
                        value = metric(done, scene.truth, ~scene.region)
                        assert value is not None
                        row[metric.__name__.removeprefix("background_")] = value
                    if asked is not None and whose == "found":
                        row["gone"] = 1 - asked(done, scene.noun)
                    rows.setdefault(f"{name} {growth:g} {whose}", []).append(row)
    return {
        key: {"scenes": len(each)} | {k: float(np.mean([r[k] for r in each])) for k in each[0]}
        for key, each in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--packages", type=Path, required=True, help="node_modules")
    parser.add_argument("--cutouts", type=Path, required=True, help="FOLDER/NOUN/*.png")
    parser.add_argument("--backgrounds", type=Path, required=True, help="photographs")
    parser.add_argument("--count", type=int, default=100, help="scenes of each kind (default: 100)")
    parser.add_argument("--fill", action="append", help="only this filling; repeatable")
    parser.add_argument("--grow", type=float, action="append", help="only this growth; repeatable")
    parser.add_argument("--ask", action="store_true", help="ask for the object afterwards")
    parser.add_argument("--page", type=Path, help="24 pictures of data/drawn before and after")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    _, photos = split_backgrounds(load_backgrounds(args.backgrounds))
    _, held = split_cutouts(load_sprites([args.cutouts], side=240))
    with tempfile.TemporaryDirectory() as folder:
        build_drawings(args.packages, Path(folder), ["openmoji"], side=240)
        drawn = load_sprites([Path(folder) / "openmoji"], side=240)
    segmenter = Segmenter("mini")
    known = set(segmenter.model.nouns or ())
    kinds = {kind: {n: s for n, s in sprites.items() if n in known}
             for kind, sprites in (("drawn", drawn), ("photographed", held))}  # fmt: skip
    scenes = make_scenes(kinds, photos, args.count)
    found = [
        segmenter.set_image(scene.image).query(f"the {scene.noun}").mask
        for scene in tqdm(scenes, desc="find", leave=False)
    ]

    def asked(image: np.ndarray, noun: str) -> bool:
        return bool(segmenter.set_image(image).query(f"the {noun}").mask.any())

    fillings = {name: FILLINGS[name] for name in args.fill or FILLINGS}
    growths = args.grow or [0.0, 0.01, 0.015, 0.02, 0.03, 0.04]
    figures = measure(scenes, found, fillings, growths, asked if args.ask else None)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    hit = [mask.any() for mask in found]
    print(f"{len(scenes)} scenes, found in {sum(hit)}")
    for key, row in figures.items():
        print(f"{key:34}" + "  ".join(f"{name} {value:.3f}" for name, value in row.items()))
    if args.page:
        draw_page(segmenter, args.page)


def draw_page(segmenter: Segmenter, file: Path) -> None:
    """24 pictures of `data/drawn/val` before beside after, evenly through those found."""
    pairs = []
    drawn = read_coco(DRAWN / "annotations" / "instances_val.json")
    for image in tqdm(drawn.images, desc="page", leave=False):
        noun = drawn.categories[image.annotations[0].category_id]
        done = edit(DRAWN / "val" / image.file_name, f"the {noun}", model=segmenter)
        if done.mask.any():
            assert done.source is not None
            pair = np.concatenate([done.source, done.image], axis=1)
            scale = min(320 / pair.shape[1], 120 / pair.shape[0])
            small = cv2.resize(pair, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            space = ((0, 120 - small.shape[0]), (0, 320 - small.shape[1]), (0, 0))
            pairs.append(np.pad(small, space, constant_values=255))
    shown = [pairs[round(k)] for k in np.linspace(0, len(pairs) - 1, 24)]
    rows = [np.concatenate(shown[i : i + 3], axis=1) for i in range(0, 24, 3)]
    cv2.imwrite(str(file), np.concatenate(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])


if __name__ == "__main__":
    main()
