"""A chat model in this machine's memory that answers a judge's prompts, many in one batch.

Loaded at the first question. It does not know what it is asked about, or what becomes of the
answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from charllm.core.judging.cache import Answer
from charllm.data.config import Paths
from charllm.data.dialogue import Message
from charllm.data.errors import Language

BATCH = 8
"""Questions that are best asked at once."""
WHOLE = ("end", "stop_string")
"""Why generation ends a whole answer; after any other reason it is one that was cut."""


class Asked(NamedTuple):
    messages: tuple[Message, ...]
    seed: int


class LocalModel:
    """To be used from one thread. ``UserError`` where there is no such model."""

    def __init__(self, paths: Paths, model: str, language: Language) -> None:
        from charllm.core.models import model_folder, weights_hash

        self.name = model
        self.folder = model_folder(paths, model)
        self.weights = weights_hash(self.folder)
        self._language = language
        self._loaded: tuple[Any, Any, Any] | None = None

    @property
    def id(self) -> str:
        """The model's name and its weights: another model in the same folder is another judge."""
        return f"local:{self.name.rstrip('/').rsplit('/', 1)[-1]}@{self.weights[:8]}"

    def answers(
        self, asked: Sequence[Asked], *, temperature: float, max_tokens: int
    ) -> list[Answer]:
        """One answer a question, in their order; ``finish`` is "stop" for a whole one."""
        from charllm.core.generation import GenerationPreset, Request, generate_all
        from charllm.data.prompts import end_ids, prompt_ids

        model, tokenizer, template = self._load()
        preset = GenerationPreset(temperature=temperature, max_new_tokens=max_tokens)
        requests = [
            Request(
                column=str(number),
                prompt_ids=prompt_ids(template, tokenizer, one.messages),
                preset=preset.model_copy(update={"seed": one.seed}),
                end_ids=end_ids(template, tokenizer),
                stop_strings=template.stop_strings,
            )
            for number, one in enumerate(asked)
        ]
        start = time.monotonic()
        done = generate_all(model, tokenizer, requests)
        seconds = round((time.monotonic() - start) / len(asked), 3)
        return [
            Answer(
                text=one.text,
                finish="stop" if one.reason in WHOLE else one.reason,
                tokens_in=one.prompt_tokens,
                tokens_out=one.generated,
                seconds=seconds,
                model=self.id,
            )
            for one in done
        ]

    def close(self) -> None:
        self._loaded = None

    def _load(self) -> tuple[Any, Any, Any]:
        """Model, tokenizer and the template that its family talks in."""
        if self._loaded is None:
            from charllm.core.catalog import find_model, template_name
            from charllm.core.models import load_model, shared_tokenizer
            from charllm.data.prompts import get_template

            template = get_template(template_name(find_model(self.name), self._language))
            self._loaded = (load_model(self.folder), shared_tokenizer(self.folder), template)
        return self._loaded
