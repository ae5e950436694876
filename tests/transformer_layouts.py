"""Weights of tiny transformers under the names of the original code bases.

Written from sd3-ref (`mmdit.py`), Black Forest Labs' flux and flux2 (`model.py`, `layers.py`),
Chroma's `distilled_guidance_layer` on the former, AuraFlow (`mmdit.py` of minRF), Lumina-Image 2
(`models/model.py`), Sana (`sana_multi_scale.py`), Krea 2 and the Z-Image and Qwen-Image
2.1 files of ComfyUI.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

Weights = dict[str, torch.Tensor]


def mmdit(network: Any) -> Weights:
    """sd3-ref's MMDiT; the last modulation of text and image is (shift, scale) there."""
    top = {
        "pos_embed.proj": "x_embedder.proj", "context_embedder": "context_embedder",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "proj_out": "final_layer.linear", "norm_out.linear": "final_layer.adaLN_modulation.1",
    }  # fmt: skip
    block = {
        "norm1.linear": "x_block.adaLN_modulation.1",
        "norm1_context.linear": "context_block.adaLN_modulation.1",
        "attn.to_out.0": "x_block.attn.proj", "attn.to_add_out": "context_block.attn.proj",
        "attn.norm_q": "x_block.attn.ln_q", "attn.norm_k": "x_block.attn.ln_k",
        "attn.norm_added_q": "context_block.attn.ln_q",
        "attn.norm_added_k": "context_block.attn.ln_k",
        "attn2.to_out.0": "x_block.attn2.proj", "attn2.norm_q": "x_block.attn2.ln_q",
        "attn2.norm_k": "x_block.attn2.ln_k",
        "ff.net.0.proj": "x_block.mlp.fc1", "ff.net.2": "x_block.mlp.fc2",
        "ff_context.net.0.proj": "context_block.mlp.fc1",
        "ff_context.net.2": "context_block.mlp.fc2",
    }  # fmt: skip
    joined = {
        "attn.to_{}": "x_block.attn.qkv", "attn.add_{}_proj": "context_block.attn.qkv",
        "attn2.to_{}": "x_block.attn2.qkv",
    }  # fmt: skip
    last = len(network.transformer_blocks) - 1
    swapped = ("norm_out.linear", f"transformer_blocks.{last}.norm1_context.linear")
    state = network.state_dict()
    out = _renamed(state, top, {"transformer_blocks": ("joint_blocks", block, joined)}, swapped)
    return out | {"pos_embed": state["pos_embed.pos_embed"]}


def flux(network: Any) -> Weights:
    """Black Forest Labs' Flux; the last modulation is (shift, scale) there, and the single blocks'
    query, key, value and first feed-forward layer are one matrix."""
    top = {
        "x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
    }  # fmt: skip
    for ours, theirs in (
        ("timestep", "time_in"),
        ("text", "vector_in"),
        ("guidance", "guidance_in"),
    ):
        top[f"time_text_embed.{ours}_embedder.linear_1"] = f"{theirs}.in_layer"
        top[f"time_text_embed.{ours}_embedder.linear_2"] = f"{theirs}.out_layer"
    double = {
        "norm1.linear": "img_mod.lin", "norm1_context.linear": "txt_mod.lin",
        "attn.norm_q": "img_attn.norm.query_norm", "attn.norm_k": "img_attn.norm.key_norm",
        "attn.norm_added_q": "txt_attn.norm.query_norm",
        "attn.norm_added_k": "txt_attn.norm.key_norm",
        "attn.to_out.0": "img_attn.proj", "attn.to_add_out": "txt_attn.proj",
        "ff.net.0.proj": "img_mlp.0", "ff.net.2": "img_mlp.2",
        "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2",
    }  # fmt: skip
    single = {
        "norm.linear": "modulation.lin", "proj_out": "linear2",
        "attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm",
    }  # fmt: skip
    blocks = {
        "transformer_blocks": (
            "double_blocks", double,
            {"attn.to_{}": "img_attn.qkv", "attn.add_{}_proj": "txt_attn.qkv"},
        ),
        "single_transformer_blocks": ("single_blocks", single, {"attn.to_{}": "linear1"}),
    }  # fmt: skip
    state = network.state_dict()
    out = _renamed(state, top, blocks, ("norm_out.linear",))
    for i in range(len(network.single_transformer_blocks)):
        for kind in ("weight", "bias"):
            mlp = state[f"single_transformer_blocks.{i}.proj_mlp.{kind}"]
            name = f"single_blocks.{i}.linear1.{kind}"
            out[name] = torch.cat([out[name], mlp])
    return {re.sub(r"(query|key)_norm\.weight$", r"\1_norm.scale", k): v for k, v in out.items()}


