"""How an edit is measured: what happened outside the region, inside it, and whether it took."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from textseg.errors import InputError, ModelError

if TYPE_CHECKING:
    import torch

    from textseg.backbone.base import Backbone

MAX_PSNR = 100.0
"""What identical pixels count as, so that means stay finite."""


def background_psnr(image: np.ndarray, edited: np.ndarray, region: np.ndarray) -> float | None:
    """Peak signal-to-noise ratio in dB over the pixels outside the region, at most `MAX_PSNR`.

    Args:
        image, edited: (H, W, 3) uint8.
        region: (H, W) bool.

    Returns:
        None where nothing lies outside.
    """
    if region.all():
        return None
    difference = image[~region].astype(np.float64) - edited[~region]
    error = float(np.mean(difference**2))
    return MAX_PSNR if error == 0 else min(MAX_PSNR, 10 * math.log10(255**2 / error))


def background_ssim(image: np.ndarray, edited: np.ndarray, region: np.ndarray) -> float | None:
    """Structural similarity (Wang et al. 2004), averaged over the pixels outside the region.

    The map is scikit-image's with its 7-pixel window; windows that reach into the region count by
    their centre.

    Returns:
        in [-1, 1]; None where nothing lies outside or the image is below 7 pixels.
    """
    from skimage.metrics import structural_similarity

    if region.all() or min(image.shape[:2]) < 7:
        return None
    compared: Any = structural_similarity(image, edited, channel_axis=2, data_range=255, full=True)
    return float(compared[1][~region].mean())


def change_inside(image: np.ndarray, edited: np.ndarray, region: np.ndarray) -> float | None:
    """Mean absolute difference inside the region, in [0, 1]; None where the region is empty."""
    if not region.any():
        return None
    difference = image[region].astype(np.float64) - edited[region]
    return float(np.abs(difference).mean() / 255)


def evidence_inside(
    backbone: Backbone,
    image: np.ndarray,
    region: np.ndarray,
    source: str,
    target: str,
    *,
    draws: int = 4,
    seed: int = 0,
) -> dict[str, float]:
    """Whether the model itself sees the target in the region rather than the source.

    margin = mean over the region's cells, channels and draws of
    (eps - eps(source))^2 - (eps - eps(target))^2: by how much the target prompt explains the noise
    in the region better (a diffusion classifier, Li et al. 2023, arXiv 2303.16203, inside a mask).

    Args:
        image: (H, W, 3) uint8, the edited image.
        region: (H, W) bool.
        source, target: prompts.
        draws: at the first noise level of the model's options; costs 2 * draws evaluations, and
            draws more for the empty prompt, if neither prompt is.

    Returns:
        margin; took: 1 if it is above zero, else 0; presence: level of a one-sided t-test that the
        target prompt explains the region better than the empty prompt.
    """
    import torch

    from textseg.contrast import evidence
    from textseg.editing import latent_mask
    from textseg.image import image_identity, resize_image
    from textseg.predictions import draw_noise
    from textseg.presence import confidence_above_zero

    fitted = resize_image(image, backbone.fit_size(*image.shape[:2]))
    latents = backbone.encode(fitted)
    cells = latent_mask(region, (latents.shape[-2], latents.shape[-1])) > 0
    t = backbone.timestep(backbone.contrast_defaults.strength[0])
    identity = image_identity(image)
    noise = torch.stack([draw_noise(latents.shape, seed, identity, t, i) for i in range(draws)])
    noise = noise.to(latents)
    noisy = backbone.add_noise(latents, noise, t)
    prompts = list(dict.fromkeys((source, target, "")))
    with torch.no_grad():
        eps = {
            p: backbone.predict(noisy, t, e)
            for p, e in zip(prompts, backbone.embed(prompts), strict=True)
        }
    over_source = evidence(noise, eps[target], eps[source]).cpu().numpy()[:, cells]
    over_nothing = evidence(noise, eps[target], eps[""]).cpu().numpy()[:, cells]
    margin = float(over_source.mean())
    return {
        "margin": margin,
        "took": float(margin > 0),
        "presence": confidence_above_zero(over_nothing.mean(axis=1, dtype=np.float64)),
    }


class Clip:
    """CLIP score: cosine between an image and a prompt, times 100 (Hessel et al. 2021,
    arXiv 2104.08718, without its rescaling)."""

    def __init__(self, folder: Path) -> None:
        """Load a CLIP model from a folder in transformers' format; nothing is downloaded."""
        from transformers import CLIPModel, CLIPProcessor

        try:
            self.model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
            self.processor: Any = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder} holds no CLIP model: {error}") from error

    def score(self, image: np.ndarray, prompt: str) -> float:
        """(H, W, 3) uint8 and a prompt to -100 ... 100."""
        import torch
        from PIL import Image

        inputs = self.processor(
            text=[prompt], images=Image.fromarray(image), truncation=True, return_tensors="pt"
        )
        with torch.no_grad():
            out = self.model(**inputs)
        return float(100 * torch.cosine_similarity(out.image_embeds, out.text_embeds)[0])


class Scripted:
    """A TorchScript network from a file: LPIPS or Inception features.

    The files of StyleGAN3's metrics fit: "vgg16.pt" for LPIPS (Zhang et al. 2018,
    arXiv 1801.03924: the distance is the squared distance of its features) and
    "inception-2015-12-05.pt" for FID (Heusel et al. 2017, arXiv 1706.08500).
    """

    def __init__(self, path: Path, **flags: bool) -> None:
        """
        Args:
            flags: keyword arguments of the network, e.g. return_lpips=True.
        """
        import torch

        if not path.is_file():
            raise InputError(f"weights must be a TorchScript file, got {path}")
        try:
            with warnings.catch_warnings():
                # Old files are what this reads, and TorchScript is all they come in.
                warnings.filterwarnings("ignore", ".*torch.jit.*")
                self.network: Any = torch.jit.load(str(path), map_location="cpu").eval()
        except RuntimeError as error:
            raise ModelError(f"{path} is no TorchScript file: {error}") from error
        self.flags = flags

    def features(self, image: np.ndarray) -> torch.Tensor:
        """(H, W, 3) uint8 to (D,) float64."""
        import torch

        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        with torch.no_grad():
            return self.network(pixels, **self.flags)[0].flatten().double()


def background_lpips(
    network: Scripted, image: np.ndarray, edited: np.ndarray, region: np.ndarray
) -> float:
    """LPIPS between the image and the edit with the image's own pixels in the region."""
    outside = np.where(region[..., None], image, edited)
    return float((network.features(image) - network.features(outside)).square().sum())


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Fréchet distance between the Gaussians that fit two sets of features.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), with unbiased covariances.

    Args:
        first, second: (N, D) and (M, D), at least two rows each.
    """
    if min(len(first), len(second)) < 2:
        raise InputError(f"FID must have at least 2 images a side, got {len(first)}, {len(second)}")
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    c1, c2 = np.atleast_2d(np.cov(first.T)), np.atleast_2d(np.cov(second.T))
    # The eigenvalues of C1 C2 are those of a positive semi-definite matrix; noise may tip them.
    roots = np.sqrt(np.linalg.eigvals(c1 @ c2).real.clip(0)).sum()
    mean = np.square(first.mean(0) - second.mean(0)).sum()
    return float(mean + np.trace(c1) + np.trace(c2) - 2 * roots)
