"""What an interview run has shown, all escaped: the criteria, their differences, drift by turn.

Made from the report alone (``core.evaluation.interview_report.as_json``). Two judges and a measure
never share a row. ``drift_plots`` is what evaluate.js draws, a figure a criterion and judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from charllm.core.evaluation.five import CRITERIA, PARTS, Part
from charllm.core.evaluation.five_measures import MEASURES
from charllm.core.evaluation.five_scores import MEASURED
from charllm.core.variants import Variant
from charllm.data.errors import Text
from charllm.ui.evaluate_html import interval_text, number_text
from charllm.ui.evaluate_plots import HIGH, LOW
from charllm.ui.judge_html import UNKNOWN, figures, table
from charllm.ui.train_html import words
from charllm.ui.words import say

Report = Mapping[str, Any]
CRITERION, BY = Text("Criterion", "基準"), Text("By", "測り方")
SECTIONS: dict[Part, Text] = {
    "single": Text(
        "Each question in a fresh chat. Mean with its 95 % interval over questions.",
        "毎回新しい会話での質問です。平均と、質問を単位とした95%区間を示します。",
    ),
    "talk": Text(
        "All turns of the interviews. Mean with its 95 % interval over interviews.",
        "インタビューの全ターンです。平均と、インタビューを単位とした95%区間を示します。",
    ),
}


def result_html(
    run_id: str, report: Report, variants: Sequence[Variant], stored: bool, request: gr.Request
) -> str:
    """Everything, with what has to be said first. ``variants`` as the run has planned them."""
    labels = {one.name: say(one.label, request) for one in variants}
    parts = [_told_html(report, stored, request), _counts_html(report, request)]
    parts += [_part_html(report, part, labels, request) for part in PARTS]
    parts.append(_slopes_html(report, labels, request))
    inside = "".join(filter(None, parts))
    return f'<div class="stacked evaluated" data-interviewed="{escape(run_id)}">{inside}</div>'


def _told_html(report: Report, stored: bool, request: gr.Request) -> str:
    told = [Text(**one) for one in report["told"]]
    if not stored:
        part = Text(
            "The run has not reported these figures itself: they are worked out from what it has "
            "kept so far.",
            "この数値は実行がまだ報告していないため、保存済みの分から計算しています。",
        )
        told.insert(0, part)
    shown = "".join(f"<li>{words(text, request)}</li>" for text in told)
    bad = "" if report["complete"] else " bad"
    return f'<div class="banner told{bad}"><ul>{shown}</ul></div>' if shown else ""


def _counts_html(report: Report, request: gr.Request) -> str:
    there, wanted, asks = report["replies"], report["wanted"], report["interviewer"]
    cells = [
        (str(len(report["variants"])), Text("variants", "構成")),
        (f"{there['single']:,} / {wanted['single']:,}", Text("single replies", "単発の返答")),
        (f"{there['turns']:,} / {wanted['turns']:,}", Text("turns", "ターン")),
        (str(there["failed"]), Text("failed", "生成できず")),
        (f"{asks['asked']:,}", Text("questions by the model", "モデルが出した質問")),
        (str(report["seed"]), Text("seed", "シード")),
    ]
    return figures([(value, say(text, request), "") for value, text in cells])


# --- the criteria -------------------------------------------------------------------------------


def _part_html(report: Report, part: Part, labels: Mapping[str, str], request: gr.Request) -> str:
    """A row a criterion and judge, a column a variant; the differences in a fold."""
    rows = [one for one in report["five"] if one["part"] == part]
    if not rows:
        return ""
    rows.sort(key=_order)
    heads = [say(CRITERION, request), say(BY, request), say(Text("Scale", "尺度"), request)]
    cells = [[*_names(one, request), _scale(one), *_means(one, labels, request)] for one in rows]
    shown = table([*heads, *labels.values()], cells)
    apart = _differences(rows, labels, request)
    return (
        f'<h4 class="subhead">{words(PARTS[part], request)}</h4>'
        f'<p class="note">{words(SECTIONS[part], request)}</p>'
        f'<div class="wide" data-part="{part}">{shown}</div>{apart}'
    )


def _order(one: Mapping[str, Any]) -> tuple[int, bool]:
    """The criteria in their order, a judge before the measures beside it."""
    return list(CRITERIA).index(one["criterion"]), one["judge"] == MEASURED


def _names(one: Mapping[str, Any], request: gr.Request) -> list[str]:
    about = one.get("about")
    tip = f' title="{words(Text(**about), request)}"' if about else ""
    return [
        f"<td>{words(CRITERIA[one['criterion']].label, request)}</td>",
        f"<td{tip}>{escape(by_text(one, request))}</td>",
    ]


def by_text(one: Mapping[str, Any], request: gr.Request) -> str:
    """Who or what gave a figure: a judge's name, or the measure's."""
    if one["judge"] != MEASURED:
        return str(one["judge"])
    return say(MEASURES[one["by"]].label, request)


def _scale(one: Mapping[str, Any]) -> str:
    low, high = one["scale"]
    return f'<td class="num">{low:g}–{high:g}</td>'


def _means(one: Mapping[str, Any], labels: Mapping[str, str], request: gr.Request) -> list[str]:
    by_variant = {summary["variant"]: summary for summary in one["summaries"]}
    return [_mean(by_variant.get(name), request) for name in labels]


def _mean(summary: Mapping[str, Any] | None, request: gr.Request) -> str:
    """The mean with its interval, and what it rests on."""
    if summary is None:
        return f'<td class="num">{UNKNOWN}</td>'
    why = summary["mean"].get("reason")
    tip = f' title="{words(Text(**why), request)}"' if why else ""
    rests = [f"n {summary['replies']:,}"]
    if summary["unscored"]:
        rests.append(
            say(
                Text(f"{summary['unscored']:,} unscored", f"採点不能 {summary['unscored']:,}"),
                request,
            )
        )
    if summary["gated"]:
        rests.append(
            say(Text(f"{summary['gated']:,} gated", f"ゲート不合格 {summary['gated']:,}"), request)
        )
    return (
        f'<td class="num strong"{tip}>{interval_text(summary["mean"])}'
        f'<span class="note">{escape(" · ".join(rests))}</span></td>'
    )


def _differences(
    rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str], request: gr.Request
) -> str:
    heads = (
        CRITERION,
        BY,
        Text("A", "A"),
        Text("B", "B"),
        Text("A − B [95 %]", "A − B [95%区間]"),
        Text("n", "n"),
        Text("p (Holm)", "p 値（Holm）"),
    )
    cells = [
        [
            *_names(one, request),
            *(f"<td>{escape(labels.get(pair[side], pair[side]))}</td>" for side in ("a", "b")),
            f'<td class="num">{interval_text(pair["difference"], "sign")}</td>',
            f'<td class="num">{pair["queries"]:,}</td>',
            f'<td class="num">{number_text(pair["p_holm"], "p")}</td>',
        ]
        for one in rows
        for pair in one["differences"]
    ]
    if not cells:
        return ""
    title = words(Text("Paired differences", "対応のある差"), request)
    shown = table([say(text, request) for text in heads], cells)
    return (
        f'<details class="fold"><summary>{title}</summary><div class="wide">{shown}</div></details>'
    )


# --- drift --------------------------------------------------------------------------------------


def _slopes_html(report: Report, labels: Mapping[str, str], request: gr.Request) -> str:
    """A row a criterion and judge, a column a variant: the change a turn."""
    groups = list(_by_ruler(report))
    if not groups:
        return ""
    heads = [say(CRITERION, request), say(BY, request), *labels.values()]
    cells = [
        [*_names(one, request), *(_slope(of.get(name), request) for name in labels)]
        for one, of in groups
    ]
    title = Text("Drift: change a turn", "変化の傾き（1ターンあたり）")
    note = Text(
        "Least squares over turns, with the 95 % interval over interviews. Below 0: it gets worse "
        "as the talk goes on. An interval that holds 0 shows no drift.",
        "ターンに対する最小二乗の傾きと、インタビューを単位とした95%区間です。負なら会話が進むほど"
        "悪くなります。区間が0を含むときは、変化があるとは言えません。",
    )
    return (
        f'<h4 class="subhead">{words(title, request)}</h4><p class="note">{words(note, request)}'
        f'</p><div class="wide" data-slopes>{table(heads, cells)}</div>'
    )


def _slope(drift: Mapping[str, Any] | None, request: gr.Request) -> str:
    if drift is None:
        return f'<td class="num">{UNKNOWN}</td>'
    why = drift["slope"].get("reason")
    tip = f' title="{words(Text(**why), request)}"' if why else ""
    rests = Text(
        f"{drift['talks']:,} interviews, {drift['slope']['n']:,} turns",
        f"インタビュー {drift['talks']:,} 件、{drift['slope']['n']:,} ターン",
    )
    low, high = drift["slope"]["low"], drift["slope"]["high"]
    falls = " bad" if high is not None and high < 0 else ""
    sure = " strong" if low is not None and high is not None and (low > 0 or high < 0) else ""
    return (
        f'<td class="num{sure}{falls}"{tip}>{interval_text(drift["slope"], "sign")}'
        f'<span class="note">{words(rests, request)}</span></td>'
    )


def _by_ruler(report: Report) -> Iterator[tuple[Mapping[str, Any], dict[str, Mapping[str, Any]]]]:
    """One of its drifts and all by variant, for each criterion and judge, in order."""
    groups: dict[tuple[str, str, str], dict[str, Mapping[str, Any]]] = {}
    for one in sorted(report["drift"], key=_order):
        key = (one["criterion"], one["judge"], one["by"])
        groups.setdefault(key, {})[one["variant"]] = one
    for of in groups.values():
        yield next(iter(of.values())), of


def drift_plots(
    owner: str, name: str, report: Report, variants: Sequence[Variant], request: gr.Request
) -> dict[str, Any]:
    """Means by turn, a line a variant; ``owner`` changes whenever they do."""
    labels = {one.name: say(one.label, request) for one in variants}
    scales = {(f["criterion"], f["judge"], f["by"]): f["scale"] for f in report["five"]}
    found: list[dict[str, Any]] = []
    for one, of in _by_ruler(report):
        key = (one["criterion"], one["judge"], one["by"])
        series = [_line(labels[name], of[name]) for name in labels if name in of]
        found.append(_figure(one, series, scales[key], len(found) + 1, request))
    return {"owner": owner, "file": name, "figures": found}


def _line(label: str, drift: Mapping[str, Any]) -> dict[str, Any]:
    points = [{"turn": at["turn"], **_bounds(at["mean"])} for at in drift["turns"]]
    return {"label": label, "points": points}


def _bounds(interval: Mapping[str, Any]) -> dict[str, Any]:
    return {key: interval[key] for key in ("value", "low", "high", "n")}


def _figure(
    one: Mapping[str, Any],
    series: Sequence[Mapping[str, Any]],
    scale: Sequence[float],
    number: int,
    request: gr.Request,
) -> dict[str, Any]:
    label, by = CRITERIA[one["criterion"]].label, by_text(one, request)
    counts = [point["n"] for line in series for point in line["points"]]
    n = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}–{max(counts)}"
    title = Text(
        f"{label.en} by turn: {by} (n = {n} a point)",
        f"{label.ja}のターンごとの平均：{by}（各点 n = {n}）",
    )
    heads = [Text("variant", "構成"), Text("turn", "ターン"), Text("mean", "平均"), LOW, HIGH]
    return {
        "id": f"drift-{number}",
        "kind": "turns",
        "title": say(title, request),
        "x": say(Text("turn", "ターン"), request),
        "series": list(series),
        "scale": list(scale),
        "table": {
            "heads": [*(say(text, request) for text in heads), "n"],
            "rows": [
                [line["label"], *(point[key] for key in ("turn", "value", "low", "high", "n"))]
                for line in series
                for point in line["points"]
            ],
        },
    }