def _renamed(
    state: Mapping[str, torch.Tensor],
    top: Mapping[str, str],
    blocks: Mapping[str, tuple[str, Mapping[str, str], Mapping[str, str]]],
    swapped: tuple[str, ...],
) -> Weights:
    """Layers by name, a list of blocks' layers by their name in the block; query, key and value
    joined; the halves of modulations exchanged."""
    out: Weights = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        if layer in swapped:
            value = torch.cat(list(value.chunk(2))[::-1])
        if layer in top:
            out[f"{top[layer]}.{kind}"] = value
        if found := re.match(r"(\w+)\.(\d+)\.(.+)$", layer):
            listed, i, part = found.groups()
            theirs, names, joined = blocks.get(listed, ("", {}, {}))
            if part in names:
                out[f"{theirs}.{i}.{names[part]}.{kind}"] = value
            for ours, new in joined.items():
                if part == ours.format("q"):
                    thirds = [state[f"{listed}.{i}.{ours.format(x)}.{kind}"] for x in "qkv"]
                    out[f"{theirs}.{i}.{new}.{kind}"] = torch.cat(thirds)
    return out


def chroma(network: Any) -> Weights:
    """Flux with all modulation from one small network, told the layers by number."""
    out = flux(network)
    for name, value in network.state_dict().items():
        if name.startswith("distilled_guidance_layer."):
            name = name.replace("linear_1", "in_layer").replace("linear_2", "out_layer")
            out[re.sub(r"(norms\.\d+)\.weight", r"\1.scale", name)] = value
    return out


def flux2(network: Any) -> Weights:
    rules = {
        r"^time_guidance_embed\.timestep_embedder\.linear_1": "time_in.in_layer",
        r"^time_guidance_embed\.timestep_embedder\.linear_2": "time_in.out_layer",
        r"^time_guidance_embed\.guidance_embedder\.linear_1": "guidance_in.in_layer",
        r"^time_guidance_embed\.guidance_embedder\.linear_2": "guidance_in.out_layer",
        r"^((?:double|single)_stream_modulation\w*)\.linear": r"\1.lin",
        r"^x_embedder": "img_in", r"^context_embedder": "txt_in",
        r"^norm_out\.linear": "final_layer.adaLN_modulation.1",
        r"^proj_out": "final_layer.linear",
        r"^single_transformer_blocks\.(\d+)\.attn\.": r"single_blocks.\1.",
        r"to_qkv_mlp_proj": "linear1",
        r"^(single_blocks\.\d+)\.to_out": r"\1.linear2",
        r"^(single_blocks\.\d+)\.norm_q\.weight": r"\1.norm.query_norm.scale",
        r"^(single_blocks\.\d+)\.norm_k\.weight": r"\1.norm.key_norm.scale",
        r"^transformer_blocks": "double_blocks",
        r"attn\.norm_q\.weight": "img_attn.norm.query_norm.scale",
        r"attn\.norm_k\.weight": "img_attn.norm.key_norm.scale",
        r"attn\.norm_added_q\.weight": "txt_attn.norm.query_norm.scale",
        r"attn\.norm_added_k\.weight": "txt_attn.norm.key_norm.scale",
        r"attn\.to_out\.0": "img_attn.proj", r"attn\.to_add_out": "txt_attn.proj",
        r"ff\.linear_in": "img_mlp.0", r"ff\.linear_out": "img_mlp.2",
        r"ff_context\.linear_in": "txt_mlp.0", r"ff_context\.linear_out": "txt_mlp.2",
    }  # fmt: skip
    joined = {
        r"attn.to_{}": ("qkv", "img_attn.qkv"), r"attn.add_{}_proj": ("qkv", "txt_attn.qkv")
    }  # fmt: skip
    return _by_rules(network, rules, joined, swapped=("norm_out.linear",))


