"""An autoencoder whose latents say what is where: pixels and features of a classifier, together.

The latents of `mini`. Diffusing features of a pretrained network along with an image's own latents
makes a generative model learn faster what things are (Kouzelis et al. 2025, arXiv 2504.16064).
diffusers loads a folder with such an autoencoder once this module is imported.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import (
    Decoder,
    DecoderOutput,
    DiagonalGaussianDistribution,
)
from diffusers.models.modeling_outputs import AutoencoderKLOutput

_KERNELS = (3, 3, 5, 3, 5, 5, 3)
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_EXPANSION = 6
# The last stage that makes the picture smaller; the sixth is dilated instead.
_DILATED = 5


class _Convolution(torch.nn.Conv2d):
    """A convolution with "same" padding as TensorFlow has it: of an odd sum, more at the end."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        pads: list[int] = []
        for size, kernel, stride, dilation in zip(
            (input.shape[3], input.shape[2]), self.kernel_size[::-1], self.stride[::-1],
            self.dilation[::-1], strict=True,
        ):  # fmt: skip
            total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
            pads += [total // 2, total - total // 2]
        if pads[0] == pads[1] and pads[2] == pads[3]:
            return F.conv2d(
                input, self.weight, self.bias, self.stride, (pads[2], pads[0]), self.dilation,
                self.groups,
            )  # fmt: skip
        return super().forward(F.pad(input, pads))


class _InvertedResidual(torch.nn.Module):
    def __init__(self, wide: int, out: int, kernel: int, stride: int, expand: int, dilation: int):
        super().__init__()
        hidden = wide * expand
        self.expand = _Convolution(wide, hidden, 1) if expand > 1 else None
        self.depthwise = _Convolution(
            hidden, hidden, kernel, stride, groups=hidden, dilation=dilation
        )
        self.project = _Convolution(hidden, out, 1)
        self.residual = stride == 1 and wide == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class ClassifierFeatures(torch.nn.Module):
    """The convolutions of an EfficientNet-Lite, batch norms folded in, with 16 pixels to a cell.

    The stage that would halve the resolution a fifth time is dilated instead (Yu and Koltun 2016,
    arXiv 1511.07122), so that a cell sees the same surroundings as in training.

    Source: Tan and Le 2019, arXiv 1905.11946; EfficientNet-Lite is theirs without squeeze and
    excitation, with ReLU6 for swish.

    Args:
        widths: channels of the stem, of the seven stages and of the head.
        repeats: blocks of each stage.
    """

    def __init__(self, widths: tuple[int, ...], repeats: tuple[int, ...]) -> None:
        super().__init__()
        self.widths: tuple[int, ...] = widths
        self.repeats: tuple[int, ...] = repeats
        self.stem: torch.nn.Module = _Convolution(3, widths[0], 3, 2)
        blocks: list[torch.nn.Module] = []
        for stage, (out, count) in enumerate(zip(widths[1:-1], repeats, strict=True)):
            for i in range(count):
                wide = widths[stage] if i == 0 else out
                stride = _STRIDES[stage] if i == 0 and stage != _DILATED else 1
                # The first block of the dilated stage still sees the cells it was trained on.
                late = stage > _DILATED or (stage == _DILATED and i > 0)
                blocks.append(
                    _InvertedResidual(
                        wide, out, _KERNELS[stage], stride, 1 if stage == 0 else _EXPANSION,
                        2 if late else 1,
                    )
                )  # fmt: skip
        self.blocks: torch.nn.ModuleList = torch.nn.ModuleList(blocks)
        self.head: torch.nn.Module = _Convolution(widths[-2], widths[-1], 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] to features (B, widths[-1], H / 16, W / 16), in [0, 6]."""
        x = F.relu6(self.stem(images))
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.head(x))


class SemanticAutoencoder(ModelMixin, ConfigMixin):
    """Pixels of 8 x 8 blocks, analysed linearly, beside what a classifier sees there.

    The first `pixel_channels` of the latents are linear in the block's pixels, and the decoder
    looks at no others; the rest are linear in the features of `ClassifierFeatures`, interpolated to
    the same cells. Encoding is deterministic: the posterior's variance is nil.

    Args:
        latent_channels: of both kinds together.
        pixel_channels: of those the decoder looks at.
        block_out_channels: one width for each halving and one more, as in `AutoencoderKL`; the
            decoder has the last three, and doubles the picture once by interpolation.
        norm_num_groups: groups of the decoder's norms.
        feature_widths, feature_repeats: see `ClassifierFeatures`.
        sample_size: pixels of a side in training.
        scaling_factor: always 1.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 80,
        pixel_channels: int = 16,
        block_out_channels: tuple[int, ...] = (32, 32, 48, 128),
        norm_num_groups: int = 16,
        feature_widths: tuple[int, ...] = (32, 16, 24, 40, 80, 112, 192, 320, 1280),
        feature_repeats: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1),
        sample_size: int = 192,
        scaling_factor: float = 1.0,
    ) -> None:
        super().__init__()
        factor = 2 ** (len(block_out_channels) - 1)
        self.analysis: torch.nn.Conv2d = torch.nn.Conv2d(3, pixel_channels, factor, factor)
        self.features: ClassifierFeatures = ClassifierFeatures(
            tuple(feature_widths), tuple(feature_repeats)
        )
        self.projection: torch.nn.Conv2d = torch.nn.Conv2d(
            feature_widths[-1], latent_channels - pixel_channels, 1
        )
        self.decoder: torch.nn.Module = Decoder(
            in_channels=pixel_channels,
            up_block_types=("UpDecoderBlock2D",) * (len(block_out_channels) - 1),
            block_out_channels=tuple(block_out_channels[1:]),
            layers_per_block=1,
            norm_num_groups=norm_num_groups,
            mid_block_add_attention=False,
        )

    def encode(
        self, x: torch.Tensor, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """(B, 3, H, W) in [-1, 1], sides multiples of 8, to a distribution of latents
        (B, latent_channels, H / 8, W / 8)."""
        latents = torch.cat([self.analysis(x), self.semantics(x)], 1)
        certain = torch.full_like(latents, -30.0)
        posterior = DiagonalGaussianDistribution(torch.cat([latents, certain], 1))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def semantics(self, x: torch.Tensor) -> torch.Tensor:
        """The latents that come from the classifier: (B, 3, H, W) to (B, C, H / 8, W / 8)."""
        seen = self.projection(self.features(x))
        factor = self.analysis.kernel_size[0]
        size = x.shape[2] // factor, x.shape[3] // factor
        return F.interpolate(seen, size, mode="bilinear", align_corners=False)

    def decode(
        self, z: torch.Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """Latents (B, latent_channels, h, w) to images (B, 3, 8 h, 8 w) in about [-1, 1].

        Args:
            generator: not used: decoding is deterministic.
        """
        half = self.decoder(z[:, : self.config["pixel_channels"]])
        sample = F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(self, sample: torch.Tensor) -> DecoderOutput | tuple[torch.Tensor]:
        """Images through the latents and back."""
        encoded = self.encode(sample)
        assert isinstance(encoded, AutoencoderKLOutput)
        return self.decode(encoded.latent_dist.mode())
