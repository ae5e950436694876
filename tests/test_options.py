"""Every field of every option dataclass keeps its rule, and a number is a threshold."""

from __future__ import annotations

import re
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from fake_backbone import FakeBackbone

from textseg import (
    ContrastOptions,
    EditOptions,
    GenerateOptions,
    InputError,
    RefineOptions,
    segment,
)
from textseg.batch.run import Engine
from textseg.batch.stages import Job
from textseg.bench import BenchOptions
from textseg.cutting import remask
from textseg.option_table import option_table
from textseg.options import override
from textseg.server import ServerOptions
from textseg.studio import StudioSettings
from textseg.training.lora_options import LoraOptions
from textseg.training.mini.options import TrainOptions
from textseg.training.mini.scenes import SceneOptions
from textseg.training.painter.options import PainterOptions
from textseg_eval.aggregate import Bootstrap
from textseg_eval.run import Split

OPTIONS: list[Any] = [
    ContrastOptions(), RefineOptions(), EditOptions(), GenerateOptions(), TrainOptions(),
    LoraOptions(), SceneOptions(), ServerOptions(), StudioSettings(), BenchOptions(),
    Engine(), Job("out"), Bootstrap(), Split(), PainterOptions(),
]  # fmt: skip
JUNK = [object(), b"bytes", {"a": 1}, ["x", "y"], 1j]
NO_NUMBER = [*JUNK, "1", True, float("nan"), float("inf"), -1, -0.5, 10**400]
WRONG = {
    "float": NO_NUMBER,
    "int": [*NO_NUMBER, 1.5],
    "bool": [*JUNK, 0, 1, "yes", None],
    "str": [*JUNK, 1, None, False],
    "tuple": [object(), b"bytes", {"a": 1}, ("x", "y"), 1j, "1", 7, (float("nan"), 1.0), (2, -1)],
}
# A reference to what is wanted of free forms: mappings of options, and threshold's own two forms.
FREE = {("Job", "contrast"), ("Job", "refine"), ("Job", "output"), ("Split", "threshold")}
NARROW = {("RefineOptions", "threshold"): [*JUNK, -0.1, 1.1, True, None, "none", float("nan")]}


def _cases() -> list[Any]:
    found = []
    for options in OPTIONS:
        hints = get_type_hints(type(options))
        for one in fields(options):
            kind = type(options).__name__
            if (kind, one.name) in FREE:
                continue
            hint = str(hints[one.name])
            name = next((k for k in ("tuple", "bool", "float", "int", "str") if k in hint), "str")
            wrong = NARROW.get((kind, one.name), WRONG[name])
            wrong = [v for v in wrong if not (v is None and "None" in hint)]
            found.append(pytest.param(options, one.name, wrong, id=f"{kind}.{one.name}"))
    return found


@pytest.mark.parametrize(("options", "name", "wrong"), _cases())
def test_every_field_refuses_what_breaks_its_rule(options: Any, name: str, wrong: Any) -> None:
    for value in wrong:
        with pytest.raises(InputError, match=rf"^{name} must be .*, got") as caught:
            replace(options, **{name: value})
        assert "\n" not in str(caught.value)


def test_the_list_holds_every_option_dataclass() -> None:
    root = Path(__file__).parents[1] / "textseg"
    named = {
        line.split()[1].split("(")[0].rstrip(":")
        for file in root.rglob("*.py")
        for line in file.read_text().splitlines()
        if line.startswith("class ") and ("Options" in line or "Settings" in line)
    }
    assert named and named <= {type(options).__name__ for options in OPTIONS}


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (TrainOptions, {"precision": "int8"}),
        (TrainOptions, {"recognition": -3}),
        (TrainOptions, {"warmup": -1}),
        (TrainOptions, {"pairs": (0.5, 1.5)}),
        (TrainOptions, {"pairs": 0.5}),
        (LoraOptions, {"levels": (0.5, 0.2)}),
        (LoraOptions, {"rank": 1025}),
        (GenerateOptions, {"width": 8193}),
        (GenerateOptions, {"scheduler": "no name"}),
        (EditOptions, {"encode_ratio": 0}),
        (EditOptions, {"encode_ratio": 1.01}),
        (RefineOptions, {"crf_points": 15}),
        (RefineOptions, {"crf_points": 8193}),
        (RefineOptions, {"crf_spacing": 0.29}),
        (ContrastOptions, {"stop_risk": 1}),
        (ContrastOptions, {"strength": ()}),
        (ContrastOptions, {"strength": (0.5, 0)}),
        (ContrastOptions, {"seed": 2**63}),
        (BenchOptions, {"rounding": ("int8",)}),
        (ServerOptions, {"grace": 86401}),
        (ServerOptions, {"tokens": "x" * 20}),
        (StudioSettings, {"sample": "moon"}),
        (Split, {"rule": "mine"}),
        (Split, {"rule": "given", "threshold": 0}),
    ],
)
def test_ends_of_ranges(kind: Any, wrong: dict[str, Any]) -> None:
    name = next(iter(wrong)) if len(wrong) == 1 else "threshold"
    with pytest.raises(InputError, match=rf"^{name} must be"):
        kind(**wrong)


