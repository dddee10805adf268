"""What the threshold page shows of a filter run: what it keeps and loses, by topic and by row."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from charllm.core.filtering import Cut, Row, Unscored
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.data.text import first_lines
from charllm.services.filtering import DIALOGUES, RECORDS, Filtering, load_filtering
from charllm.services.judge_choice import scale_of
from charllm.services.runs import Run
from charllm.ui.filter_html import run_label
from charllm.ui.judge_html import (
    UNKNOWN,
    empty,
    figures,
    gate_text,
    histogram,
    parts_text,
    runs_of,
    table,
)
from charllm.ui.page import banner
from charllm.ui.runs_tab import state_chip, state_text
from charllm.ui.words import say

NEAR = 8
"""So many rows on either side of the threshold."""
LOST = 40
TOPICS = 60
CUT = 240
"""Characters of a text that are shown in a table."""


# --- what was judged ----------------------------------------------------------------------------


def run_choices(paths: Paths, request: gr.Request) -> list[tuple[str, str]]:
    """The filter runs that have judged something, with their state."""
    runs = [r for r in runs_of(paths, "filter") if (r.folder / RECORDS).exists()]
    return [(f"{run_label(r)} · {say(state_text(r.status()), request)}", r.id) for r in runs]


def judged(run: Run) -> Filtering:
    """The run read back; kept in memory until more is judged."""
    file = run.folder / RECORDS
    stat = (file if file.exists() else run.folder / DIALOGUES).stat()
    return _judged(run.folder, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=3)
def _judged(folder: Path, size: int, changed: int) -> Filtering:
    return load_filtering(Run(folder))


def pending(found: Filtering) -> int:
    return sum(not row.records for row in found.rows)


def chart(paths: Paths, found: Filtering, threshold: float, unscored: Unscored) -> dict[str, Any]:
    """The whole run for histogram.js, with its slider."""
    scores = [row.score for row in found.rows if row.score is not None and not row.gate]
    return {
        **histogram(scores, scale_of(paths, found.config.judge)),
        "owner": found.run.id,
        "gated": sum(bool(row.gate) for row in found.rows),
        "unscored": sum(row.score is None and bool(row.records) for row in found.rows),
        "pending": pending(found),
        "keepUnscored": unscored == "keep",
        "threshold": threshold,
        "slider": True,
    }


def head_html(found: Filtering, request: gr.Request) -> str:
    """Whose scores these are, and whether they are all."""
    status = found.run.status()
    by = next((row.records[0] for row in found.rows if row.records), None)
    judge = f"{by.judge} · {by.rubric} ({by.version})" if by else UNKNOWN
    missing = pending(found)
    words = Text(
        f"{found.config.dataset}, judged by {judge}.",
        f"{found.config.dataset} を {judge} が採点しました。",
    )
    told = [say(words, request)]
    if missing:
        part = Text(
            f"This run is not complete: {len(found.rows) - missing:,} of {len(found.rows):,} rows "
            "are judged. The others count as rows without a verdict.",
            f"まだ途中です。{len(found.rows):,} 行中 {len(found.rows) - missing:,} 行が採点済みで、"
            "残りは「採点できなかった行」として扱います。",
        )
        told.append(say(part, request))
    chip = state_chip(status, request)
    return f'<div class="banner"><span>{chip} {escape(" ".join(told))}</span></div>'


# --- what a threshold does ----------------------------------------------------------------------


def counts_html(found: Filtering, cut: Cut, request: gr.Request) -> str:
    """What is kept, in figures."""
    kept = set(cut.kept)
    rows = [row for row in found.rows if row.item.id in kept]
    scores = [row.score for row in rows if row.score is not None]
    said, all_said = _characters(rows), _characters(found.rows)
    lost_topics = [topic for topic, (n, _) in cut.topics.items() if not n and topic]
    share = f"{len(rows) / len(found.rows):.0%}" if found.rows else UNKNOWN
    cells = [
        (f"{len(cut.kept):,}", Text(f"rows kept ({share})", f"残る行（{share}）"), "good"),
        (f"{len(cut.dropped):,}", Text("rows taken out", "外す行"), ""),
        (
            f"{said:,}",
            Text(
                f"characters of replies kept, of {all_said:,}",
                f"残る返答の文字数（全 {all_said:,}）",
            ),
            "",
        ),
        (
            f"{sum(scores) / len(scores):.2f}" if scores else UNKNOWN,
            Text("mean score of the kept", "残る行の平均スコア"),
            "",
        ),
        (
            str(len(lost_topics)),
            Text("topics lost altogether", "すべて失う話題"),
            "bad" if lost_topics else "good",
        ),
    ]
    return figures((value, say(words, request), kind) for value, words, kind in cells)


def _characters(rows: Iterable[Row]) -> int:
    return sum(len(row.item.reply) for row in rows)


def topics_html(cut: Cut, request: gr.Request) -> str:
    """Those that lose most come first; lost altogether is marked."""
    topics = sorted(cut.topics.items(), key=lambda item: (bool(item[1][0]), -item[1][1]))
    body = "".join(_topic(name, *counts, request) for name, counts in topics[:TOPICS])
    title = Text(
        f"By topic: kept of all ({len(topics)})", f"話題ごとに残る行（{len(topics)} 話題）"
    )
    more = len(topics) - TOPICS
    rest = say(Text(f"and {more} more", f"ほか {more} 件"), request) if more > 0 else ""
    return (
        f'<details class="fold" open><summary>{escape(say(title, request))}</summary>'
        f'<div class="topics">{body}</div><span class="note">{escape(rest)}</span></details>'
    )


def _topic(topic: str, kept: int, lost: int, request: gr.Request) -> str:
    name = topic or say(Text("(no topic)", "（話題なし）"), request)
    gone = "" if kept else ' class="lostall"'
    share = 100 * kept / (kept + lost)
    return (
        f'<div{gone} data-topic><span title="{escape(name)}">{escape(name)}</span>'
        f'<div class="bar"><i style="width:{share:.0f}%"></i></div><b>{kept} / {kept + lost}</b>'
        "</div>"
    )


# --- row by row ---------------------------------------------------------------------------------


def rows_html(found: Filtering, threshold: float, unscored: Unscored, request: gr.Request) -> str:
    """Rows on either side of the threshold, then the lost ones, the best of them first."""
    scored = sorted(
        (row for row in found.rows if row.score is not None and not row.gate),
        key=lambda row: -(row.score or 0.0),
    )
    over = [row for row in scored if row.kept(threshold, unscored)]
    under = [row for row in scored if not row.kept(threshold, unscored)]
    near = [*over[-NEAR:], *under[:NEAR]]
    gated = [row for row in found.rows if row.gate and not row.kept(threshold, unscored)]
    silent = [row for row in found.rows if row.score is None and row.records]
    groups = (
        (Text("Around the threshold", "しきい値の前後"), near, len(near), True),
        (Text("Taken out by the score", "スコアで外す行"), under, len(under), False),
        (Text("Stopped by the gate", "ゲートで止めた行"), gated, len(gated), False),
        (Text("Without a verdict", "採点できなかった行"), silent, len(silent), False),
    )
    return "".join(
        _group_html(title, rows, count, opened, threshold, unscored, request)
        for title, rows, count, opened in groups
        if rows
    )


def _group_html(
    title: Text,
    rows: list[Row],
    count: int,
    opened: bool,
    threshold: float,
    unscored: Unscored,
    request: gr.Request,
) -> str:
    heads = [
        Text("Score", "スコア"),
        Text("Question", "質問"),
        Text("Reply", "返答"),
        Text("Why", "理由"),
    ]
    body = [_row_cells(row, row.kept(threshold, unscored), request) for row in rows[:LOST]]
    shown = table([say(text, request) for text in heads], body)
    more = count - LOST
    told = Text(
        f"{more:,} more: all of them, with their reasons, go to the file of the dropped rows.",
        f"ほか {more:,} 行。公開すると、全行が理由つきで「外した行」のファイルに入ります。",
    )
    rest = f'<span class="note">{escape(say(told, request))}</span>' if more > 0 else ""
    return (
        f'<details class="fold"{" open" if opened else ""}><summary>{escape(say(title, request))} '
        f"({count:,})</summary>{shown}{rest}</details>"
    )


def _row_cells(row: Row, kept: bool, request: gr.Request) -> list[str]:
    score = UNKNOWN if row.score is None else f"{row.score:.2f}"
    kind = "good" if kept else "poor"
    return [
        f'<td class="num"><span class="score {kind}"><b>{score}</b></span></td>',
        f'<td class="wide">{escape(first_lines(row.item.query, CUT))}</td>',
        f'<td class="wide">{escape(first_lines(row.item.reply, CUT))}</td>',
        f'<td class="wide note">{escape(reason_text(row, request))}</td>',
    ]


def reason_text(row: Row, request: gr.Request) -> str:
    """Why the row has the score it has: the gate's codes, the judge's words, or its parts."""
    if row.gate:
        return gate_text(row.gate, request)
    if row.unscored and row.score is None:
        return say(row.unscored, request)
    record = next((r for r in row.records if r.score is not None), None)
    if record is None:
        return say(Text("not judged yet", "まだ採点していません"), request)
    if record.parts:
        return parts_text(record, request)
    return " / ".join(filter(None, [*record.flaws, first_lines(record.rationale, CUT)]))


def published_html(made: dict[str, Any], request: gr.Request) -> str:
    """What came of it, and where to go from here."""
    words = Text(
        f"Dataset {made['dataset']} is made: {made['kept']:,} rows kept; {made['dropped']:,} taken "
        f"out, with their reasons in {made['dropped_file']}. It is in the Data tab now; a training "
        f"recipe uses it with the line “dataset: {made['dataset']}” (see recipes/).",
        f"データセット {made['dataset']} を作りました。{made['kept']:,} 行を残し、"
        f"{made['dropped']:,} 行を外しました（理由は {made['dropped_file']}）。"
        f"「データ」タブで見られます。学習には、recipes/ の設定に「dataset: {made['dataset']}」"
        "と書きます。",
    )
    return banner(say(words, request), "good")


def nothing_html(request: gr.Request) -> str:
    words = Text(
        "Nothing has been judged yet. Start a run on the Filter page; its rows appear here while "
        "it is still at work.",
        "採点した行がまだありません。「選別」のページで実行すると、途中でもここに表示されます。",
    )
    return empty(words, request)
