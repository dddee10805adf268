"""What the quality page shows: a check's progress, and its report by kind with every failure."""

from __future__ import annotations

from html import escape

import gradio as gr

from charllm.core.judging.quality_marks import LEAST, LEAST_OWN, listing, passed
from charllm.core.judging.quality_report import Count, Failure, KindResult, Quality
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.services.runs import Run
from charllm.ui.judge_html import (
    UNKNOWN,
    empty,
    figures,
    gate_text,
    money_text,
    percent,
    runs_of,
    share_bar,
    table,
)
from charllm.ui.page import banner, progress_bar
from charllm.ui.runs_tab import seconds_text
from charllm.ui.words import say

NO_REPORT = Text(
    "No judge has been checked on this character yet. The check makes pairs of replies from the "
    "character's own data, of which one is plainly worse, and counts how often the judge says so.",
    "このキャラクターで検査したジャッジはまだありません。キャラクターのデータから、片方が明らかに"
    "悪い返答の組を作り、ジャッジが正しく見分けた割合を数えます。",
)
MEANING = Text(
    f"A judge passes from {LEAST:.0%} of the pairs right, among all and among those that the gate "
    f"left to it (at least {LEAST_OWN}). Below that it may neither filter nor steer a merge, "
    "unless you insist; the result then says so for ever.",
    f"すべての組と、ゲートが決めなかった組（{LEAST_OWN}組以上）の両方で {LEAST:.0%} 以上正しければ"
    "合格です。不合格のジャッジは、承知のうえで使う指定をしない限り、選別にも進化にも使えません。"
    "指定した場合は、その旨が結果に残り続けます。",
)


def newest(paths: Paths, slug: str) -> Run | None:
    return next((run for run in runs_of(paths, "quality") if run.name == slug), None)


def progress_html(run: Run | None, request: gr.Request) -> str:
    """The run under way, or why the last one did not end well; "" where there is nothing to say."""
    if run is None:
        return ""
    status = run.status()
    if status.live or status.state == "queued":
        step = say(status.progress.message.text, request)
        left = seconds_text(status.seconds_left)
        return banner(f"{step} {left}", "", progress_bar(status.progress.share))
    if status.state in ("failed", "crashed"):
        words = Text("The check did not end well.", "検査が最後まで終わりませんでした。")
        reason = say(status.error.text, request) if status.error else ""
        return banner(f"{say(words, request)} {reason}", "bad")
    return ""


def report_choices(paths: Paths, slug: str, request: gr.Request) -> list[tuple[str, str]]:
    """Every judge's last report on this character, the newest first."""
    yes, no = Text("passed", "合格"), Text("not passed", "不合格")
    return [
        (
            f"{say(yes if passed(q) else no, request)} · {q.judge} · {q.rubric} ({q.version}) · "
            f"{q.date[:16].replace('T', ' ')}",
            key_of(q),
        )
        for q in listing(paths, slug)
    ]


def key_of(quality: Quality) -> str:
    return "\n".join((quality.judge, quality.rubric, quality.version))


def report_html(quality: Quality, request: gr.Request) -> str:
    """Figures, the table by kind, and the failures with both texts and the judge's reasons."""
    return (
        f'<div class="stacked">{_figures(quality, request)}{_kinds(quality, request)}'
        f'<p class="note">{escape(say(MEANING, request))}</p>{_failures(quality, request)}</div>'
    )


def _figures(quality: Quality, request: gr.Request) -> str:
    good = passed(quality)
    verdict = Text("passed", "合格") if good else Text("not passed", "不合格")
    cells = [
        (
            say(verdict, request),
            Text(f"on {quality.date[:10]}", f"{quality.date[:10]} の検査"),
            good,
        ),
        (
            _share(quality.all),
            Text(
                f"of all {quality.all.n} pairs right{_span(quality.all)}",
                f"全 {quality.all.n} 組の正解率{_span(quality.all)}",
            ),
            (quality.all.share or 0) >= LEAST,
        ),
        (
            _share(quality.own),
            Text(
                f"of the {quality.own.n} pairs the gate left to it{_span(quality.own)}",
                f"ゲートが決めなかった {quality.own.n} 組の正解率{_span(quality.own)}",
            ),
            (quality.own.share or 0) >= LEAST and quality.own.n >= LEAST_OWN,
        ),
    ]
    boxes = [(value, say(words, request), "good" if ok else "bad") for value, words, ok in cells]
    rest = [
        (str(quality.gated), Text("pairs decided by the gate", "ゲートが決めた組")),
        (str(quality.unscored), Text("pairs without a verdict", "採点できなかった組")),
        (money_text(quality.cost), Text("spent on the check", "検査の費用")),
    ]
    return figures([*boxes, *((value, say(words, request), "") for value, words in rest)])


