"""From a question and a variant to a decoding request: retrieval, prompt, weights row.

Chat, evaluation and evolution ask here, so that a variant's prompt is the same in all of them.
It does not know who reads the reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from charllm.core.catalog import find_model, template_name
from charllm.core.embedding import EmbedderConfig
from charllm.core.generation import DEFAULT_PRESET, PRESETS, GenerationPreset, Request
from charllm.core.variants import Variant, load_checkpoint
from charllm.data.config import Config, Paths
from charllm.data.dialogue import Message
from charllm.data.errors import Language, UserError
from charllm.data.profile import Profile
from charllm.data.prompts import build_messages, end_ids, get_template, prompt_ids, prompt_text

if TYPE_CHECKING:
    from charllm.core.merging.adapters import AdapterModel
    from charllm.core.models import Quantization
    from charllm.core.retrieval import Hit

MAX_QUESTION = 4000
REMEMBERED = 4096
"""Prompt tokens whose encoding is kept from one question to the next (a chat's system prompt)."""


class ReplySettings(Config):
    """What all columns of a conversation share.

    ``top_k`` facts are looked up; ``threshold`` None is the embedder's own. ``history_turns``
    earlier turns are shown to the model; 0 asks each question afresh.
    """

    preset: GenerationPreset = PRESETS[DEFAULT_PRESET]
    embedder: EmbedderConfig = EmbedderConfig()
    top_k: int = Field(default=3, ge=1, le=20)
    threshold: float | None = Field(default=None, ge=-1.0, le=1.0)
    history_turns: int = Field(default=0, ge=0, le=50)
    prompt_language: Language | None = None


@dataclass(frozen=True)
class Prepared:
    """A request with what the page shows of it. ``threshold`` is None without retrieval."""

    request: Request
    prompt: str
    hits: tuple[Hit, ...]
    threshold: float | None


def check_question(text: str) -> str:
    """The question without surrounding space; ``UserError`` if empty or longer than 4,000."""
    text = text.encode("utf-8", "replace").decode().strip()  # halves of characters become "?"
    if not text:
        raise UserError("Write a question first.", "質問を入力してください。")
    if len(text) > MAX_QUESTION:
        raise UserError(
            f"The question has {len(text):,} characters; at most {MAX_QUESTION:,} are possible. "
            "It was not sent: shorten it and send again.",
            f"質問が {len(text):,} 文字あります。{MAX_QUESTION:,} 文字までです。"
            "送信していませんので、短くして送り直してください。",
        )
    return text


class Resident:
    """One base model in memory, with the adapters that its variants need.

    Not thread-safe: one worker thread owns it.
    """

    def __init__(self, paths: Paths, model: str, quantization: Quantization = "none") -> None:
        from charllm.core.merging.adapters import AdapterModel
        from charllm.core.models import load_model, model_folder, shared_tokenizer, weights_hash

        self.paths = paths
        self.name = model
        folder = model_folder(paths, model)
        self.tokenizer = shared_tokenizer(folder)
        self.model = load_model(folder, quantization=quantization)
        self.base_hash = weights_hash(folder)
        self._files: dict[str, tuple[int, int, int]] = {}
        self.adapters: AdapterModel = AdapterModel(
            self.model, base_hash=self.base_hash, remember_tokens=REMEMBERED
        )

    def row(self, variant: Variant) -> Any:
        """The batch row that makes this variant's weights; None is the plain base."""
        if not variant.checkpoint:
            return None
        checkpoint = load_checkpoint(self.paths, variant.checkpoint)
        for name in checkpoint.weights:
            self._load(name, load_checkpoint(self.paths, name).folder)
        return self.adapters.row(checkpoint.weights)

    def _load(self, name: str, folder: Path) -> None:
        """Load an adapter, again if its file is another than before (it was trained anew)."""
        file = folder / "adapter_model.safetensors"
        if file.is_file():
            known = file.stat()
            mark = (known.st_ino, known.st_mtime_ns, known.st_size)
            if name in self.adapters and self._files.get(name) == mark:
                return
            self._files[name] = mark
        self.adapters.load(name, folder)

    def fingerprint(self, variant: Variant, row: Any) -> str:
        """Names what answers: base and checkpoint with the first digits of their hashes."""
        base = f"{self.name}@{self.base_hash[:10]}"
        if row is None:
            return base
        return f"{base} + {variant.checkpoint}@{self.adapters.fingerprint(row)[:10]}"


def prepare_messages(
    profile: Profile,
    variant: Variant,
    question: str,
    hits: Sequence[Hit],
    settings: ReplySettings,
    history: Sequence[Message] = (),
) -> list[Message]:
    """The messages a variant is asked with. ``history`` alternates user and assistant."""
    facts = [hit.fact for hit in hits if hit.used] if variant.rag else None
    kept = history[-2 * settings.history_turns :] if settings.history_turns else ()
    language = variant.prompt_language or settings.prompt_language
    return build_messages(profile, question, facts=facts, history=kept, language=language)


def prepare(
    resident: Resident,
    profile: Profile,
    variant: Variant,
    question: str,
    hits: Sequence[Hit],
    settings: ReplySettings,
    *,
    column: str,
    threshold: float | None = None,
    history: Sequence[Message] = (),
) -> Prepared:
    """The decoding request of one column, with its exact prompt."""
    template = get_template(template_name(find_model(variant.model), profile.language))
    messages = prepare_messages(profile, variant, question, hits, settings, history)
    request = Request(
        column=column,
        prompt_ids=prompt_ids(template, resident.tokenizer, messages),
        scales=resident.row(variant),
        preset=settings.preset,
        end_ids=end_ids(template, resident.tokenizer),
        stop_strings=template.stop_strings,
    )
    return Prepared(
        request,
        prompt_text(template, resident.tokenizer, messages),
        tuple(hits) if variant.rag else (),
        threshold if variant.rag else None,
    )
