"""What a command loads before it works, and what it says meanwhile."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import textseg
from textseg.backbone.clip_text import ClipTextEncoder, ClipTokenizer
from textseg.backbone.registry import EMBEDDED
from textseg.errors import ModelError

MINI = EMBEDDED / "mini"
PARK = Path(__file__).parents[1] / "data" / "samples" / "park.jpg"
UNUSED = ("transformers", "peft", "accelerate", "scipy.stats", "skimage", "torch._dynamo", "sympy")

LEAN = f"""
import sys
import numpy as np
import textseg
from textseg.backbone.lean import alone
unused = lambda: [name for name in {UNUSED!r} if name in sys.modules]
with alone():
    lean = textseg.load("mini")
"""


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_command_imports_nothing_that_a_mask_does_not_need(tmp_path: Path) -> None:
    code = f"""
import os, sys
from textseg.cli import main
os.environ.pop("OMP_WAIT_POLICY", None)
main(["inspect", "none.png"])
assert "OMP_WAIT_POLICY" not in os.environ
sys.argv = ["textseg", "segment", {str(PARK)!r}, "-q", "the dog", "-o", {str(tmp_path)!r}]
code = main()
assert os.environ["OMP_WAIT_POLICY"] == "passive"
print(code, [name for name in {UNUSED!r} if name in sys.modules])
"""
    assert run_python(code).splitlines()[-1] == "0 []"
    assert (tmp_path / "park.the-dog.mask.png").is_file()


def test_a_lean_model_has_the_bits_of_the_ordinary_one() -> None:
    code = (
        LEAN
        + f"""
a = textseg.segment({str(PARK)!r}, ["the dog", "the ball"], model=lean, naming=0.5)
assert not unused()
ordinary = textseg.load("mini")
assert type(ordinary.text_encoder).__module__.startswith("transformers.")
b = textseg.segment({str(PARK)!r}, ["the dog", "the ball"], model=ordinary, naming=0.5)
for x, y in zip(a, b):
    assert x.mask.any() and x.presence == y.presence
    assert all(np.array_equal(getattr(x, n), getattr(y, n)) for n in ("mask", "score", "contrast"))
pixels = a[0].image[:192, :256]
assert np.array_equal(lean.decode(lean.encode(pixels)), ordinary.decode(ordinary.encode(pixels)))
print("same")
"""
    )
    assert run_python(code) == "same\n"


def test_diffusers_is_whole_again_for_whoever_needs_it() -> None:
    code = (
        LEAN
        + f"""
assert "diffusers" in sys.modules and not unused()
from textseg.backbone.schedulers import make_scheduler
assert type(make_scheduler(lean, "LMSDiscreteScheduler", 4)).__name__ == "LMSDiscreteScheduler"
import diffusers, textseg.backbone.semantic_autoencoder
pipe = diffusers.StableDiffusionPipeline.from_pretrained({str(MINI)!r}, safety_checker=None)
assert hasattr(pipe.unet, "load_lora_adapter") and pipe.text_encoder is not None
assert textseg.segment({str(PARK)!r}, "the dog", model=lean).mask.any()
print("whole")
"""
    )
    assert run_python(code) == "whole\n"


@pytest.mark.parametrize("broken", ["lean._run_when_asked", "clip_text.ClipTokenizer"])
def test_what_fails_is_left_to_the_ordinary_loading(broken: str) -> None:
    """As a release of diffusers, transformers or tokenizers might make it fail, early or late."""
    module, name = broken.split(".")
    failing = f"""
