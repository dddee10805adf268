"""Pieces of HTML of the Merge tab, all escaped: what a look found, the recipe, heat maps, gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from charllm.core.judging.judges import JudgeConfig
from charllm.core.merging.evolve_config import EvolveConfig
from charllm.data.errors import Text
from charllm.services.judge_choice import title
from charllm.services.merge_forms import Look, file_command, yaml_of
from charllm.ui.judge_html import UNKNOWN, figures, mark_html, money_text
from charllm.ui.page import banner
from charllm.ui.train_html import words
from charllm.ui.words import language_of, say

ENGINES: dict[str, Text] = {
    "adapter": Text("adapters on one base", "共通ベースのアダプター"),
    "dense": Text("whole models", "モデル全体"),
    "layers": Text("layers in a new order", "層の並べ替え"),
    "mergekit": Text("mergekit itself", "mergekit"),
}
PARTS: dict[str, Text] = {
    "score": Text("judge", "ジャッジ"),
    "gate": Text("gate", "ゲート通過"),
    "style": Text("style", "文体"),
    "length": Text("length", "長さ"),
    "stopped": Text("ended", "自分で終了"),
    "loss": Text("loss", "損失"),
    "general": Text("general questions", "一般問題"),
    "general_right": Text("general, right", "一般問題の正答"),
}
"""The parts of a score in a word."""
ROLES: dict[str, Text] = {
    "uniform": Text("plain average", "単純平均"),
    "start": Text("the method's own average", "この手法での均等な混合"),
    "mean": Text("the search's mean", "探索の平均"),
}
GROUPS = {"embeddings": Text("embeddings", "埋め込み"), "head": Text("head", "出力層")}


# --- words and numbers --------------------------------------------------------------------------


def gain_text(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:+.3f}"


def interval_text(gain: Mapping[str, Any] | None) -> str:
    """``+0.012 [−0.001, +0.025]`` of an interval as JSON."""
    if not gain or gain.get("value") is None:
        return UNKNOWN
    if gain.get("low") is None or gain.get("high") is None:
        return gain_text(gain["value"])
    return f"{gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"


def part_text(name: str, value: float | None) -> str:
    """A part's mean: shares in percent, the others on their own scale."""
    if value is None:
        return UNKNOWN
    return (
        f"{value:.3f}" if name == "loss" else f"{value:.2f}" if name == "score" else f"{value:.0%}"
    )


def part_name(name: str, request: gr.Request) -> str:
    return say(PARTS.get(name, Text(name, name)), request)


def group_name(name: str, request: gr.Request) -> str:
    """``layers 0-3`` as people of either language read it."""
    known = GROUPS.get(name)
    if known:
        return say(known, request)
    if name.startswith("hop."):  # of a sequence of layers
        place = int(name.removeprefix("hop.")) + 1
        return say(Text(f"place {place}", f"{place} 番目"), request)
    first, _, last = name.removeprefix("layers ").partition("-")
    span = first if first == last or not last else f"{first}–{last}"
    return say(Text(f"layer{'s' if '–' in span else ''} {span}", f"層 {span}"), request)


def state_of_gain(gain: Mapping[str, Any] | None) -> str:
    """``good`` or ``bad`` where the interval leaves no doubt, else ``fair``."""
    low, high = (gain or {}).get("low"), (gain or {}).get("high")
    if low is None or high is None:
        return "fair"
    return "good" if low > 0 else "bad" if high <= 0 else "fair"


# --- names ----------------------------------------------------------------------------------------


def short(written: str) -> str:
    """A parent's name as people call it: the last folder of what a recipe writes."""
    return written.rpartition("+")[2].rstrip("/").rpartition("/")[2]


def name_of(row: Mapping[str, Any], parents: Sequence[str]) -> Text:
    """A row's name with its parent's own; ``row`` is a candidate or a line of the table."""
    role, name = row["role"], str(row["id"])
    if role in ROLES:
        return ROLES[role]
    if role == "parent":
        number = int(name.rpartition("-")[2])
        return Text(*(parents[number - 1],) * 2) if number <= len(parents) else Text(name, name)
    if role == "global":
        _, number_, part = name.split("-")
        whose = parents[int(number_) - 1] if int(number_) <= len(parents) else number_
        share = f"{float(part):.0%}"
        return Text(f"all layers {share} towards {whose}", f"全層を {whose} へ {share} 寄せた混合")
    if role == "shrunk":
        share = f"{float(name.rpartition('-')[2]):.0%}"
        return Text(f"the mean, {share} of the way", f"探索の平均へ {share} 進めた混合")
    return Text(f"best candidate {name}", f"最良の候補 {name}")


# --- the look before the start ------------------------------------------------------------------


def judge_html(config: JudgeConfig, look: Look | None, request: gr.Request) -> str:
    """Who judges and how that judge has done in its check, with the way to its page."""
    change = words(Text("Choose or check the judge", "ジャッジを選ぶ・検査する"), request)
    mark = mark_html(look.mark if look else None, title(config), request)
    button = f'<button type="button" class="small" data-tab="#tab-judge-button">{change}</button>'
    return f'{mark}<div class="measures">{button}</div>'


def look_html(config: EvolveConfig, look: Look, request: gr.Request) -> str:
    """Whether the parents fit together, the engine with its memory, what it takes, the judge."""
    parts = []
    if look.quote is None:
        if look.problem is not None:
            parts.append(banner(look.problem.in_(language_of(request)), "bad"))
    else:
        parts += [_fit_html(config, look.quote, request), _plan_html(look.quote["plan"], request)]
        parts.append(_quote_html(look, request))
    parts.append(judge_html(config.judge, look, request))
    return f'<div class="stacked" data-look>{"".join(parts)}</div>'


