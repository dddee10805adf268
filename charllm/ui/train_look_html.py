"""What the Look page shows, all escaped: counts, rows as tokens, leaks, memory and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from charllm.core.training_config import TrainConfig
from charllm.core.training_memory import PARTS
from charllm.data.errors import Text
from charllm.data.settings import Setting, settings_of
from charllm.services.train_forms import value_text
from charllm.services.train_look import Look
from charllm.ui.judge_html import figures
from charllm.ui.runs_tab import seconds_text
from charllm.ui.train_html import words
from charllm.ui.words import say

LISTED = 20
"""Leaks that are listed; more are only counted."""
KINDS = {
    "shared": Text("what all rows begin with", "すべての行に共通の冒頭"),
    "prompt": Text("prompt, not learnt", "プロンプト（学習しない）"),
    "learnt": Text("learnt, token by token", "学習する部分（トークンごと）"),
    "end": Text("the end token, learnt once", "終了トークン（1 回だけ学習）"),
}
NOTHING = Text(
    "Press “Look before training”: the rows appear here as the model will see them.",
    "「学習前に確認」を押すと、モデルに渡される行がここに表示されます。",
)
NO_ROWS = Text(
    "There are no rows to show; the reason stands above.",
    "表示できる行がありません。理由は上に表示しています。",
)
ON, OFF = Text("on", "オン"), Text("off", "オフ")


def look_html(found: Look | None, request: gr.Request) -> str:
    """Counts, leaks, time and memory."""
    if found is None:
        return f'<p class="note">{words(NOTHING, request)}</p>'
    parts = []  # the problem itself stands in the bar above
    if "remote" in found.totals:
        parts.append(_remote_html(found.totals["remote"], request))
    elif found.totals:
        parts.append(_totals_html(found, request))
        parts += _leaks_html(found.totals, request)
    else:
        parts.append(f'<p class="note">{words(NO_ROWS, request)}</p>')
    if found.memory:
        parts.append(memory_html(found.config, found.memory, request))
    return f'<div class="stacked" data-looked>{"".join(parts)}</div>'


def _totals_html(found: Look, request: gr.Request) -> str:
    counts = found.totals
    over, leaked, asked = counts["over"], len(counts["leaks"]), len(counts["queries"])
    share = f"{counts['learnt'] / counts['tokens']:.0%}"
    limit = counts["max_length"]
    cells = [
        (f"{counts['rows']:,}", Text("rows to train on", "学習する行"), ""),
        (f"{counts['held_out']:,}", Text("held-out rows", "評価用の行"), ""),
        (f"{counts['tokens']:,}", Text("tokens an epoch", "トークン（1 エポック）"), ""),
        (
            f"{counts['learnt']:,}",
            Text(f"of them learnt ({share})", f"うち学習する分（{share}）"),
            "",
        ),
        (f"{counts['longest']:,}", Text("tokens of the longest", "最長の行のトークン数"), ""),
        (
            f"{over:,}",
            Text(f"longer than {limit}", f"{limit} を超える行"),
            "bad" if over else "good",
        ),
        (
            f"{leaked:,}",
            Text("held out, but nearly trained on", "学習用とほぼ同じ評価用の行"),
            "fair" if leaked else "good",
        ),
        (
            f"{asked:,}",
            Text("near a question of a query set", "評価用の質問と重なる行"),
            "fair" if asked else "good",
        ),
    ]
    if found.seconds is not None:
        cells.append(
            (
                seconds_text(found.seconds),
                Text("to train, as fast as last time", "学習時間（前回の速さから）"),
                "",
            )
        )
    return figures((value, say(text, request), kind) for value, text, kind in cells)


def _remote_html(sent: Mapping[str, int], request: gr.Request) -> str:
    cells = [
        ("examples", Text("examples to send", "送信する例")),
        ("held_out", Text("held-out examples", "評価用の例")),
        ("tokens", Text("tokens, roughly", "トークン（概算）")),
        ("billed", Text("tokens to be billed, roughly", "課金対象のトークン（概算）")),
    ]
    return figures((f"{sent[name]:,}", say(text, request), "") for name, text in cells)


def _leaks_html(counts: Mapping[str, Any], request: gr.Request) -> list[str]:
    heads = {
        "leaks": Text(
            "Held-out dialogues that read almost like one that is trained on: their loss says too "
            "little. The Data tab can remove duplicates.",
            "学習用の会話とほぼ同じ評価用の会話です。評価用の損失が実際より低く出ます。"
            "重複は「データ」タブで取り除けます。",
        ),
        "queries": Text(
            "Dialogues that are trained on and ask what a query set asks: results on that set "
            "would flatter.",
            "評価用の質問セットと重なる学習用の会話です。そのセットでの結果が良く見えすぎます。",
        ),
    }
    return [
        _pairs_html(text, counts[name], request) for name, text in heads.items() if counts[name]
    ]


def _pairs_html(text: Text, pairs: Sequence[tuple[str, str]], request: gr.Request) -> str:
    rows = "".join(f"<li>{escape(one)} ↔ {escape(other)}</li>" for one, other in pairs[:LISTED])
    more = len(pairs) - LISTED
    rest = Text(f"and {more} more", f"ほか {more} 件")
    tail = f"<li>{words(rest, request)}</li>" if more > 0 else ""
    return (
        f'<details class="fold"><summary>{words(text, request)} ({len(pairs)})</summary>'
        f"<ul>{rows}{tail}</ul></details>"
    )


# --- memory -------------------------------------------------------------------------------------


def memory_html(config: TrainConfig, memory: Mapping[str, Any], request: gr.Request) -> str:
    """The quote as a bar of its parts against what is free, and what would make it fit."""
    total, free = memory["total_gb"], memory["available_gb"]
    scale = max(total, free, 0.001)
    bars = "".join(
        f'<i class="part{place}" style="width:{100 * size / scale:.2f}%" '
        f'title="{words(PARTS[name], request)} {size:.2f} GB"></i>'
        for place, (name, size) in enumerate(memory["parts"].items())
    )
    legend = "".join(
        f'<li><i class="part{place}"></i>{words(PARTS[name], request)} <b>{size:.2f} GB</b></li>'
        for place, (name, size) in enumerate(memory["parts"].items())
    )
    fits = memory["fits"]
    where = "GPU" if memory["device"] == "cuda" else Text("main memory", "メインメモリー")
    named = where if isinstance(where, str) else say(where, request)
    head = Text(
        f"Peak memory about {total:.1f} GB; {free:.1f} GB are free ({named})",
        f"最大メモリーの見込みは約 {total:.1f} GB、空きは {free:.1f} GB です（{named}）",
    )
    lines = "" if fits else _measures_html(config, memory, request)
    return (
        f'<div class="memory {"" if fits else "short"}"><b>{words(head, request)}</b>'
        f'<div class="membar">{bars}<em style="left:{100 * free / scale:.2f}%"></em></div>'
        f'<ul class="memlegend">{legend}</ul>{lines}</div>'
    )


def _measures_html(config: TrainConfig, memory: Mapping[str, Any], request: gr.Request) -> str:
    """A button for each change that would make the run fit; what is learnt stays the same."""
    if not memory["measures"]:
        text = Text(
            "No change of batch, checkpointing or 4-bit weights would make it fit: choose a "
            "smaller base or shorter rows.",
            "バッチ、チェックポイント、4 ビット化のどれを変えても収まりません。小さいベースか、"
            "短い行にしてください。",
        )
        return f"<p>{words(text, request)}</p>"
    lead = Text("It would fit with:", "次のどれかに変えると収まります：")
    buttons = "".join(
        _measure(config, place, measure, request)
        for place, measure in enumerate(memory["measures"])
    )
    return f'<div class="measures"><span>{words(lead, request)}</span>{buttons}</div>'


def _measure(
    config: TrainConfig, place: int, measure: Mapping[str, Any], request: gr.Request
) -> str:
    known = {one.name: one for one in settings_of(type(config))}
    changes = ", ".join(
        f"{say(known[name].label, request)} {_short(known[name], value, request)}"
        for name, value in measure["changes"].items()
    )
    return (
        f'<button type="button" class="small" data-do="measure" data-place="{place}">'
        f"{escape(changes)} → {measure['total_gb']:.1f} GB</button>"
    )


def _short(setting: Setting, value: Any, request: gr.Request) -> str:
    if setting.kind == "switch":
        return say(ON if value else OFF, request)
    return value_text(setting, value)


# --- rows ---------------------------------------------------------------------------------------


def rows_html(page: Mapping[str, Any], request: gr.Request) -> str:
    """A page of rows, token by token, under a legend."""
    if not page["rows"]:
        return ""
    legend = "".join(
        f'<span class="tok {kind}">{words(text, request)}</span>' for kind, text in KINDS.items()
    )
    shared = next((part for part in page["rows"][0]["parts"] if part["kind"] == "shared"), None)
    head = ""
    if shared:
        count = len(shared["tokens"])
        title = Text(
            f"All rows begin with these {count} tokens",
            f"すべての行がこの {count} トークンで始まります",
        )
        head = (
            f'<details class="fold"><summary>{words(title, request)}</summary>'
            f'<div class="toks">{_tokens(shared)}</div></details>'
        )
    rows = "".join(_row_html(row, request) for row in page["rows"])
    return f'<div class="tokenrows"><div class="toklegend">{legend}</div>{head}{rows}</div>'


def _row_html(row: Mapping[str, Any], request: gr.Request) -> str:
    count = Text(
        f"{row['tokens']} tokens, {row['learnt']} learnt",
        f"{row['tokens']} トークン中 {row['learnt']} を学習",
    )
    too_long = words(Text("too long", "長すぎます"), request)
    over = f'<span class="chip bad">{too_long}</span>' if row["over"] else ""
    parts = "".join(_part_html(part) for part in row["parts"])
    return (
        f'<article class="tokenrow" data-row="{escape(row["id"])}"><header><b>{escape(row["id"])}'
        f'</b><span class="note">{words(count, request)}</span>{over}</header>'
        f'<div class="toks">{parts}</div></article>'
    )


def _part_html(part: Mapping[str, Any]) -> str:
    if part["kind"] == "shared":
        return f'<span class="tok shared">⋯ {len(part["tokens"])}</span>'
    return _tokens(part)


def _tokens(part: Mapping[str, Any]) -> str:
    """Each token as a span with its id; a line end shows as an arrow before it."""
    return "".join(
        f'<span class="tok {part["kind"]}" title="{token}">{_visible(text)}</span>'
        for text, token in part["tokens"]
    )


def _visible(text: str) -> str:
    return escape(text).replace("\n", "↵\n") if text else "·"