def aura_flow(network: Any) -> Weights:
    """minRF's MMDiT: 1 is the text's or the joint sequence's half of a layer, 2 the image's."""
    rules = {
        r"^pos_embed\.pos_embed": "positional_encoding", r"^pos_embed\.proj": "init_x_linear",
        r"^context_embedder": "cond_seq_linear", r"^proj_out": "final_linear",
        r"^time_step_proj\.linear_1": "t_embedder.mlp.0",
        r"^time_step_proj\.linear_2": "t_embedder.mlp.2", r"^norm_out\.linear": "modF.1",
        r"^joint_transformer_blocks\.(\d+)\.norm1\.linear": r"double_layers.\1.modX.1",
        r"^joint_transformer_blocks\.(\d+)\.norm1_context\.linear": r"double_layers.\1.modC.1",
        r"^joint_transformer_blocks\.(\d+)\.ff\.": r"double_layers.\1.mlpX.",
        r"^joint_transformer_blocks\.(\d+)\.ff_context\.": r"double_layers.\1.mlpC.",
        r"^joint_transformer_blocks\.(\d+)\.attn\.to_([qkv])": r"double_layers.\1.attn.w2\2",
        r"^joint_transformer_blocks\.(\d+)\.attn\.to_out\.0": r"double_layers.\1.attn.w2o",
        r"^joint_transformer_blocks\.(\d+)\.attn\.add_([qkv])_proj":
            r"double_layers.\1.attn.w1\2",
        r"^joint_transformer_blocks\.(\d+)\.attn\.to_add_out": r"double_layers.\1.attn.w1o",
        r"^single_transformer_blocks\.(\d+)\.norm1\.linear": r"single_layers.\1.modCX.1",
        r"^single_transformer_blocks\.(\d+)\.ff\.": r"single_layers.\1.mlp.",
        r"^single_transformer_blocks\.(\d+)\.attn\.to_([qkv])": r"single_layers.\1.attn.w1\2",
        r"^single_transformer_blocks\.(\d+)\.attn\.to_out\.0": r"single_layers.\1.attn.w1o",
        r"linear_1\.weight": "c_fc1.weight", r"linear_2\.weight": "c_fc2.weight",
        r"out_projection": "c_proj",
    }  # fmt: skip
    return _by_rules(network, rules, swapped=("norm_out.linear",))


def lumina2(network: Any) -> Weights:
    rules = {
        r"^time_caption_embed\.timestep_embedder\.linear_1": "t_embedder.mlp.0",
        r"^time_caption_embed\.timestep_embedder\.linear_2": "t_embedder.mlp.2",
        r"^time_caption_embed\.caption_embedder": "cap_embedder",
        r"^norm_out\.linear_1": "final_layer.adaLN_modulation.1",
        r"^norm_out\.linear_2": "final_layer.linear",
        r"feed_forward\.linear_": "feed_forward.w",
        r"\.norm1\.linear": ".adaLN_modulation.1",
        r"\.norm1\.norm": ".attention_norm1", r"\.norm1\.weight": ".attention_norm1.weight",
        r"\.norm2\.": ".attention_norm2.", r"attn\.norm_([qk])": r"attention.\1_norm",
        r"attn\.to_out\.0": "attention.out",
    }  # fmt: skip
    out = _by_rules(network, rules, {"attn.to_{}": ("qkv", "attention.qkv")})
    return out | {"norm_final.weight": torch.ones(network.config.hidden_size)}


def z_image(network: Any) -> Weights:
    rules = {
        r"^all_final_layer\.2-1": "final_layer", r"^all_x_embedder\.2-1": "x_embedder",
        r"attention\.to_out\.0": "attention.out", r"attention\.norm_([qk])": r"attention.\1_norm",
    }  # fmt: skip
    return _by_rules(network, rules, {"attention.to_{}": ("qkv", "attention.qkv")})


def sana(network: Any) -> Weights:
    """With the tables of positions and of the empty prompt, which diffusers has no use for."""
    rules = {
        r"^patch_embed\.proj": "x_embedder.proj",
        r"^time_embed\.emb\.timestep_embedder\.linear_1": "t_embedder.mlp.0",
        r"^time_embed\.emb\.timestep_embedder\.linear_2": "t_embedder.mlp.2",
        r"^time_embed\.linear": "t_block.1", r"^caption_norm": "attention_y_norm",
        r"^caption_projection\.linear_": "y_embedder.y_proj.fc",
        r"^proj_out": "final_layer.linear", r"^scale_shift_table": "final_layer.scale_shift_table",
        r"^transformer_blocks": "blocks",
        r"attn1\.to_out\.0": "attn.proj", r"attn2\.to_out\.0": "cross_attn.proj",
        r"attn2\.to_q": "cross_attn.q_linear",
        r"ff\.conv_(inverted|depth|point)": r"mlp.\1_conv.conv",
    }  # fmt: skip
    joined = {
        "attn1.to_{}": ("qkv", "attn.qkv"), "attn2.to_{}": ("kv", "cross_attn.kv_linear")
    }  # fmt: skip
    width = network.config.num_attention_heads * network.config.attention_head_dim
    tables = {"pos_embed": torch.zeros(1, 64, width), "y_embedder.y_embedding": torch.zeros(3, 32)}
    return _by_rules(network, rules, joined) | tables