def test_ends_that_belong_to_the_range() -> None:
    EditOptions(encode_ratio=1)
    one: Any = 1
    several: Any = np.array([0.25, 0.5])
    assert ContrastOptions(strength=one, seed=2**63 - 1, stop_risk=0).strength == (1.0,)
    assert ContrastOptions(strength=several).strength == (0.25, 0.5)
    RefineOptions(crf_points=16, level=0, threshold=1)
    LoraOptions(levels=[0.1, 1.0])  # pyright: ignore[reportArgumentType]


def test_defaults_keep_their_own_rules() -> None:
    for options in OPTIONS:
        required = {f.name: getattr(options, f.name) for f in fields(options)
                    if f.default is MISSING and f.default_factory is MISSING}  # fmt: skip
        assert type(options)(**required) == options


@pytest.mark.parametrize("rule", ["paper", "fixed", "calibrated"])
def test_a_number_cuts_the_score_of_the_rule_in_force(rule: str) -> None:
    base = RefineOptions(threshold=rule, level=0.7, crf=False)
    assert override(base, {"threshold": 0.25}) == replace(base, level=0.25)


@pytest.mark.parametrize("rule", ["otsu", "quantile"])
def test_a_number_cuts_where_the_rule_would_find_the_cut_itself(rule: str) -> None:
    # Their score is that of "paper".
    assert override(RefineOptions(threshold=rule), {"threshold": 0}) == RefineOptions(level=0)


def test_a_number_alone_is_the_paper_s_rule_at_that_level() -> None:
    assert RefineOptions(threshold=0.25) == RefineOptions(threshold="paper", level=0.25)
    assert asdict(RefineOptions(threshold=0.25)) == asdict(RefineOptions(level=0.25))


def test_a_number_cuts_the_mask_and_the_result_says_how(tiny_image: np.ndarray) -> None:
    model = FakeBackbone({"dog": (0.25, 0.1, 0.75, 0.4)})
    given = {"model": model, "crf": False, "min_area": 0.0, "max_hole": 0.0}
    one = segment(tiny_image, "dog", threshold=0.9, **given)
    other = segment(tiny_image, "dog", level=0.9, **given)
    np.testing.assert_array_equal(one.mask, other.mask)
    np.testing.assert_array_equal(one.mask, one.score > 0.9)
    assert one.refine_options == other.refine_options and one.refine_options.level == 0.9
    assert remask(other, threshold=0.2).refine_options.level == 0.2
    for wrong in (1.2, -0.1):
        with pytest.raises(InputError, match=r"threshold must be one of paper.* in \[0, 1\], got"):
            segment(tiny_image, "dog", **given, threshold=wrong)
    with pytest.raises(InputError, match="level must be left out where threshold is a number"):
        segment(tiny_image, "dog", threshold=0.5, level=0.4, **given)


