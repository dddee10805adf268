"""What evaluate.js draws, each figure with its table: means and differences, radar, length.

A figure is ``{"id", "kind", "title", "rows" …, "table": {"heads", "rows"}}``; words are in the
reader's language already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import gradio as gr

from charllm.data.errors import Text
from charllm.services.evaluate_rows import Pair
from charllm.ui.evaluate_scores_html import Report, judge_name
from charllm.ui.words import say

AXES = 3
"""A radar needs so many rubrics of one judge."""
NOTHING: dict[str, Any] = {"owner": "", "figures": []}
LOW, HIGH = Text("95 % low", "95%下限"), Text("95 % high", "95%上限")


def report_plots(owner: str, name: str, report: Report, request: gr.Request) -> dict[str, Any]:
    """The figures of a report; ``owner`` changes whenever they do."""
    found = []
    for number, judge in enumerate(report["judges"], 1):
        found += [
            _means(report, judge, number, request),
            _differences(report, judge, number, request),
        ]
    found += _radars(report, request)
    return {"owner": owner, "file": name, "figures": [one for one in found if one]}


def _labels(report: Report, request: gr.Request) -> dict[str, str]:
    return {one["name"]: say(Text(**one["label"]), request) for one in report["variants"]}


def _means(
    report: Report, judge: Mapping[str, Any], number: int, request: gr.Request
) -> dict[str, Any] | None:
    labels = _labels(report, request)
    rows = [
        _point(labels.get(one["variant"], one["variant"]), one["mean"])
        for one in judge["summaries"]
        if one["mean"]["value"] is not None
    ]
    title = Text(f"Mean score, {judge_name(judge)}", f"平均点（{judge_name(judge)}）")
    return _intervals(f"means-{number}", title, rows, request, judge["scale"])


def _differences(
    report: Report, judge: Mapping[str, Any], number: int, request: gr.Request
) -> dict[str, Any] | None:
    labels = _labels(report, request)
    rows = [
        _point(
            f"{labels.get(one['a'], one['a'])} − {labels.get(one['b'], one['b'])}",
            one["difference"],
        )
        for one in judge["differences"]
        if one["difference"]["value"] is not None
    ]
    title = Text("Paired differences", "対応のある差")
    return _intervals(f"differences-{number}", title, rows, request, None)


def _point(label: str, interval: Mapping[str, Any]) -> dict[str, Any]:
    return {"label": label, **{key: interval[key] for key in ("value", "low", "high", "n")}}


def _intervals(
    id_: str,
    title: Text,
    rows: list[dict[str, Any]],
    request: gr.Request,
    scale: Sequence[int] | None,
) -> dict[str, Any] | None:
    if not rows:
        return None
    heads = [say(text, request) for text in (Text("what", "項目"), Text("value", "値"), LOW, HIGH)]
    return {
        "id": id_,
        "kind": "intervals",
        "title": say(title, request),
        "rows": rows,
        "scale": list(scale) if scale else None,
        "table": {
            "heads": [*heads, "n"],
            "rows": [[one[key] for key in ("label", "value", "low", "high", "n")] for one in rows],
        },
    }


# --- radar --------------------------------------------------------------------------------------


def _radars(report: Report, request: gr.Request) -> list[dict[str, Any]]:
    """One for each judge with several rubrics of one scale, with how alike the rubrics are."""
    groups: dict[tuple[str, int, int], list[Mapping[str, Any]]] = {}
    for judge in report["judges"]:
        if judge["summaries"]:
            groups.setdefault((judge["judge"], *judge["scale"]), []).append(judge)
    return [_radar(report, judges, request) for judges in groups.values() if len(judges) >= AXES]


def _radar(
    report: Report, judges: Sequence[Mapping[str, Any]], request: gr.Request
) -> dict[str, Any]:
    labels, axes = _labels(report, request), [one["rubric"] for one in judges]
    means = [{s["variant"]: s["mean"]["value"] for s in one["summaries"]} for one in judges]
    series = [
        {"label": label, "values": [of.get(name) for of in means]} for name, label in labels.items()
    ]
    who = judges[0]["judge"]
    return {
        "id": f"radar-{who}",
        "kind": "radar",
        "title": say(Text(f"Rubrics of {who}", f"{who} のルーブリック別平均"), request),
        "axes": axes,
        "series": series,
        "scale": list(judges[0]["scale"]),
        "warning": say(correlation_warning(report, who, axes), request),
        "table": {
            "heads": [say(Text("variant", "構成"), request), *axes],
            "rows": [[one["label"], *one["values"]] for one in series],
        },
    }


def correlation_warning(report: Report, who: str, axes: Sequence[str]) -> Text:
    """How far a radar's axes are one number drawn several times; intervals are not in it."""
    known = []
    for pair in report["between"]:
        one, other, value = pair["one"], pair["other"], pair["spearman"]["value"]
        ours = one["judge"] == other["judge"] == who
        if ours and {one["rubric"], other["rubric"]} <= {*axes} and value is not None:
            known.append(value)
    if not known:
        return Text(
            "How alike the axes are is not known; a radar shows no intervals either. Read the "
            "tables.",
            "軸どうしの相関は分かりません。レーダーには区間もないので、表で確認してください。",
        )
    mean = fmean(known)
    return Text(
        f"The axes correlate with {mean:.2f} on average (rank correlation over replies): they are "
        "largely the same judgement drawn several times, and a radar shows no intervals. Read the "
        "tables.",
        f"軸どうしの順位相関は平均 {mean:.2f} です。ほぼ同じ判断を何度も描いている可能性があり、"
        "レーダーには区間もありません。表で確認してください。",
    )


# --- difference against length ------------------------------------------------------------------


def length_plot(
    owner: str, name: str, pairs: Sequence[Pair], labels: tuple[str, str], request: gr.Request
) -> dict[str, Any]:
    """Whether the longer reply gets the higher score: a point a question."""
    rows = [
        {
            "label": one.query,
            "x": round(one.length_a - one.length_b, 2),
            "y": round(one.difference, 4),
        }
        for one in pairs
        if one.difference is not None and one.length_a is not None and one.length_b is not None
    ]
    if not rows:
        return NOTHING
    a, b = labels
    x = Text(f"characters, {a} − {b}", f"文字数（{a} − {b}）")
    y = Text(f"score, {a} − {b}", f"点数（{a} − {b}）")
    title = Text("Difference against reply length", "返答の長さの差と点数の差")
    heads = [say(Text("question", "質問"), request), say(x, request), say(y, request)]
    return {
        "owner": owner,
        "file": name,
        "figures": [
            {
                "id": "length",
                "kind": "scatter",
                "title": say(title, request),
                "x": say(x, request),
                "y": say(y, request),
                "rows": rows,
                "table": {"heads": heads, "rows": [[r["label"], r["x"], r["y"]] for r in rows]},
            }
        ],
    }
