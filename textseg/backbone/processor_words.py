"""The tokenizer of a processor of text and pictures, for pipelines that ask the processor."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PreTrainedTokenizerFast


class ProcessorWords(PreTrainedTokenizerFast):
    """Read from a processor's folder; takes its place where no pictures are given, without
    torchvision, which the whole processor needs."""

    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask"]

    @property
    def tokenizer(self) -> ProcessorWords:
        return self

    def apply_chat_template(self, *args: Any, **options: Any) -> Any:
        """As a processor: tokens in a list of one, also for a single conversation."""
        told = super().apply_chat_template(*args, **options)
        return told if isinstance(told, str) else [told]
