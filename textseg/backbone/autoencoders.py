"""What an autoencoder's latents are to the network: one still image in, numbers of unit size out.

Autoencoders differ in how they say the size of their latents: one factor and one shift (Stable
Diffusion, Flux.1), a mean and a standard deviation per channel (Qwen-Image, Wan), the running
statistics of a batch norm over blocks of 2 x 2 cells (Flux.2), or not at all (Kandinsky 3, whose
codebook is left out). Those of video take one frame, those with a channel for opacity (Qwen-Image
2.1) a picture that is opaque.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle


def channels_of(vae: Any) -> int:
    """Channels of its latents."""
    return int(vae.config.get("latent_channels") or vae.config["z_dim"])


def factor_of(vae: Any) -> int:
    """Pixels of an image per cell of its latents, along a side."""
    config = vae.config
    if config.get("spatial_compression_ratio"):
        return int(config["spatial_compression_ratio"])
    if _of_video(vae):
        return 2 ** len(config["temperal_downsample"]) * _block(vae)
    return 2 ** (len(config.get("encoder_block_out_channels") or config["block_out_channels"]) - 1)


def encode(vae: Any, pixels: torch.Tensor, norm_eps: float | None = None) -> torch.Tensor:
    """Pixels (N, 3, H, W) in [-1, 1] to latents (N, C, h, w) float32: the posterior's mean, in the
    size the network was trained on.

    Args:
        norm_eps: added to the variance of a batch norm over latents; None: what the autoencoder's
            configuration says.
    """
    opaque = (vae.config.get("in_channels") or 3) // _block(vae) ** 2 - 3
    pixels = pad(pixels, (0, 0, 0, 0, 0, opaque), value=1.0)
    encoded = vae.encode(_framed(vae, pixels.to(vae.dtype)))
    if "latent_dist" in encoded:
        latents = encoded.latent_dist.mean
    else:
        latents = encoded.latents if "latents" in encoded else encoded.latent
    mean, deviation = _size(vae, latents.device, norm_eps)
    if hasattr(vae, "bn"):
        return pixel_shuffle((pixel_unshuffle(latents.float(), 2) - mean) / deviation, 2)
    return (_still(latents.float()) - mean) / deviation


def decode(vae: Any, latents: torch.Tensor, norm_eps: float | None = None) -> torch.Tensor:
    """Undo `encode`: latents (N, C, h, w) to pixels (N, 3, H, W) float32, about in [-1, 1]."""
    mean, deviation = _size(vae, latents.device, norm_eps)
    if hasattr(vae, "bn"):
        latents = pixel_shuffle(pixel_unshuffle(latents, 2) * deviation + mean, 2)
    else:
        latents = latents * deviation + mean
    options = {"force_not_quantize": True} if _has_codebook(vae) else {}
    pixels = vae.decode(_framed(vae, latents.to(vae.dtype)), **options).sample.float()
    return _still(pixels)[:, :3]


def _size(
    vae: Any, device: torch.device, norm_eps: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of raw latents, each broadcasting against (N, C, h, w)."""
    config = vae.config
    if hasattr(vae, "bn"):
        mean, variance = vae.bn.running_mean, vae.bn.running_var
        deviation = torch.sqrt(variance + (norm_eps or config["batch_norm_eps"]))
    elif _has_codebook(vae):  # its pipelines leave out the factor in its configuration
        mean, deviation = torch.zeros(1), torch.ones(1)
    else:
        mean = torch.tensor(config.get("latents_mean") or [config.get("shift_factor") or 0.0])
        deviation = torch.tensor(config.get("latents_std") or [1.0])
        deviation = deviation / (config.get("scaling_factor") or 1.0)
    return mean.float().to(device).view(-1, 1, 1), deviation.float().to(device).view(-1, 1, 1)


def _has_codebook(vae: Any) -> bool:
    return vae.config.get("num_vq_embeddings") is not None


def _of_video(vae: Any) -> bool:
    return vae.config.get("temperal_downsample") is not None


def _block(vae: Any) -> int:
    """Pixels along a side of the blocks whose channels an autoencoder of video puts together."""
    return (_of_video(vae) and vae.config.get("patch_size")) or 1


def _framed(vae: Any, images: torch.Tensor) -> torch.Tensor:
    return images[:, :, None] if _of_video(vae) else images


def _still(images: torch.Tensor) -> torch.Tensor:
    return images[:, :, 0] if images.ndim == 5 else images
