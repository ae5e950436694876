"""Weights of tiny pipelines under the names that the original single-file checkpoints use.

Written from the original code bases: CompVis and Stability AI's generative-models for the UNets,
open_clip; `transformer_layouts` for transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from transformer_layouts import TRANSFORMERS, Weights


def checkpoint(family: str, pipe: Any) -> Weights:
    """All of a pipeline's weights in one file, as the model's publishers give them out."""
    out = _prefixed("first_stage_model.", autoencoder(pipe.vae))
    if family in ("latent-unet", "sd2", "sdxl"):
        out |= _prefixed("model.diffusion_model.", unet(pipe.unet))
    if family == "latent-unet":
        out |= _prefixed("cond_stage_model.transformer.", clip(pipe.text_encoder))
    elif family == "sd2":
        out |= _prefixed("cond_stage_model.model.", open_clip(pipe.text_encoder))
    elif family == "sdxl":
        out |= _prefixed("conditioner.embedders.0.transformer.", clip(pipe.text_encoder))
        out |= _prefixed("conditioner.embedders.1.model.", open_clip(pipe.text_encoder_2))
    elif family.startswith("sd3"):
        eye = torch.eye(len(pipe.text_encoder.text_projection.weight))
        assert torch.equal(pipe.text_encoder.text_projection.weight, eye), "as in Stability's"
        out |= _prefixed("model.diffusion_model.", TRANSFORMERS["sd3"](pipe.transformer))
        out |= _prefixed("text_encoders.clip_l.transformer.", clip(pipe.text_encoder))
        out |= _prefixed("text_encoders.clip_g.transformer.", clip(pipe.text_encoder_2))
        if pipe.text_encoder_3 is not None:
            out |= _t5(pipe.text_encoder_3, twice=False)
    else:
        kind = family.removesuffix("-schnell")
        out |= _prefixed("model.diffusion_model.", TRANSFORMERS[kind](pipe.transformer))
        if kind == "flux":
            out |= _prefixed("text_encoders.clip_l.transformer.", clip(pipe.text_encoder))
            out |= _t5(pipe.text_encoder_2, twice=True)
        elif kind == "chroma":
            out |= _t5(pipe.text_encoder, twice=True)
    return {name: value.clone().contiguous() for name, value in out.items()}


def _prefixed(prefix: str, weights: Mapping[str, torch.Tensor]) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def _t5(encoder: Any, twice: bool) -> Weights:
    """Files with the table of words under both of its names are about, and files with one."""
    state = encoder.state_dict() | {"encoder.embed_tokens.weight": encoder.shared.weight}
    if not twice:
        del state["encoder.embed_tokens.weight"]
    return _prefixed("text_encoders.t5xxl.transformer.", state)


def clip(encoder: Any) -> Weights:
    return {
        name if name.startswith("text_") else f"text_model.{name}": value
        for name, value in encoder.state_dict().items()
    }


def open_clip(encoder: Any) -> Weights:
    """open_clip keeps query, key and value in one matrix and its projection transposed."""
    state, out = clip(encoder), {}
    inside = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
              "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}  # fmt: skip
    for name, value in state.items():
        if found := re.match(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$", name):
            layer, part, kind = found.groups()
            if part == "self_attn.q_proj":
                thirds = [state[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
                out[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(thirds)
            elif part in inside:
                out[f"transformer.resblocks.{layer}.{inside[part]}.{kind}"] = value
    out["token_embedding.weight"] = state["text_model.embeddings.token_embedding.weight"]
    out["positional_embedding"] = state["text_model.embeddings.position_embedding.weight"]
    for kind in ("weight", "bias"):
        out[f"ln_final.{kind}"] = state[f"text_model.final_layer_norm.{kind}"]
    if "text_projection.weight" in state:
        out["text_projection"] = state["text_projection.weight"].T
    return out


def unet(network: Any) -> Weights:
    """The two levels of the tiny UNets."""
    top = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
           "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
           "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0",
           "conv_out": "out.2"}  # fmt: skip
    blocks = {
        "down_blocks.0.resnets.0.": "input_blocks.1.0.",
        "down_blocks.0.attentions.0.": "input_blocks.1.1.",
        "down_blocks.0.downsamplers.0.conv.": "input_blocks.2.0.op.",
        "down_blocks.1.resnets.0.": "input_blocks.3.0.",
        "mid_block.resnets.0.": "middle_block.0.", "mid_block.attentions.0.": "middle_block.1.",
        "mid_block.resnets.1.": "middle_block.2.",
        "up_blocks.0.resnets.0.": "output_blocks.0.0.",
        "up_blocks.0.resnets.1.": "output_blocks.1.0.",
        "up_blocks.0.upsamplers.0.": "output_blocks.1.1.",
        "up_blocks.1.resnets.0.": "output_blocks.2.0.",
        "up_blocks.1.attentions.0.": "output_blocks.2.1.",
        "up_blocks.1.resnets.1.": "output_blocks.3.0.",
        "up_blocks.1.attentions.1.": "output_blocks.3.1.",
    }  # fmt: skip
    inside = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0",
              "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1",
              "conv_shortcut": "skip_connection"}  # fmt: skip
    out = {}
    for name, value in network.state_dict().items():
        new = name
        for ours, theirs in top.items():
            if name.startswith(ours + "."):
                new = theirs + name[len(ours) :]
        for ours, theirs in blocks.items():
            if name.startswith(ours):
                rest = name[len(ours) :]
                if ".resnets." in ours:
                    head, dot, tail = rest.partition(".")
                    rest = inside[head] + dot + tail
                new = theirs + rest
        out[new] = value
    return out


def autoencoder(network: Any) -> Weights:
    levels, out = len(network.config.block_out_channels), {}
    for name, value in network.state_dict().items():
        new = name
        for i in range(levels):
            new = new.replace(f"down_blocks.{i}.resnets.", f"down.{i}.block.")
            new = new.replace(f"down_blocks.{i}.downsamplers.0.", f"down.{i}.downsample.")
            new = new.replace(f"up_blocks.{i}.resnets.", f"up.{levels - 1 - i}.block.")
            new = new.replace(f"up_blocks.{i}.upsamplers.0.", f"up.{levels - 1 - i}.upsample.")
        new = new.replace("mid_block.resnets.0.", "mid.block_1.")
        new = new.replace("mid_block.resnets.1.", "mid.block_2.")
        new = new.replace("mid_block.attentions.0.", "mid.attn_1.")
        new = new.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        for ours, theirs in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"),
                             ("to_out.0", "proj_out")):  # fmt: skip
            if "attn_1" in new:
                new = new.replace(f"attn_1.{ours}", f"attn_1.{theirs}")
        out[new] = value
    return out