import textseg.backbone.{module} as module
def fail(*_): raise ImportError("not in this release")
module.{name} = fail
"""
    code = failing + LEAN + "print(type(lean.text_encoder).__name__, type(lean.vae).__name__)"
    assert run_python(code) == "CLIPTextModel SemanticAutoencoder\n"


def test_only_models_of_minis_kind_are_loaded_lean(tiny_folder: Path) -> None:
    code = LEAN.replace('"mini"', repr(str(tiny_folder)))
    assert run_python(code + "print(type(lean.text_encoder).__name__)") == "CLIPTextModel\n"


@pytest.fixture(scope="module")
def ordinary() -> textseg.backbone.Backbone:
    return textseg.load("mini", device="cpu", dtype="float32")


def test_tokens_are_those_of_transformers(ordinary) -> None:
    config = json.loads((MINI / "tokenizer" / "tokenizer_config.json").read_text())
    theirs, ours = ordinary.tokenizer, ClipTokenizer(MINI / "tokenizer", config)
    texts = ["", "a photo of a dog", "A  Photo\tof\n THE dog's <|endoftext|> x9", "ÅÄÖ 漢字 🐕",
             "dog " * 40, *ordinary.calibration["nouns"]]  # fmt: skip
    padded = {"padding": "max_length", "max_length": 20, "truncation": True, "return_tensors": "pt"}
    assert ours.model_max_length == theirs.model_max_length
    for text in texts:
        ids = ours(text, truncation=False, verbose=False).input_ids
        assert ids == theirs(text, truncation=False, verbose=False).input_ids
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(
                ids, skip_special_tokens=skip
            )
        a, b = ours(text, **padded).to(torch.device("cpu")), theirs(text, **padded)
        assert torch.equal(a.input_ids, b.input_ids)
        assert torch.equal(a.attention_mask, b.attention_mask)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_hidden_states_have_the_bits_of_transformers(activation: str) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = json.loads((MINI / "text_encoder" / "config.json").read_text())
    config |= {"hidden_act": activation}
    weights = load_file(MINI / "text_encoder" / "model.safetensors")
    theirs = CLIPTextModel(CLIPTextConfig(**config)).eval()
    theirs.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    ours = ClipTextEncoder(config, weights).float()
    ids = torch.randint(0, 800, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(ours(ids)[0], theirs(ids)[0])


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ModelError, match="hidden_act must be quick_gelu or gelu, got 'relu'"):
        ClipTextEncoder({"hidden_act": "relu"}, {})


COMMANDS = {
    "segment": ["x.jpg", "-q", "the dog", "-o", "{out}"],
    "edit": ["x.jpg", "-q", "the dog", "-p", "a cat", "-o", "{out}/x.png"],
    "generate": ["a dog", "-o", "{out}/x.png"],
    "caption": ["x.jpg"],
    "batch": ["{data}/samples", "-q", "the dog", "-o", "{out}", "--workers", "0"],
    "eval": ["coco", "--images", "{data}/drawn/val", "--annotations",
             "{data}/drawn/annotations/instances_val.json", "-o", "{out}"],
    "bench": [],
    "train": ["--rank", "4", "-o", "{out}"],
    "studio": [],
    "serve": ["--port", "8399"],
}  # fmt: skip
GONE = "\r\x1b[K"
STOPPED_AT_TORCH = """
import sys
class Stop:
    def find_spec(self, name, *_):
        if name == "torch":
            sys.stderr.write("[torch]")
            sys.exit(0)
sys.meta_path.insert(0, Stop())
from textseg.cli import main
sys.exit(main())
"""


def stderr_of(words: list[str], tmp_path: Path, terminal: bool) -> str:
    """What a command writes to standard error until it imports torch."""
    places = {"out": tmp_path, "data": PARK.parents[1]}
    command = [sys.executable, "-c", STOPPED_AT_TORCH, *(w.format(**places) for w in words)]
    if not terminal:
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stderr
    master, slave = pty.openpty()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=slave, cwd=tmp_path)
    os.close(slave)
    text = b""
    try:
        while part := os.read(master, 4096):
            text += part
    except OSError:
        # How Linux says that nobody writes any more.
        pass
    os.close(master)
    return text.decode()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_terminal_says_what_is_going_on_before_torch_is_imported(
    command: str, tmp_path: Path
) -> None:
    text = stderr_of([command, *COMMANDS[command]], tmp_path, terminal=True)
    if command == "studio":
        assert text == f"loading mini...{GONE}textseg studio: starting with mini...\r\n[torch]"
        return
    first = "starting train..." if command == "train" else "loading mini..."
    assert text.startswith(f"{first}[torch]{GONE}")
    assert text.endswith(GONE)
    assert text.replace(GONE, "") == f"{first}[torch]"


def test_nothing_is_said_where_nobody_looks(tmp_path: Path) -> None:
    words = ["segment", *COMMANDS["segment"]]
    assert stderr_of(words, tmp_path, terminal=False) == "[torch]"
    assert stderr_of([*words, "--quiet"], tmp_path, terminal=True) == "[torch]"
