"""What the agreement page shows: judges against hand scores, people, and each other; in HTML."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape
from statistics import fmean

import gradio as gr

from charllm.core.judging.agreement import Agreement, Pair
from charllm.core.statistics import Interval
from charllm.data.errors import Text
from charllm.services.desk import JudgeAgreement
from charllm.services.judge_pairs import JudgePair
from charllm.ui.desk_html import judge_name
from charllm.ui.judge_html import UNKNOWN, empty, figures, table
from charllm.ui.page import banner
from charllm.ui.words import say

DOTS = 400
"""So many replies are drawn at most; the table counts all."""
BANDS = 4
MEASURES: dict[str, Text] = {
    "kappa": Text("Weighted κ", "重み付き κ"),
    "spearman": Text("Spearman ρ", "Spearman ρ"),
    "bias": Text("Bias (judge − hand)", "偏り（ジャッジ−手採点）"),
    "mae": Text("Mean error", "平均誤差"),
    "exact": Text("Exact", "完全一致"),
    "within_one": Text("Within one", "差1以内"),
}
LENGTHS: dict[str, Text] = {
    "hand_and_length": Text("hand score and length (ρ)", "手採点と長さの相関 ρ"),
    "judge_and_length": Text("judge's score and length (ρ)", "ジャッジのスコアと長さの相関 ρ"),
    "length_preference": Text(
        "judge's liking for length among replies that people scored alike (ρ)",
        "手採点が同じ返答どうしで見た、ジャッジの長さへの好み ρ",
    ),
}
SHARES = ("exact", "within_one")
NOTHING = Text(
    "No hand scores yet. Score some replies on the Spot check page; each judge's agreement with "
    "them appears here.",
    "手採点がまだありません。「手採点」で返答を採点すると、ここに各ジャッジとの一致度が"
    "表示されます。",
)


def value_html(interval: Interval, share: bool, request: gr.Request) -> str:
    """The figure with its interval below; where it cannot be told, why not."""
    if interval.value is None:
        why = escape(say(interval.reason, request)) if interval.reason else ""
        return f'<td class="num" title="{why}">{UNKNOWN}</td>'
    text = f"{interval.value:.0%}" if share else f"{interval.value:.2f}"
    if interval.low is None or interval.high is None:
        why = escape(say(interval.reason, request)) if interval.reason else ""
        return f'<td class="num" title="{why}">{text}</td>'
    low, high = (f"{x:.0%}" if share else f"{x:.2f}" for x in (interval.low, interval.high))
    return f'<td class="num"><b>{text}</b><span class="note">{low} … {high}</span></td>'


def overview_html(rows: Sequence[JudgeAgreement], request: gr.Request) -> str:
    """A row for each judge and rubric version that hand scores speak of, with a plain verdict."""
    if not rows:
        return empty(NOTHING, request)
    heads = [
        Text("Judge", "ジャッジ"),
        Text("Hand scores", "手採点"),
        *MEASURES.values(),
        Text("Unscored", "採点なし"),
        Text("Still needed", "必要な追加"),
    ]
    body = []
    for row in rows:
        found = row.agreement
        name = (
            f'<td class="wide"><b>{escape(judge_name(row.who.judge, request))}</b>'
            f'<span class="note">{escape(f"{row.who.rubric} {row.who.version}")}</span>'
            f"{escape(say(found.verdict, request))}</td>"
        )
        measured = [value_html(getattr(found, key), key in SHARES, request) for key in MEASURES]
        needed = f"<td class='num'>{found.needed or '✓'}</td>"
        counts = f"<td class='num'>{found.n:,}</td>"
        body.append((name, counts, *measured, f"<td class='num'>{found.unscored:,}</td>", needed))
    note = Text(
        "Below each figure: its 95 % interval over questions (bootstrap). κ counts large "
        "differences more and takes away what chance would agree on.",
        "各値の下は、質問単位のブートストラップによる 95% 区間です。κ は大きなずれほど重く数え、"
        "偶然の一致を差し引いた値です。",
    )
    shown = table([say(head, request) for head in heads], body)
    return f'{shown}<p class="note">{escape(say(note, request))}</p>'


def detail_html(found: Agreement, pairs: Sequence[Pair], request: gr.Request) -> str:
    """One judge: its verdict, the table of levels, and scores against the replies' length."""
    kind = "good" if (found.kappa.low or 0.0) >= 0.4 else ""
    parts = [banner(say(found.verdict, request), kind)]
    if not found.n:
        return parts[0]
    levels = Text(
        "Hand score against the judge's (counts)", "手採点とジャッジのスコアの対応（件数）"
    )
    lengths = Text("Scores against the reply's length", "返答の長さとスコア")
    cells = [
        (figure_text(getattr(found, key)), say(name, request), "") for key, name in LENGTHS.items()
    ]
    parts.append(
        f'<div class="agreeparts"><div><h4>{escape(say(levels, request))}</h4>'
        f"{confusion_html(found, request)}</div><div><h4>{escape(say(lengths, request))}</h4>"
        f"{scatter_svg(pairs, found.levels, request)}{bands_html(pairs, request)}</div></div>"
    )
    parts.append(figures(cells))
    return f'<div class="agreeblock">{"".join(parts)}</div>'