@pytest.mark.parametrize(
    ("arguments", "kinds"),
    [
        ("ContrastArguments", [ContrastOptions]),
        ("RefineArguments", [RefineOptions]),
        ("QueryArguments", [ContrastOptions, RefineOptions]),
        ("EditArguments", [ContrastOptions, RefineOptions, EditOptions]),
        ("GenerateArguments", [GenerateOptions]),
    ],
)
def test_editors_are_told_every_option_with_its_type(arguments: str, kinds: list[type]) -> None:
    import ast
    from pathlib import Path

    import textseg.arguments
    import textseg.options

    told = dict.fromkeys(getattr(textseg.arguments, arguments).__annotations__)
    beyond = {"caption", "progress", "exclusive", "points", "boxes"}
    assert set(told) - beyond == {f.name for kind in kinds for f in fields(kind)}
    written = {}
    for module in (textseg.arguments, textseg.options):
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))  # pyright: ignore[reportArgumentType]
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                written[node.name] = {
                    ast.unparse(line.target): ast.unparse(line.annotation)
                    for line in node.body
                    if isinstance(line, ast.AnnAssign)
                }
    for name, kind in written[arguments].items():
        if name in beyond:
            continue
        wanted = {written[cls.__name__][name] for cls in kinds if name in written[cls.__name__]}
        assert {kind} == ({"float | Iterable[float]"} if name == "strength" else wanted)


@pytest.mark.parametrize(
    ("function", "kinds"),
    [
        ("segment", [ContrastOptions, RefineOptions]),
        ("edit", [EditOptions, ContrastOptions, RefineOptions]),
        ("generate", [GenerateOptions]),
    ],
)
def test_help_shows_every_option_with_its_default(function: str, kinds: list[type]) -> None:
    import pydoc

    import textseg

    shown = " ".join(pydoc.plain(pydoc.render_doc(getattr(textseg, function))).split())
    for kind in kinds:
        for name, option in option_table(kind).items():
            default = getattr(kind(), name)
            assert f"{name} ({default!r}): {option.help}" in shown


TABLES = [ContrastOptions, RefineOptions, EditOptions, GenerateOptions, TrainOptions, LoraOptions,
          PainterOptions]  # fmt: skip


@pytest.mark.parametrize("kind", [*TABLES, ServerOptions])
def test_the_command_line_offers_what_the_table_says(kind: type) -> None:
    import argparse

    from textseg.cli.options_arguments import add_options, given_options

    parser = argparse.ArgumentParser()
    add_options(parser, kind, title="options")
    flags = {action.dest: action for action in parser._actions}
    assert given_options(parser.parse_args([]), kind) == {}
    for name, option in option_table(kind).items():
        shown = (flags[name].help or "").replace("%%", "%")
        assert shown.startswith(option.help.rstrip("."))
        if isinstance(option.default, (int, float)) and not isinstance(option.default, bool):
            said = re.search(r"\(default: ([^;)]*)", shown)
            assert said and float(said[1]) == option.default
            flag = f"--{name.replace('_', '-')}"
            for end in (option.rule.bounds if option.rule else {}).values():
                given = given_options(parser.parse_args([flag, str(end)]), kind)
                assert given[name] == pytest.approx(end)


@pytest.mark.parametrize("kind", TABLES)
def test_controls_offer_only_what_the_rule_allows(kind: type) -> None:
    for option in option_table(kind).values():
        if option.slider is None:
            continue
        low, high, step = option.slider
        assert low < high and 0 < step <= high - low
        for value in (low, high, low + step):
            wanted = (float(value),) if option.name == "strength" else type(option.default)(value)
            assert getattr(replace(kind(), **{option.name: wanted}), option.name) == wanted


@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        ("SegmentOptions", [ContrastOptions, RefineOptions]),
        ("EditingOptions", [EditOptions, ContrastOptions, RefineOptions]),
        ("GeneratingOptions", [GenerateOptions]),
    ],
)
def test_the_server_is_never_laxer_than_the_table(model: str, kinds: list[type]) -> None:
    bodies = pytest.importorskip("textseg.server.bodies", reason="needs textseg[server]")
    shown = getattr(bodies, model).model_json_schema()["properties"]
    keys = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
    for option in (option for kind in kinds for option in option_table(kind).values()):
        said = {tab[option.name].help for tab in map(option_table, kinds) if option.name in tab}
        assert shown[option.name]["description"] in said
        for key, end in (option.rule.bounds if option.rule else {}).items():
            number = next(one for one in shown[option.name]["anyOf"] if one["type"] != "null")
            kept = number.get(keys[key], number.get(keys[{"gt": "ge", "lt": "le"}.get(key, key)]))
            assert kept >= end if key in ("ge", "gt") else kept <= end
