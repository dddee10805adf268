"""What the desk page shows of one person's desk, as desk.js takes it.

A desk is kept open between two keys: reading thousands of judged replies anew for each would be
slow. How many labels are still needed takes a moment to work out: that is done when the desk is
opened and when the count has come down to none; in between it is counted down.
"""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from collections.abc import Mapping
from threading import RLock
from typing import Any

import gradio as gr

from charllm.core.judging.rubric import Rubric
from charllm.core.judging.score import NAMES
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.data.profile import Profile, load_profile
from charllm.services.desk import Card, Desk, Progress, Who
from charllm.services.store import Judgement, Store
from charllm.ui.desk_html import hint, judge_name, rubric_data, rubric_for, threshold_of
from charllm.ui.judge_html import gate_text, percent
from charllm.ui.words import language_of, say

KEPT = 8
"""So many desks stay open at once."""
KINDS = {
    "level": Text("all levels", "全段階から"),
    "threshold": Text("near the threshold", "しきい値の近く"),
    "disagree": Text("judges disagree", "ジャッジの不一致"),
}
FINISHED = Text(
    "Everything here has been scored or skipped. Thank you! See what it tells on the Agreement "
    "page, or choose other replies above.",
    "ここの返答はすべて採点済み（または飛ばし済み）です。ありがとうございました。"
    "結果は「一致度」で見られます。上の欄で別の返答も選べます。",
)
_serial = itertools.count(time.time_ns() // 1_000_000)
"""What is on the desk later has the greater number, also after a restart."""
_open: OrderedDict[tuple[Any, ...], DeskView] = OrderedDict()
_lock = RLock()


def message(words: Text, request: gr.Request) -> dict[str, Any]:
    """The desk with nothing on it but what to do."""
    return {"serial": next(_serial), "message": say(words, request), "card": None, "reveal": None}


def desk_view(
    paths: Paths, store: Store, slug: str, who: Who, source: str, name: str, *, anew: bool = False
) -> DeskView:
    """The desk that is open for these, or a new one; ``anew`` reads everything again."""
    key = (str(store.path), slug, who, source, name)
    with _lock:
        if anew or key not in _open:
            rubric = rubric_for(paths, who.rubric)
            threshold = threshold_of(paths, source)
            desk = Desk(store, slug, who, name, source, threshold, rubric.scale)
            _open[key] = DeskView(desk, load_profile(paths, slug), rubric)
        _open.move_to_end(key)
        while len(_open) > KEPT:
            _open.popitem(last=False)
        return _open[key]


class DeskView:
    """One person's desk as data for the page."""

    def __init__(self, desk: Desk, profile: Profile, rubric: Rubric) -> None:
        self.desk, self.profile, self.rubric = desk, profile, rubric
        self.lock = RLock()
        self.progress: Progress = desk.progress
        self.current: Card | None = desk.next()
        self.given: int | None = None
        """The hand score of the current card, None while it is not given."""
        self.done: list[bool] = []
        """What was done since it was opened, the latest last: True a score, False a skip."""

    def act(self, data: Mapping[str, Any], request: gr.Request) -> dict[str, Any]:
        """What a key or a button does; ``UserError`` for a score that is off the scale.

        A key for another card than the one on the desk (pressed in a second window) does nothing.
        """
        action, subject = data["action"], data["subject"]
        with self.lock:
            here = self.current is not None and self.current.subject == subject
            if action == "undo":
                self._undo()
            elif here and action == "give" and self.given is None:
                score = int(data["score"])
                self.desk.give(subject, score, str(data.get("note") or ""))
                self.given = score
                self._count(scored=True)
            elif here and action == "skip" and self.given is None:
                self.desk.skip(subject, str(data.get("note") or ""))
                self._count(scored=False)
                self._next()
            elif here and action == "next" and self.given is not None:
                self._next()
            return self.shown(request)

    def shown(self, request: gr.Request) -> dict[str, Any]:
        """The page's value as things stand."""
        with self.lock:
            value: dict[str, Any] = {
                "serial": next(_serial),
                "message": "" if self.current else say(FINISHED, request),
                "card": self._card(self.current) if self.current else None,
                "reveal": self._reveal(request) if self.given is not None else None,
                "rubric": rubric_data(self.rubric, request),
                "progress": self._progress(request),
                "undo": self.progress.given + self.progress.skipped > 0,
                "language": self.profile.language,
            }
        return value

    def _next(self) -> None:
        self.given = None
        self.current = self.desk.next()

    def _undo(self) -> None:
        """Take the last one back; it comes onto the desk again."""
        if self.desk.undo() is not None:
            if self.done:
                self._change(1 if self.done.pop() else 0, sign=-1)
            else:
                self.progress = self.desk.progress
        self._next()

    def _count(self, *, scored: bool) -> None:
        self.done.append(scored)
        some = self.progress.needed > 0
        self._change(1 if scored else 0)
        if some and not self.progress.needed:
            self.progress = self.desk.progress

    def _change(self, scored: int, sign: int = 1) -> None:
        """One more score (or skip, where ``scored`` is 0), or with ``sign`` -1 one less."""
        now = self.progress
        self.progress = Progress(
            now.given + sign * scored,
            now.skipped + sign * (1 - scored),
            now.left - sign,
            max(0, now.needed - sign * scored),
        )

    def _card(self, card: Card) -> dict[str, Any]:
        return {
            "subject": card.subject,
            "question": card.question,
            "reply": card.reply,
            "history": [{"role": role, "content": text} for role, text in card.history],
            "gold": list(card.gold),
            "hint": hint(self.profile),
        }

    def _reveal(self, request: gr.Request) -> dict[str, Any]:
        assert self.current is not None and self.given is not None
        rows = self.desk.reveal(self.current.subject)
        return {"score": self.given, "judges": [_judged(row, request) for row in rows]}

    def _progress(self, request: gr.Request) -> dict[str, Any]:
        now = self.progress
        words = Text(
            f"{now.given:,} scored · {now.left:,} waiting · "
            + (
                f"about {now.needed:,} more for a usable interval"
                if now.needed
                else "enough for a usable interval"
            ),
            f"採点 {now.given:,} 件・残り {now.left:,} 件・"
            + (
                f"信頼できる区間まであと約 {now.needed:,} 件"
                if now.needed
                else "必要な件数に達しました"
            ),
        )
        goal = now.given + now.needed
        kinds = [[key, say(name, request)] for key, name in KINDS.items()]
        return {
            "words": say(words, request),
            "share": now.given / goal if goal else 1.0,
            "kinds": kinds,
        }


def _judged(row: Judgement, request: gr.Request) -> dict[str, Any]:
    """One verdict of a judge, in words."""
    parts = " · ".join(
        f"{say(NAMES[key], request) if key in NAMES else key} {percent(value)}"
        for key, value in row.parts.items()
        if key != "gate"
    )
    why = row.unscored_ja if language_of(request) == "ja" and row.unscored_ja else ""
    return {
        "name": f"{judge_name(row.judge, request)} · {row.rubric}",
        "short": judge_name(row.judge, request),
        "score": row.score,
        "parts": parts,
        "rationale": row.rationale,
        "flaws": " / ".join(row.flaws),
        "gate": gate_text(row.gate, request) if row.gate else "",
        "unscored": why or row.unscored_reason,
    }