def confusion_html(found: Agreement, request: gr.Request) -> str:
    """A row for each level by hand, a column for each of the judge's; darker where more are."""
    most = max((count for row in found.table for count in row), default=0) or 1
    hand = escape(say(Text("hand ↓ / judge →", "手採点↓／ジャッジ→"), request))
    heads = "".join(f"<th>{level}</th>" for level in found.levels)
    body = []
    for level, row in zip(reversed(found.levels), reversed(found.table), strict=True):
        cells = "".join(
            f'<td class="{"same" if column == level else ""}" '
            f'style="--share:{count / most:.3f}">{count or ""}</td>'
            for column, count in zip(found.levels, row, strict=True)
        )
        body.append(f'<tr><th class="axis">{level}</th>{cells}</tr>')
    return (
        f'<table class="confusion"><thead><tr><th class="axis">{hand}</th>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def scatter_svg(pairs: Sequence[Pair], levels: Sequence[int], request: gr.Request) -> str:
    """Each reply twice: a dot for the hand score, a ring for the judge's, by length."""
    scored = [(pair, pair.judge) for pair in pairs if pair.judge is not None][:DOTS]
    if not scored:
        return ""
    longest = max(pair.length for pair, _ in scored) or 1
    wide, high, left, foot = 600, 240, 34, 34
    low, top = levels[0], levels[-1]

    def place(length: int, score: float) -> tuple[float, float]:
        across = left + (wide - left - 12) * length / longest
        return across, 10 + (high - foot - 10) * (top - score) / (top - low)

    shapes = []
    for level in levels:
        y = place(0, level)[1]
        shapes.append(f'<line x1="{left}" x2="{wide}" y1="{y:.1f}" y2="{y:.1f}"/>')
        shapes.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{level}</text>')
    for pair, judge in scored:
        for score, kind in ((float(pair.hand), "hand"), (judge, "judged")):
            x, y = place(pair.length, score)
            shapes.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>')
    for share in (0.0, 0.5, 1.0):
        x = place(round(longest * share), low)[0]
        shapes.append(
            f'<text x="{x:.1f}" y="{high - 14}" text-anchor="middle">{longest * share:.0f}</text>'
        )
    words = say(
        Text(
            "● by hand, ○ by the judge; across: length in characters",
            "● 手採点、○ ジャッジ。横軸は返答の長さ（字）",
        ),
        request,
    )
    return (
        f'<svg class="scatter" viewBox="0 0 {wide} {high}" role="img" '
        f'aria-label="{escape(words)}">{"".join(shapes)}</svg>'
        f'<p class="note">{escape(words)}</p>'
    )


def bands_html(pairs: Sequence[Pair], request: gr.Request) -> str:
    """The same in figures: mean scores in bands of length with as many replies each."""
    scored = sorted(
        ((pair.length, pair.hand, pair.judge) for pair in pairs if pair.judge is not None),
        key=lambda row: row[0],
    )
    size = -(-len(scored) // BANDS)
    body = []
    for start in range(0, len(scored), max(size, 1)):
        band = scored[start : start + size]
        hand, judge = fmean(row[1] for row in band), fmean(row[2] for row in band)
        texts = (f"{band[0][0]}–{band[-1][0]}", str(len(band)), f"{hand:.2f}", f"{judge:.2f}")
        body.append([f"<td class='num'>{text}</td>" for text in (*texts, f"{judge - hand:+.2f}")])
    heads = (
        Text("Length", "長さ（字）"),
        Text("Replies", "件数"),
        Text("Hand", "手採点"),
        Text("Judge", "ジャッジ"),
        Text("Difference", "差"),
    )
    return table([say(head, request) for head in heads], body)


def people_html(rows: Sequence[tuple[str, str, str, Agreement]], request: gr.Request) -> str:
    """Each two people by each rubric: ``(rubric, one, other, agreement)``."""
    if not rows:
        words = Text(
            "No reply has been scored by two people yet. If a second person scores the same "
            "replies, this shows how well people agree: no judge can be asked for more.",
            "2 人が採点した返答はまだありません。同じ返答を別の人も採点すると、人どうしの一致度が"
            "分かります。ジャッジに求められる一致の上限の目安です。",
        )
        return empty(words, request)
    named = {**MEASURES, "bias": Text("Second − first", "後者−前者")}
    heads = (
        Text("People", "採点者"),
        Text("Rubric", "基準"),
        Text("Replies", "件数"),
        *named.values(),
    )
    body = [
        (
            f"<td>{escape(one)} / {escape(other)}</td><td>{escape(rubric)}</td>",
            f"<td class='num'>{found.n}</td>",
            *(value_html(getattr(found, key), key in SHARES, request) for key in MEASURES),
        )
        for rubric, one, other, found in rows
    ]
    return table([say(head, request) for head in heads], body)


def judges_html(rows: Sequence[JudgePair], request: gr.Request) -> str:
    if not rows:
        words = Text(
            "No two judges have scored the same replies yet.",
            "2 つのジャッジが採点した返答はまだありません。",
        )
        return empty(words, request)
    heads = (
        Text("Judges", "ジャッジ"),
        Text("Replies", "件数"),
        MEASURES["kappa"],
        MEASURES["spearman"],
        Text("Second − first", "後者−前者"),
    )
    body = [
        (
            f"<td class='wide'>{_who(row.one, request)} / {_who(row.other, request)}</td>",
            f"<td class='num'>{row.n:,}</td>",
            *(value_html(i, False, request) for i in (row.kappa, row.spearman, row.bias)),
        )
        for row in rows
    ]
    note = Text(
        "Judges' scores are never averaged: they are not on the same scale, and two that agree "
        "may both be wrong.",
        "ジャッジどうしのスコアは平均しません。尺度がそろっておらず、一致していても"
        "両方が誤っていることがあるためです。",
    )
    shown = table([say(head, request) for head in heads], body)
    return f'{shown}<p class="note">{escape(say(note, request))}</p>'


def agreement_csv(rows: Sequence[JudgeAgreement]) -> str:
    """A line a judge: its counts, and every measure with its interval."""
    measures = (*MEASURES, *LENGTHS)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [f"{key}{end}" for key in measures for end in ("", "_low", "_high")]
    writer.writerow(["judge", "rubric", "version", "n", "unscored", "needed", *names])
    for row in rows:
        found = row.agreement
        measured = [getattr(found, key) for key in measures]
        cells = [x for i in measured for x in (i.value, i.low, i.high)]
        who = [f"'{x}" if x.startswith(("=", "+", "-", "@")) else x for x in row.who]
        numbers = ["" if x is None else f"{x:.4f}" for x in cells]
        writer.writerow([*who, found.n, found.unscored, found.needed, *numbers])
    return out.getvalue()


def _who(who: tuple[str, str, str], request: gr.Request) -> str:
    judge, rubric, _ = who
    return escape(f"{judge_name(judge, request)} · {rubric}")


def figure_text(interval: Interval) -> str:
    if interval.value is None:
        return UNKNOWN
    if interval.low is None or interval.high is None:
        return f"{interval.value:.2f}"
    return f"{interval.value:.2f} ({interval.low:.2f} … {interval.high:.2f})"