def krea2(network: Any) -> Weights:
    """With a block's six modulations in one vector."""
    rules = {
        r"^transformer_blocks": "blocks", r"^text_fusion": "txtfusion", r"^img_in": "first",
        r"^time_embed\.linear_": "tmlp.", r"^tmlp\.1": "tmlp.0", r"^time_mod_proj": "tproj.1",
        r"^txt_in\.norm\.weight": "txtmlp.0.scale", r"^txt_in\.linear_1": "txtmlp.1",
        r"^txt_in\.linear_2": "txtmlp.3", r"^final_layer\.linear": "last.linear",
        r"^final_layer\.norm\.weight": "last.norm.scale",
        r"^final_layer\.scale_shift_table": "last.modulation.lin",
        r"\.scale_shift_table": ".mod.lin", r"attn\.to_([qkv])": r"attn.w\1",
        r"attn\.to_out\.0": "attn.wo", r"attn\.to_gate": "attn.gate",
        r"attn\.norm_([qk])\.weight": r"attn.qknorm.\1norm.scale", r"\.ff\.": ".mlp.",
        r"\.norm1\.weight": ".prenorm.scale", r"\.norm2\.weight": ".postnorm.scale",
    }  # fmt: skip
    out = _by_rules(network, rules)
    return {k: v.flatten() if k.endswith(".mod.lin") else v for k, v in out.items()}


def qwen_image_21(network: Any) -> Weights:
    """ComfyUI's, with gate and projection of a feed-forward layer in one matrix."""
    out = dict(network.state_dict())
    for name in [name for name in out if name.endswith(".gate_layer.weight")]:
        parts = out.pop(name), out.pop(name.replace("gate_layer", "proj"))
        out[name.replace("gate_layer", "gate_up")] = torch.cat(parts)
    return out


def as_in_diffusers(network: Any) -> Weights:
    return dict(network.state_dict())


def _by_rules(
    network: Any,
    rules: Mapping[str, str],
    joined: Mapping[str, tuple[str, str]] | None = None,
    swapped: tuple[str, ...] = (),
) -> Weights:
    """Names by regular expressions in turn; layers such as "to_{}" of several letters joined into
    one; the halves of modulations exchanged."""
    state, out = network.state_dict(), {}
    for name, value in state.items():
        layer, dot, kind = name.rpartition(".")
        if layer in swapped:
            value = torch.cat(list(value.chunk(2))[::-1])
        for ours, (letters, theirs) in (joined or {}).items():
            ends = {letter: ours.format(letter) for letter in letters}
            place = next((x for x, end in ends.items() if layer.endswith("." + end)), "")
            if place == letters[0]:
                stem = layer.removesuffix(ends[place])
                value = torch.cat([state[stem + ends[x] + dot + kind] for x in letters])
                name = stem + theirs + dot + kind
            elif place:
                name = ""
        for pattern, new in rules.items():
            name = re.sub(pattern, new, name)
        if name:
            out[name] = value
    return out


TRANSFORMERS: dict[str, Callable[[Any], Weights]] = {
    "sd3": mmdit, "sd3.5": mmdit, "flux": flux, "chroma": chroma, "flux2": flux2,
    "flux2-klein-kv": flux2, "z-image-omni": z_image,
    "flux2-klein": flux2, "aura-flow": aura_flow, "lumina2": lumina2, "z-image": z_image,
    "sana": sana, "krea2": krea2, "qwen-image": as_in_diffusers, "ernie-image": as_in_diffusers,
    "qwen-image-2.1": qwen_image_21, "hidream": as_in_diffusers,
}  # fmt: skip
"""Family -> the names of its transformer's weights in the files that its publishers give out."""
