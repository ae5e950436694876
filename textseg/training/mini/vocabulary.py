"""The word-level tokenizer of the embedded model, in CLIP's format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .nouns import COLOURS, NOUNS

FILLERS: tuple[str, ...] = (
    "a", "an", "the", "and", "with", "without", "of", "on", "in", "photo", "picture", "image",
    "drawing", "scene", "no", "any", "two", "some", "next", "to", "there", "is", "not", "small",
    "large",
)  # fmt: skip
MAX_TOKENS = 20


def known_words(nouns: Iterable[str] = NOUNS) -> list[str]:
    """Every word that is one token, sorted: fillers, colours and the words of the nouns."""
    return sorted({w for noun in nouns for w in noun.split()} | set(FILLERS) | set(COLOURS))


def build_tokenizer(words: Iterable[str]) -> Any:
    """A `CLIPTokenizer` in which each given word is one token; other words fall into pieces.

    The byte-pair merges are those that byte-pair training on the words alone finds when it is
    carried on until every word is whole. Which of several merges alike comes first, and with it the
    ids, is another in every process.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    letters = sorted({c for c in map(chr, range(33, 127)) if not c.isupper()})
    trainer = trainers.BpeTrainer(
        vocab_size=20000,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
    )
    trained.train_from_iterator(list(words), trainer)
    merges = [_pair(m) for m in json.loads(trained.to_str())["model"]["merges"]]
    symbols = list(letters) + [c + "</w>" for c in letters] + [a + b for a, b in merges]
    vocab = {s: i for i, s in enumerate(dict.fromkeys(symbols))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    return tokenizer_of(vocab, merges)


def tokenizer_of(vocab: dict[str, int], merges: Sequence[tuple[str, str]]) -> Any:
    """The `CLIPTokenizer` with these ids and byte-pair merges (`vocabulary_of`)."""
    from transformers import CLIPTokenizer

    pairs: Any = [(left, right) for left, right in merges]
    return CLIPTokenizer(vocab=vocab, merges=pairs, model_max_length=MAX_TOKENS)


def vocabulary_of(tokenizer: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A tokenizer's ids by symbol, and its merges in order."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return model["vocab"], [_pair(merge) for merge in model["merges"]]


def save_vocabulary(tokenizer: Any, folder: Path) -> None:
    """Adds `vocab.json` and `merges.txt` to a saved tokenizer, for transformers before 5."""
    vocab, merges = vocabulary_of(tokenizer)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right
