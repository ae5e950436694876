"""`textseg models`: what lies on this machine, and its upkeep."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from .options_arguments import add_alias

DESCRIPTION = """\
Models lie in the package ('mini'), in textseg's own folder and in the Hugging Face cache.
Only `download` ever uses the network."""
EXAMPLES = """\
examples:
  textseg models list
  textseg models nouns --with-synonyms
  textseg models download sd-legacy/stable-diffusion-v1-5 --variant fp16
  textseg models download stable-diffusion-v1-5/stable-diffusion-v1-5 --configs
  textseg models check stabilityai/stable-diffusion-xl-base-1.0
  textseg models path mini
  textseg models remove sd-legacy/stable-diffusion-v1-5
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    listing = actions.add_parser("list", help="name, size, family, state and place of every model")
    listing.add_argument("--json", action="store_true", help="one JSON object per model on stdout")
    listing.set_defaults(action=_list)

    nouns = actions.add_parser("nouns", help="what a model with a closed vocabulary can be asked")
    nouns.add_argument("name", nargs="?", default="mini", metavar="NAME",
                       help="a model's name or folder (default: mini)")  # fmt: skip
    nouns.add_argument("--with-synonyms", action="store_true", dest="synonyms",
                       help="with the words that are asked as each noun")  # fmt: skip
    add_alias(nouns, "--synonyms", "--with-synonyms")
    nouns.add_argument("--json", action="store_true", help="one JSON object per noun on stdout")
    nouns.set_defaults(action=_nouns)

    download = actions.add_parser("download", help="fetch a model from the Hugging Face hub")
    download.add_argument("name", metavar="OWNER/NAME", help="hub id of a diffusers pipeline")
    download.add_argument("--revision", metavar="REV", help="branch, tag or commit (default: main)")
    download.add_argument("--variant", metavar="WORD", help="weights to fetch, such as fp16")
    download.add_argument("--configs", action="store_true",
                          help="leave the weights out: what a single-file checkpoint needs "
                               "beside it")  # fmt: skip
    download.set_defaults(action=_download)

    check = actions.add_parser(
        "check", help="family, dtype, memory needed and what is missing; compares digests"
    )
    check.add_argument("name", metavar="NAME")
    check.set_defaults(action=_check)

    path = actions.add_parser("path", help="print a model's folder")
    path.add_argument("name", metavar="NAME")
    path.set_defaults(action=_path)

    remove = actions.add_parser("remove", help="delete a downloaded model")
    remove.add_argument("name", metavar="NAME")
    remove.set_defaults(action=_remove)


def run(args: argparse.Namespace) -> int:
    args.action(args)
    return 0


def _list(args: argparse.Namespace) -> None:
    from ..backbone.registry import list_models, models_folder

    models = list_models()
    width = max((len(model.name) for model in models), default=0)
    kinds = max((len(model.family) for model in models), default=0)
    for model in models:
        if args.json:
            record = {"name": model.name, "family": model.family, "bytes": model.size,
                      "path": str(model.path), "complete": model.complete,
                      "problem": model.problem}  # fmt: skip
            print(json.dumps(record, ensure_ascii=False))
        else:
            state = "ready" if model.complete else model.problem
            print(f"{model.name:{width}}  {_size(model.size):>8}  {model.family:{kinds}}  {state}"
                  f"  {model.path}")  # fmt: skip
    if not models and not args.json:
        print(f"no models; own ones go into {models_folder()}")


def _nouns(args: argparse.Namespace) -> None:
    from ..backbone.folders import read_calibration
    from ..backbone.registry import find_model
    from ..errors import InputError
    from ..vocabulary import synonyms_by_noun

    calibration = read_calibration(find_model(args.name))
    nouns = calibration.get("nouns", ())
    if not nouns:
        raise InputError(f"NAME must have a closed vocabulary; {args.name!r} takes any words")
    width = max(map(len, nouns))
    for noun, words in synonyms_by_noun(nouns, calibration.get("synonyms", {})).items():
        if args.json:
            print(json.dumps({"noun": noun, "synonyms": words}, ensure_ascii=False))
        elif args.synonyms and words:
            print(f"{noun:{width}}  {', '.join(words)}")
        else:
            print(noun)


def _download(args: argparse.Namespace) -> None:
    from ..backbone.registry import download_model

    folder = download_model(
        args.name, revision=args.revision, variant=args.variant, configs_only=args.configs
    )
    print(folder)


def _check(args: argparse.Namespace) -> None:
    from ..backbone.folders import (
        check_model,
        find_family,
        survey_model,
        verify_model,
        weigh_files,
        weigh_model,
    )
    from ..backbone.registry import find_source

    source = find_source(args.name)
    if source.is_file():
        print(f"{args.name}: {_layout(source)}")
        _print_weights({"weights": weigh_files([source])})
        return
    family = find_family(source)
    for problem in survey_model(source)[1][1:]:
        print(f"{args.name}: {family.name}; {problem}")
    check_model(source)
    compared = verify_model(source)
    digests = f"{compared} files are what was published" if compared else "it has no digests"
    print(f"{args.name}: {family.name} ({family.title}), complete; {digests}")
    _print_weights(weigh_model(source))


def _layout(path: Path) -> str:
    """Which model a single file is laid out like, and whether what it lacks is here."""
    from ..backbone.loading import is_whole, layout_of
    from ..backbone.registry import find_model
    from ..errors import ModelNotFoundError

    like, whole = layout_of(path), is_whole(path)
    if whole:
        said, flag = f"a single file like {like}, whose configurations are", " --configs"
    else:
        said, flag = (
            f"the denoiser alone of a model like {like}: give it as --transformer beside one; "
            f"{like} is",
            "",
        )
    try:
        return f"{said} in {find_model(like)}"
    except ModelNotFoundError:
        return f"{said} missing: `textseg models download {like}{flag}`"


def _print_weights(parts: dict[str, Counter[str]]) -> None:
    """Each part's numbers and dtype, and what all take in memory: the autoencoder always in 32
    bits."""
    from ..backbone.families import AUTOENCODER_PARTS

    width = max(map(len, parts))
    for part, numbers in parts.items():
        total, dtypes = sum(numbers.values()), ", ".join(sorted(numbers))
        print(f"  {part:{width}}  {total / 1e6:10.1f} million numbers  {dtypes}")
    half, full = (
        sum(
            sum(n.values()) * (4 if part in AUTOENCODER_PARTS else each)
            for part, n in parts.items()
        )
        for each in (2, 4)
    )
    print(f"  memory for the weights: {_size(half)} in 16 bits (the default on cuda), "
          f"{_size(full)} in float32")  # fmt: skip


def _path(args: argparse.Namespace) -> None:
    from ..backbone.registry import find_model

    print(find_model(args.name))


def _remove(args: argparse.Namespace) -> None:
    from ..backbone.registry import remove_model

    print(f"removed {args.name}, {_size(remove_model(args.name))} freed")


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
