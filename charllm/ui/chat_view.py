"""What the Chat tab shows: the board's state, the lists, and which conversation a page looks at."""

from __future__ import annotations

import json
import time
from typing import Any

import gradio as gr

from charllm.core.catalog import EMBEDDED
from charllm.core.models import is_ready
from charllm.core.variants import list_variants
from charllm.data.errors import Language, Text
from charllm.data.profile import load_profile
from charllm.data.queries import load_queries
from charllm.services import runs
from charllm.ui.page import Page, banner, progress_bar
from charllm.ui.words import say

INTRO = Text(
    "Your question goes to every column at once. Base is the bare model; RAG finds facts of the "
    "character and puts them into the prompt; fine-tuned weights have learnt the voice; merged "
    "weights blend two of them. Rules and small classifiers score each answer; no key is needed.",
    "質問はすべての列に同時に送られます。ベースは素のモデル、RAG は人物の事実を探してプロンプトに"
    "入れたもの、ファインチューンは口調を学んだ重み、マージは二つの重みを混ぜたものです。"
    "答えは規則と小さな分類器で採点され、API キーはいりません。",
)


def variant_choices(page: Page, slug: str, language: Language) -> list[tuple[str, str]]:
    return [(v.label.in_(language), v.name) for v in list_variants(page.paths, slug)]


def conversation_choices(page: Page, slug: str, language: Language) -> list[tuple[str, int]]:
    return [
        (row.title or Text("New conversation", "新しい会話").in_(language), row.id)
        for row in page.chat.conversations(slug)
    ]


def board_state(page: Page, slug: str | None, conversation: int | None) -> dict[str, Any]:
    """What the board draws: the turns, or an invitation where there are none yet."""
    turns = page.chat.view(conversation) if conversation else []
    suggestions = suggested(page, slug) if slug and not turns else []
    return {
        "conversation": conversation or 0,
        "intro": INTRO.as_json(),
        "suggestions": suggestions,
        "turns": turns,
    }


def remembered(stored: str) -> dict[str, Any]:
    """What the browser kept; anything that is not our own record counts as nothing."""
    try:
        kept = json.loads(stored)
    except json.JSONDecodeError:
        return {}
    return kept if isinstance(kept, dict) else {}


def suggested(page: Page, slug: str) -> list[str]:
    """Three questions to begin with: the name, another fact, and an open one."""
    path = page.paths.queries / f"{slug}.jsonl"
    queries = load_queries(path, "search") if path.is_file() else []
    kinds = (
        [q.text for q in queries if "name" in q.tags and q.gold],
        [q.text for q in queries if q.gold and not {"name", "age"} & set(q.tags)],
        [q.text for q in queries if not q.gold and "trap" not in q.tags],
    )
    found = [texts[0] for texts in kinds if texts]
    examples = load_profile(page.paths, slug).examples
    return (found + [example.user for example in examples])[:3]


def model_banner(page: Page, request: gr.Request) -> tuple[str, bool]:
    """HTML on the embedded model's state, and whether it is still being prepared."""
    if is_ready(page.paths, EMBEDDED):
        return "", False
    run = latest_conversion(page)
    if run is None:
        return banner(
            say(
                Text(
                    "The embedded model is not prepared yet. Prepare it in the Models tab.",
                    "内蔵モデルの準備がまだです。「モデル」タブで準備してください。",
                ),
                request,
            )
        ), False
    status = run.status()
    if status.state in ("failed", "crashed", "cancelled"):
        reason = say(status.error.text, request) if status.error else ""
        words = Text(
            f"The embedded model could not be prepared. {reason} Start it again in the Models tab.",
            f"内蔵モデルを準備できませんでした。{reason}「モデル」タブでやり直せます。",
        )
        return banner(say(words, request), "bad"), False
    left = f" · {status.seconds_left:.0f} s" if status.seconds_left is not None else ""
    words = Text(
        "Preparing the embedded model, once. Ask already: the answer comes when it is ready.",
        "内蔵モデルを準備しています（最初の一度だけ）。先に質問しておくこともできます。",
    )
    step = say(status.progress.message.text, request)
    bar = progress_bar(status.progress.share)
    return banner(f"{say(words, request)} {step}{left}", "", bar), True


def latest_conversion(page: Page) -> runs.Run | None:
    return next((run for run in runs.list_runs(page.paths) if run.kind == "model"), None)


class Looking:
    """Which conversation each page shows: what follows another one must not draw over it.

    Told by whatever changes the conversation, never by what follows it, which may begin too late.
    """

    KEPT = 1000
    ARRIVES_WITHIN = 0.15
    """Seconds that an update needs to reach the page; several are under way at any time."""

    def __init__(self) -> None:
        self._at: dict[str, int | None] = {}

    def at(self, request: gr.Request, conversation: int | None) -> None:
        session = request.session_hash or ""
        self._at.pop(session, None)
        self._at[session] = conversation
        while len(self._at) > self.KEPT:
            del self._at[next(iter(self._at))]

    def leave(self, request: gr.Request, conversation: int | None) -> None:
        """``at``, and time for what was drawn of the one that is left to arrive before."""
        self.at(request, conversation)
        time.sleep(self.ARRIVES_WITHIN)

    def where(self, request: gr.Request) -> int | None:
        """What the page shows, as far as it was told."""
        return self._at.get(request.session_hash or "")

    def still(self, request: gr.Request, conversation: int | None) -> bool:
        return self._at.get(request.session_hash or "", conversation) == conversation