def _fit_html(config: EvolveConfig, quote: Mapping[str, Any], request: gr.Request) -> str:
    count = len(config.parents)
    text = Text(
        f"The {count} parents fit together: same architecture, vocabulary and layers, mixed in "
        f"{len(quote['groups'])} groups.",
        f"{count} つの親は混ぜられます。構造・語彙・層数が同じで、{len(quote['groups'])} 個の"
        "グループごとに割合を決めます。",
    )
    return banner(say(text, request), "good")


def _plan_html(plan: Mapping[str, Any], request: gr.Request) -> str:
    engine = ENGINES.get(plan["engine"], Text(plan["engine"], plan["engine"]))
    place = Text(*(("GPU", "GPU") if plan["device"] == "cuda" else ("CPU", "CPU")))
    head = Text(f"Engine: {engine.en}, {place.en}", f"エンジン：{engine.ja}（{place.ja}）")
    reasons = "".join(f"<li>{words(Text(**one), request)}</li>" for one in plan["reasons"])
    bad = "" if plan["fits"] else " bad"
    return (
        f'<div class="banner{bad}" data-engine="{escape(plan["engine"])}">'
        f"<b>{words(head, request)}</b><ul>{reasons}</ul></div>"
    )


def _quote_html(look: Look, request: gr.Request) -> str:
    quote = look.quote or {}
    cells = [
        (
            f"{quote['generations']} × {quote['population']}",
            Text(
                f"generations × candidates, {quote['genes']} genes",
                f"世代 × 候補（遺伝子 {quote['genes']}）",
            ),
        ),
        (f"{quote['replies']:,}", Text("replies and lines at most", "返答・せりふ（最大）")),
        (f"{look.judged:,}", Text("replies judged, about", "採点する返答（約）")),
        (f"{look.calls:,}", Text("judge calls at most", "採点の呼び出し（最大）")),
        (money_text(look.money), Text("money, about", "費用（約）")),
    ]
    return figures([(value, say(text, request), "") for value, text in cells])


def status_html(look: Look | None, error: Text | None, request: gr.Request) -> str:
    """Over the form: why it cannot start, or that it can."""
    if error is not None:
        return banner(say(error, request), "bad")
    if look is None or look.quote is None or look.problem is not None:
        problem = look.problem if look else None
        return banner(problem.in_(language_of(request)) if problem else "", "bad")
    ready = Text(
        f"Ready: {look.quote['candidates']} candidates, {look.quote['replies']:,} replies at most.",
        f"開始できます。候補 {look.quote['candidates']} 個、返答は最大 "
        f"{look.quote['replies']:,} 件です。",
    )
    return banner(say(ready, request), "good")


# --- the recipe ---------------------------------------------------------------------------------


def recipe_html(config: EvolveConfig | None, request: gr.Request) -> str:
    """The YAML and the command that start the same evolution, to be copied or saved."""
    if config is None:
        note = Text("The YAML appears when the form is valid.", "入力が正しくなると表示されます。")
        return f'<p class="note">{words(note, request)}</p>'
    command = Text("Command, with the file saved", "コマンド（ファイルを保存した場合）")
    return (
        '<div class="stacked">'
        + code_box(Text("YAML", "YAML"), "merge-yaml", yaml_of(config), request, config.name)
        + code_box(command, "merge-command", file_command(config), request)
        + "</div>"
    )


def code_box(title: Text, id_: str, code: str, request: gr.Request, file: str = "") -> str:
    """A block of code with its buttons; with ``file`` it can be saved under that name."""
    copy = words(Text("Copy", "コピー"), request)
    buttons = f'<button type="button" class="small" data-copy="#{id_}">{copy}</button>'
    if file:
        save = words(Text("Save", "保存"), request)
        buttons += (
            f'<button type="button" class="small" data-save="#{id_}" '
            f'data-name="{escape(file)}.yaml">{save}</button>'
        )
    return (
        f'<div class="codebox"><header><b>{words(title, request)}</b>{buttons}</header>'
        f'<pre id="{id_}">{escape(code)}</pre></div>'
    )


# --- heat maps ----------------------------------------------------------------------------------


def heat_html(
    title: Text, coefficients: Mapping[str, Any] | None, parents: Sequence[str], request: gr.Request
) -> str:
    """Weights by layer group (rows) and parent (columns), darker where a parent has more."""
    if not coefficients:
        return ""
    weights: Mapping[str, Sequence[float]] = coefficients["weights"]
    head = "".join(f"<th>{escape(name)}</th>" for name in parents)
    rows = "".join(
        f"<tr><th>{escape(group_name(group, request))}</th>"
        + (_hop_cells(row, len(parents)) if group.startswith("hop.") else _heat_cells(row))
        + "</tr>"
        for group, row in weights.items()
    )
    return (
        f'<figure class="heat"><figcaption>{words(title, request)}</figcaption>'
        f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></figure>"
    )


def _hop_cells(hop: Sequence[float], parents: int) -> str:
    """Of a sequence of layers: which parent's layer it is, and its scale where it has one."""
    parent, layer, scale = hop
    told = f"{layer:.0f}" + (f" × {scale:.2f}" if scale != 1 else "")
    return "".join(
        f'<td style="--share:100%">{told}</td>' if k == parent else "<td></td>"
        for k in range(parents)
    )


def _heat_cells(row: Sequence[float]) -> str:
    total = sum(abs(weight) for weight in row) or 1.0
    return "".join(
        f'<td style="--share:{100 * abs(weight) / total:.1f}%">{weight:.2f}</td>' for weight in row
    )
