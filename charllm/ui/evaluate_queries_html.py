"""Questions of an evaluation with two variants' replies side by side, all escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import gradio as gr

from charllm.core.evaluation.reply_records import Reply
from charllm.core.judging.records import Record
from charllm.data.errors import Text
from charllm.services.evaluate_hand import given
from charllm.services.evaluate_rows import Kept, Pair, Rows
from charllm.services.store import Store
from charllm.ui.evaluate_html import number_text
from charllm.ui.judge_html import UNKNOWN, gate_text, parts_text
from charllm.ui.train_html import words
from charllm.ui.words import say

STOPS: dict[str, Text] = {
    "end": Text("ended by itself", "自分で終了"),
    "stop_string": Text("ended by itself", "自分で終了"),
    "length": Text("cut off at the limit", "上限で打ち切り"),
    "repetition": Text("stopped in a loop", "ループで停止"),
    "cancelled": Text("cancelled", "中断"),
}


@dataclass(frozen=True)
class Look:
    """Who is compared by which judge, and who looks on (``person`` "" scores nothing)."""

    rows: Rows
    judge: str
    a: str
    b: str
    store: Store
    person: str

    @property
    def scale(self) -> tuple[int, int]:
        low, high = self.rows.card(self.judge)["scale"] if self.judge else (1, 7)
        return low, high


def pairs_html(look: Look, pairs: Sequence[Pair], first: int, request: gr.Request) -> str:
    """These questions; ``first`` is the place of the first of them in the order, from 1."""
    cards = [_card(look, pair, first + n, request) for n, pair in enumerate(pairs)]
    return f'<div class="pairs">{"".join(cards)}</div>'


def _card(look: Look, pair: Pair, place: int, request: gr.Request) -> str:
    query = look.rows.queries[pair.query]
    tags = "".join(f'<span class="chip">{escape(tag)}</span>' for tag in query.tags)
    gold = ""
    if query.gold:
        facts = "".join(f"<li>{escape(fact)}</li>" for fact in query.gold)
        title = words(Text("Facts it needs", "必要な事実"), request)
        gold = f'<div class="gold"><span class="note">{title}</span><ul>{facts}</ul></div>'
    sides = "".join(
        _side(look, name, look.rows.repeats(name, pair.query), request) for name in (look.a, look.b)
    )
    kind = "good" if (pair.difference or 0) > 0 else "bad" if (pair.difference or 0) < 0 else ""
    return (
        f'<article class="paircard" data-query="{escape(pair.query)}"><header>'
        f'<span class="count">{place}</span><b class="asked">{escape(query.text)}</b>'
        f'<span class="note">{escape(pair.query)}</span>{tags}'
        f'<span class="gap {kind}">{number_text(pair.difference, "sign")}</span></header>'
        f'{gold}<div class="sides">{sides}</div></article>'
    )


def _side(look: Look, name: str, kept: Sequence[Kept], request: gr.Request) -> str:
    labels = {one.name: one.label for one in look.rows.planned.variants}
    head = words(labels[name], request) if name in labels else escape(name)
    none = f'<p class="note">{words(Text("no reply yet", "まだ返答がありません"), request)}</p>'
    inside = "".join(_reply(look, one, request) for one in kept)
    beside = f'<span class="note">{escape(name)}</span>'
    return f"<section><h5>{head} {beside}</h5>{inside or none}</section>"


def _reply(look: Look, kept: Kept, request: gr.Request) -> str:
    reply, key = look.rows.reply(kept), kept.task.key
    if reply.failed is not None:
        return f'<div class="banner bad">{words(reply.failed, request)}</div>'
    records = look.rows.records(look.judge, key) if look.judge else []
    stop = STOPS.get(reply.stop_reason, Text(reply.stop_reason or UNKNOWN, reply.stop_reason))
    chips = [
        say(stop, request),
        say(Text(f"{kept.length} characters", f"{kept.length} 文字"), request),
    ]
    if reply.tokens is not None:
        chips.append(say(Text(f"{reply.tokens} tokens", f"{reply.tokens} トークン"), request))
    told = "".join(f'<span class="chip">{escape(text)}</span>' for text in chips)
    return (
        f'<div class="kept" data-key="{escape(key)}"><p class="said">'
        f"{escape(reply.text.strip()) or '–'}</p>"
        f'<div class="chips">{_score(look, key, request)}{told}</div>'
        f'{_hand(look, reply, key, request)}<div class="folds">{_reasons(records, request)}'
        f"{_facts(reply, request)}{_prompt(reply, request)}</div></div>"
    )


def _score(look: Look, key: str, request: gr.Request) -> str:
    verdicts = look.rows.verdicts(look.judge, key)
    if not verdicts:
        return f'<span class="score none">{words(Text("not judged", "未採点"), request)}</span>'
    score = look.rows.score(look.judge, key)
    if score is None:
        return f'<span class="score none">{words(Text("unscored", "採点不能"), request)}</span>'
    low, high = look.scale
    share = (score - low) / (high - low)
    kind = "good" if share >= 2 / 3 else "fair" if share >= 1 / 3 else "poor"
    return f'<span class="score {kind}"><b>{score:.1f}</b><span class="of">/ {high}</span></span>'


def _hand(look: Look, reply: Reply, key: str, request: gr.Request) -> str:
    """A button a level, the standing score marked; a second press takes it back."""
    if not look.judge:
        return ""
    low, high = look.scale
    mine = given(look.store, look.rows, look.judge, reply, look.person)
    buttons = "".join(
        f'<button type="button" class="small{" on" if level == mine else ""}" data-do="hand" '
        f'data-key="{escape(key)}" data-score="{level}">{level}</button>'
        for level in range(low, high + 1)
    )
    title = words(Text("Your score", "あなたの点数"), request)
    return f'<div class="hand"><span class="note">{title}</span>{buttons}</div>'


def _reasons(records: Sequence[Record], request: gr.Request) -> str:
    if not records:
        return ""
    said = []
    for one in records:
        lines = [gate_text(one.gate, request), parts_text(one, request), one.rationale]
        lines += list(one.flaws) + ([say(one.unscored, request)] if one.unscored else [])
        said.append("\n".join(filter(None, lines)))
    return _fold(Text("The judge's reasons", "ジャッジの理由"), "\n\n".join(said), request)


def _facts(reply: Reply, request: gr.Request) -> str:
    if not reply.facts:
        return ""
    used = say(Text("shown", "提示"), request)
    lines = [
        f"{float(one['similarity']):.3f} {used if one['used'] else '–'} {one['fact']}"
        for one in reply.facts
    ]
    return _fold(Text("Facts looked up", "検索した事実"), "\n".join(lines), request)


def _prompt(reply: Reply, request: gr.Request) -> str:
    whole = f"{reply.prompt}\n\n{reply.weights}"
    return _fold(Text("Prompt and weights", "プロンプトと重み"), whole, request)


def _fold(title: Text, text: str, request: gr.Request) -> str:
    return (
        f"<details><summary>{words(title, request)}</summary>"
        f'<pre class="promptview">{escape(text)}</pre></details>'
    )