def _share(count: Count) -> str:
    return percent(count.share)


def _span(count: Count) -> str:
    if count.low is None or count.high is None:
        return ""
    return f" ({count.low:.0%}–{count.high:.0%})"


def _kinds(quality: Quality, request: gr.Request) -> str:
    heads = [
        Text("A good reply against …", "良い返答と比べた相手"),
        Text("right", "正解"),
        Text("share, 95 % interval", "正解率（95%区間）"),
        Text("", ""),
        Text("decided by the gate", "ゲートが決定"),
        Text("no verdict", "採点なし"),
    ]
    rows = [_kind_row(kind, request) for kind in quality.kinds]
    return table([say(text, request) for text in heads], rows)


def _kind_row(kind: KindResult, request: gr.Request) -> list[str]:
    name = escape(say(Text(kind.label["en"], kind.label["ja"]), request))
    if not kind.measured:
        words = Text("not measured by this judge, not counted", "このジャッジは測らない（対象外）")
        name += f' <span class="chip">{escape(say(words, request))}</span>'
    return [
        f"<td>{name}</td>",
        f'<td class="num">{kind.all.right} / {kind.all.n}</td>',
        f'<td class="num">{percent(kind.all.share)}{_span(kind.all)}</td>',
        f'<td style="min-width:220px">{share_bar(kind.all, LEAST) if kind.measured else ""}</td>',
        f'<td class="num">{kind.gated or ""}</td>',
        f'<td class="num">{kind.unscored or ""}</td>',
    ]


def _failures(quality: Quality, request: gr.Request) -> str:
    if not quality.failures:
        return empty(Text("Every pair came out right.", "すべての組が正解でした。"), request)
    labels = {kind.kind: Text(kind.label["en"], kind.label["ja"]) for kind in quality.kinds}
    body = "".join(_failure(one, labels[one.kind], request) for one in quality.failures)
    title = Text(
        f"Pairs that did not come out right ({len(quality.failures)})",
        f"正解できなかった組（{len(quality.failures)}）",
    )
    return f"<h4>{escape(say(title, request))}</h4>{body}"


def _failure(failure: Failure, label: Text, request: gr.Request) -> str:
    verdicts = {
        "wrong": Text("the worse one scored at least as high", "悪い方が同点以上"),
        "unscored": Text("no verdict", "採点なし"),
        "right": Text("right", "正解"),
    }
    head = f"{say(label, request)} · {_score(failure.better_score)} / {_score(failure.worse_score)}"
    side = _side(failure.better, "better", failure.better_score, failure.better_reason, request)
    side += _side(failure.worse, "worse", failure.worse_score, failure.worse_reason, request)
    stopped = ""
    if failure.gate:
        words = Text("The gate stopped the better reply: ", "ゲートが良い方を止めました: ")
        stopped = f"<p>{escape(say(words, request) + gate_text(failure.gate, request))}</p>"
    return (
        f'<details class="fold"><summary>{escape(head)} '
        f'<span class="note">{escape(say(verdicts[failure.verdict], request))}</span></summary>'
        f'<p class="note">{escape(failure.query)}</p><div class="pairtexts">{side}</div>{stopped}'
        "</details>"
    )


def _side(text: str, side: str, score: float | None, reason: str, request: gr.Request) -> str:
    names = {"better": Text("better", "良い方"), "worse": Text("worse", "悪い方")}
    why = f'<br><span class="note">{escape(reason)}</span>' if reason else ""
    return (
        f'<div class="{side}"><b>{escape(say(names[side], request))} · {_score(score)}</b><br>'
        f"{escape(text)}{why}</div>"
    )


def _score(score: float | None) -> str:
    return UNKNOWN if score is None else f"{score:.2f}"
