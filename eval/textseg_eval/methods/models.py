"""Models shared by the methods of a worker: loaded once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from textseg.english import object_noun, with_article
from textseg.errors import InputError, ModelError

from .base import MethodSpec

if TYPE_CHECKING:
    from textseg.backbone import Backbone


def backbone_of(spec: MethodSpec) -> Backbone:
    """The diffusion model a method runs, `mini` by default."""
    return _load(spec.model or "mini", spec.device, spec.dtype)


@lru_cache(maxsize=1)
def _load(name: str, device: str | None, dtype: str | None) -> Backbone:
    from textseg.backbone import load

    return load(name, device=device, dtype=dtype)


def unet_of(backbone: Backbone, method: str) -> Any:
    """The diffusers UNet of a latent-UNet model.

    Raises:
        ModelError: the model is of another family.
    """
    if not backbone.cross_attends:
        raise ModelError(
            f"model must be a latent UNet for {method}, got {backbone.name!r} of family "
            f"{backbone.family!r}"
        )
    return backbone.unet  # pyright: ignore[reportAttributeAccessIssue]


def weights_folder(spec: MethodSpec) -> str:
    """The folder of a transformers model.

    Raises:
        InputError: no folder was given.
    """
    if not spec.model or spec.model == "mini":
        raise InputError(f"model must be the folder of the weights for {spec.method}, got none")
    return spec.model


def take_options(spec: MethodSpec, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A method's options over its defaults.

    Raises:
        InputError: an option the method does not have, or of another kind.
    """
    for name, value in spec.options.items():
        if name not in defaults:
            raise InputError(
                f"option of {spec.method} must be one of {', '.join(defaults)}, got {name!r}"
            )
        number = isinstance(defaults[name], (int, float)) and not isinstance(defaults[name], bool)
        if number != (isinstance(value, (int, float)) and not isinstance(value, bool)):
            raise InputError(f"{name} must be like {defaults[name]!r}, got {value!r}")
    return {**defaults, **spec.options}


def fill_prompt(template: str, query: str) -> str:
    """A prompt from a template with {query}, {noun} or {a}, the noun with its article."""
    noun = object_noun(query)
    for name, value in (("query", query), ("noun", noun), ("a", with_article(noun))):
        template = template.replace(f"{{{name}}}", value)
    return template
