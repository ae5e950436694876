"""What a run of edits does: methods, encoding ratios, mask thresholds and guidance scales."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from textseg.checks import (
    FRACTIONS,
    NOT_NEGATIVE,
    SEED,
    SHARE,
    check,
    one_of,
    option,
    several,
    validate,
    whole,
)
from textseg.errors import InputError
from textseg.faults import Guard
from textseg.options import EditOptions

from .counters import image_hash
from .datasets import Dataset, Example

ABLATION = ("sdedit", "encode-decode", "diffedit-no-encoding", "diffedit")
"""The rows of DiffEdit's ablation."""
MASKED = ("diffedit-no-encoding", "diffedit")
RECONSTRUCT, SHIPPED = "reconstruct", "diffedit-composited"
"""Rows of our own: the autoencoder alone, and DiffEdit as `textseg.edit` does it by default."""
METHODS = (RECONSTRUCT, *ABLATION, SHIPPED)
RATIOS, LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9), (0.25, 0.5, 0.75)

_METHODS = several(one_of(*METHODS), f"of {', '.join(METHODS)}")
_SCALES = several(NOT_NEGATIVE, "one or more numbers of at least 0")


class Setting(NamedTuple):
    """One way to edit; None where a method has no such setting."""

    method: str
    ratio: float | None = None
    level: float | None = None
    guidance: float | None = None


@dataclass(frozen=True)
class EditRun:
    """What to edit and how.

    Attributes:
        dataset: images with annotated regions.
        pairs: category name -> what it is turned into.
        methods: of `METHODS`.
        ratios: encoding ratios r.
        levels: mask thresholds, for the methods with a mask.
        guidances: guidance scales; none stands for that of the options.
        options: the rest of the settings; its `encode_ratio` is not used.
        truth_mask: edit the annotated region instead of the one the model finds, so that the
            editing is measured alone.
        draws: noise draws for the evidence.
        seed: chooses one pair for an image that has several.
        save_images: keep the edited images under images/METHOD.../ID.png; FID needs them.
    """

    dataset: Dataset
    pairs: Mapping[str, str]
    methods: Sequence[str] = option(METHODS, _METHODS)
    ratios: Sequence[float] = option(RATIOS, FRACTIONS)
    levels: Sequence[float] = option(LEVELS, several(SHARE, "one or more numbers in [0, 1]"))
    guidances: Sequence[float] = ()
    options: EditOptions = EditOptions()
    truth_mask: bool = False
    draws: int = option(4, whole(1, 1000))
    seed: int = option(0, SEED)
    save_images: bool = False

    def __post_init__(self) -> None:
        validate(self)
        scales = self.guidances
        check("guidances", scales, _SCALES.words, not scales or _SCALES.holds(scales))
        if not self.pairs:
            raise InputError("pairs must hold at least one 'category=prompt', got none")
        names = set(self.dataset.categories.values())
        missing = sorted(set(self.pairs) - names)
        if missing:
            raise InputError(f"pairs must name categories of the data set, got {missing[0]!r}")

    @property
    def scales(self) -> Sequence[float]:
        """The guidance scales."""
        return self.guidances or (self.options.guidance_scale,)

    def choose(self, example: Example) -> tuple[int, str, str] | None:
        """The category id, its name and the prompt for an image; None if no pair fits it."""
        present, _ = example.truth.keys()
        names = self.dataset.categories
        fitting = sorted(k for k in present if names.get(k) in self.pairs)
        if not fitting:
            return None
        key = fitting[image_hash("pair", self.seed, example.image_id) % len(fitting)]
        return key, names[key], self.pairs[names[key]]

    def fits(self, example: Example) -> bool:
        """Whether a pair fits an image; also where its annotations cannot be read, which is told
        when its turn comes."""
        with Guard(example.file_name):
            return self.choose(example) is not None
        return True

    def settings(self) -> Iterator[Setting]:
        """Every setting, in the order of the report."""
        for method in self.methods:
            if method == RECONSTRUCT:
                yield Setting(method)
                continue
            for ratio in self.ratios:
                for level in self._levels(method):
                    for scale in self.scales:
                        yield Setting(method, ratio, level, scale)

    def _levels(self, method: str) -> Sequence[float | None]:
        masked = method in (*MASKED, SHIPPED) and not self.truth_mask
        return self.levels if masked else (None,)

    def shown(self) -> list[Setting]:
        """The setting of each method that a report has pictures of: the middle ratio, threshold
        and guidance scale."""
        ratio, scale = _middle(self.ratios), _middle(self.scales)
        return [
            Setting(method, ratio, _middle(self._levels(method)), scale)
            if method != RECONSTRUCT
            else Setting(method)
            for method in self.methods
        ]

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "dataset": {"name": self.dataset.name, "fingerprint": self.dataset.fingerprint},
            "pairs": dict(self.pairs),
            "methods": list(self.methods),
            "ratios": list(self.ratios),
            "levels": list(self.levels),
            "guidances": list(self.scales),
            "options": {key: value for key, value in asdict(self.options).items()
                        if key not in ("encode_ratio", "guidance_scale", "crop", "invert_mask",
                                       "composite")},
            "truth_mask": self.truth_mask,
            "draws": self.draws,
            "seed": self.seed,
        }  # fmt: skip


def _middle(values: Sequence[Any]) -> Any:
    return values[len(values) // 2]
