"""Ratings, win matrix and habits of verdicts, all escaped."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from charllm.core.evaluation.bradley_terry import Ratings
from charllm.core.statistics import Interval
from charllm.data.errors import Text
from charllm.services.evaluate_pairs import Standing
from charllm.ui.evaluate_html import interval_cell, interval_text, number_text
from charllm.ui.evaluate_plots import HIGH, LOW
from charllm.ui.judge_html import UNKNOWN, figures, table
from charllm.ui.page import banner
from charllm.ui.train_html import words
from charllm.ui.words import say


def ratings_html(found: Standing, request: gr.Request) -> str:
    """Everything about one set of verdicts."""
    ratings = found.ratings
    inside = (
        _mixed(ratings, request)
        + _counts(found, request)
        + _ratings(ratings, request)
        + _gaps(ratings, request)
        + _matrix(ratings, request)
    )
    return f'<div class="stacked" data-ratings="{ratings.n}">{inside}</div>'


def _mixed(ratings: Ratings, request: gr.Request) -> str:
    if len(ratings.sources) < 2:
        return ""
    names = ", ".join(ratings.sources)
    text = Text(
        f"These verdicts come from {len(ratings.sources)} sources ({names}): the ratings mix them.",
        f"判定の出どころが {len(ratings.sources)} 種類（{names}）あり、評点はその全体のものです。",
    )
    return banner(say(text, request), "bad")


def _counts(found: Standing, request: gr.Request) -> str:
    ratings, favours = found.ratings, found.habits
    cells = [
        (f"{ratings.n:,}", Text("verdicts", "判定")),
        (f"{favours.ties:,}", Text("ties", "引き分け")),
        (f"{ratings.unscored:,}", Text("without a verdict", "判定なし")),
        (f"{ratings.left_out:,}", Text("left out: length unknown", "長さ不明で除外")),
        (_share(favours.consistent), Text("both orders agree", "順序を替えても一致")),
        (_share(favours.first_place), Text("won by the first shown", "先に見せた方の勝ち")),
        (_share(favours.longer), Text("won by the longer", "長い方の勝ち")),
        (
            UNKNOWN if ratings.length is None else interval_text(ratings.length.as_json(), "sign"),
            Text("length coefficient", "長さの係数"),
        ),
    ]
    return figures([(value, say(text, request), "") for value, text in cells])


def _share(interval: Interval) -> str:
    return number_text(interval.value, "share")


def _ratings(ratings: Ratings, request: gr.Request) -> str:
    heads = (
        Text("Variant", "構成"),
        Text("Rating [95 %]", "評点 [95%区間]"),
        Text("Wins", "勝"),
        Text("Ties", "分"),
        Text("Losses", "負"),
    )
    rows = [
        [
            f"<td>{escape(one.model)}{_why(one.points, request)}</td>",
            interval_cell(one.points.as_json() | {"reason": None}, request, "points", "strong"),
            *(f'<td class="num">{n:,}</td>' for n in (one.wins, one.ties, one.losses)),
        ]
        for one in ratings.ratings
    ]
    note = Text(
        "Bradley–Terry on Elo's scale: 1000 is the mean, 400 points are odds of ten to one. "
        "Intervals are resampled over questions.",
        "Bradley–Terry を Elo の尺度で表しています。平均が 1000、400 点差で勝率比 10 対 1 です。"
        "区間は質問を単位に再標本化したものです。",
    )
    return _titled(Text("Ratings", "評点"), note, heads, rows, request)


def _why(interval: Interval, request: gr.Request) -> str:
    if interval.reason is None:
        return ""
    return f'<br><span class="note">{words(interval.reason, request)}</span>'


def _gaps(ratings: Ratings, request: gr.Request) -> str:
    heads = (
        Text("A", "A"),
        Text("B", "B"),
        Text("A − B, log odds [95 %]", "A − B（対数オッズ）[95%区間]"),
        Text("p (Holm)", "p 値（Holm）"),
    )
    rows = [
        [
            f"<td>{escape(one.a)}</td>",
            f"<td>{escape(one.b)}</td>",
            interval_cell(one.gap.as_json(), request, "sign"),
            f'<td class="num">{number_text(one.p_holm, "p")}</td>',
        ]
        for one in ratings.gaps
    ]
    note = Text(
        f"{ratings.apart} of {len(ratings.gaps)} pairs can be told apart.",
        f"{len(ratings.gaps)} 組のうち {ratings.apart} 組で差があると言えます。",
    )
    return _titled(Text("Differences", "差"), note, heads, rows, request)


def _matrix(ratings: Ratings, request: gr.Request) -> str:
    """The share of points that the row's variant took from the column's, best first."""
    matrix = ratings.matrix
    order = [matrix.models.index(one.model) for one in ratings.ratings]
    head = "".join(f"<th>{escape(matrix.models[i])}</th>" for i in order)
    body = "".join(
        f"<tr><th>{escape(matrix.models[i])}</th>"
        + "".join(_won(matrix.share(i, j) if i != j else None) for j in order)
        + "</tr>"
        for i in order
    )
    title = Text(
        "Points taken from the column's variant (a tie is half)",
        "列の構成から取った得点率（引き分けは半分）",
    )
    return (
        f'<figure class="heat winmatrix"><figcaption>{words(title, request)}</figcaption><table>'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></figure>"
    )


def _won(share: float | None) -> str:
    if share is None:
        return '<td style="--share:0%">–</td>'
    return f'<td style="--share:{100 * share:.0f}%">{share:.0%}</td>'


def _titled(
    title: Text, note: Text, heads: tuple[Text, ...], rows: list[list[str]], request: gr.Request
) -> str:
    shown = table([say(text, request) for text in heads], rows)
    return (
        f'<h4 class="subhead">{words(title, request)}</h4>'
        f'<p class="note">{words(note, request)}</p><div class="wide">{shown}</div>'
    )


def ratings_plot(owner: str, found: Standing, request: gr.Request) -> dict[str, Any]:
    """Ratings with their intervals, as evaluate.js draws them."""
    points = [(one.model, one.points) for one in found.ratings.ratings]
    rows = [
        {"label": model, "value": p.value, "low": p.low, "high": p.high, "n": p.n}
        for model, p in points
        if p.value is not None
    ]
    heads = [say(text, request) for text in (Text("variant", "構成"), Text("rating", "評点"))]
    heads += [say(LOW, request), say(HIGH, request)]
    return {
        "owner": owner,
        "file": "ratings",
        "figures": [
            {
                "id": "ratings",
                "kind": "intervals",
                "title": say(Text("Ratings", "評点"), request),
                "rows": rows,
                "scale": None,
                "line": 1000,
                "table": {
                    "heads": heads,
                    "rows": [[r[key] for key in ("label", "value", "low", "high")] for r in rows],
                },
            }
        ],
    }
