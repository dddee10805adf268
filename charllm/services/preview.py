"""How a prompt will look, without loading a model: only its tokenizer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from charllm.core.catalog import EMBEDDED, find_model, template_name
from charllm.core.models import is_ready, load_tokenizer, model_folder
from charllm.core.replying import ReplySettings, prepare_messages
from charllm.core.retrieval import Hit
from charllm.core.variants import Variant
from charllm.data.config import Paths
from charllm.data.profile import Profile
from charllm.data.prompts import get_template, prompt_ids, prompt_text

_alone = threading.Lock()
"""Encoding switches settings of the one tokenizer that all pages' threads share here."""


@dataclass(frozen=True)
class Preview:
    """The prompt as the model gets it; ``tokens`` is None while the model is not prepared."""

    text: str
    tokens: int | None


def preview_prompt(
    paths: Paths, profile: Profile, question: str, hits: Sequence[Hit], settings: ReplySettings
) -> Preview:
    """The embedded model's prompt with retrieval; its messages alone while it is not prepared."""
    variant = Variant(name="preview", label_en="", label_ja="", rag=True)
    messages = prepare_messages(profile, variant, question, hits, settings)
    if not is_ready(paths, EMBEDDED):
        return Preview("\n\n".join(f"[{m.role}]\n{m.content}" for m in messages), None)
    template = get_template(template_name(find_model(EMBEDDED), profile.language))
    with _alone:
        tokenizer = _tokenizer(model_folder(paths, EMBEDDED))
        ids = prompt_ids(template, tokenizer, messages)
        return Preview(prompt_text(template, tokenizer, messages), len(ids))


@lru_cache(maxsize=2)
def _tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder)
