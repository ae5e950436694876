"""`textseg models`: what lies on this machine, and its upkeep."""

from __future__ import annotations

import argparse
import json

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

    check = actions.add_parser("check", help="read a model's files and compare their digests")
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
    from ..backbone.folders import check_model, find_family, verify_model
    from ..backbone.registry import find_model

    folder = find_model(args.name)
    check_model(folder)
    compared = verify_model(folder)
    digests = f"{compared} files are what was published" if compared else "it has no digests"
    print(f"{args.name}: {find_family(folder).name}, complete; {digests}")


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
