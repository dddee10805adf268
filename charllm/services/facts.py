"""Facts for a question as the chat and the playground need them: an index that is up to date.

A local embedder's index is brought up to date on the way (a few seconds for some dozen facts);
one that costs money is never built without being asked for.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from charllm.core.embedding import get_embedder
from charllm.core.replying import ReplySettings
from charllm.core.retrieval import Hit, Index, open_index, threshold_for
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.profile import Profile
from charllm.data.progress import Silent

_building = threading.Lock()


@dataclass(frozen=True)
class Found:
    """The nearest facts, best first, and the threshold that decided which are used."""

    hits: list[Hit]
    threshold: float


def find_facts(paths: Paths, profile: Profile, question: str, settings: ReplySettings) -> Found:
    """Look the question up; ``UserError`` where a paid index is missing or out of date."""
    embedder = get_embedder(settings.embedder)
    index = open_index(paths, profile, embedder)
    with _building:
        state = index.state()
        if state.kind != "ready":
            if settings.embedder.kind == "openai":
                raise UserError(
                    f"The index of {profile.name} for {embedder.id} is {state.kind}. Build it in "
                    "the Character tab; it asks the endpoint once for every new fact.",
                    f"{profile.name} の {embedder.id} 用の索引が最新ではありません。"
                    "「キャラクター」タブで作成してください（新しい事実の分だけ問い合わせます）。",
                )
            _build(index)
    limit = settings.threshold
    if limit is None:
        limit = threshold_for(paths, profile.slug, embedder)
    return Found(index.retrieve(question, settings.top_k, limit), limit)


def _build(index: Index) -> None:
    """Bring the index up to date; another process that was quicker has done the same."""
    try:
        index.build(Silent())
    except UserError:
        if index.state().kind != "ready":
            raise
