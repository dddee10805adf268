"""The RAG report as a page in Markdown and as JSON; every figure comes from ``rag_report``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from charllm.core.evaluation import rag_sweep
from charllm.core.evaluation.rag_report import BothReplies, RagReport, answers_to
from charllm.core.evaluation.rag_sweep import Curve, sweep_table
from charllm.core.evaluation.retrieved import retrieval_table
from charllm.core.evaluation.tables import Cell, Column, Table, markdown
from charllm.core.statistics import Interval
from charllm.data.errors import Language, Text
from charllm.data.files import plain
from charllm.data.text import first_lines

EXAMPLES = 20
"""Replies that are listed as passing over their fact."""
BOTH = Text("Replies with each fact and without it", "事実を提示した返答と、しない返答")
YES, NO = "✓", "–"
TITLE = Text("RAG report", "RAG レポート")
HOW = Text(
    "Every question was asked twice: with the facts that retrieval found, and with none. What one "
    "fact does is seen where the prompt showed it; where it did not, the two replies differ by "
    "other facts or by chance.",
    "どの質問も、検索した事実を入れた場合と、何も入れない場合の2回尋ねています。ある事実の効果は、"
    "それが提示された返答で分かります。提示されなかった返答の差は、ほかの事実か偶然によるものです。",
)
"""What "with a fact and without it" means here."""


def rag_page(report: RagReport, curves: Sequence[Curve], language: Language) -> str:
    """Findings in words first, then the tables, each with its title; ends in a newline.

    ``HOW`` stands over the replies with each fact and without.
    """
    names = f"{report.with_rag} / {report.without}"
    parts = [f"# {TITLE.in_(language)}: {names}\n\n`{report.weights}`\n"]
    parts.append("".join(f"- {text.in_(language)}\n" for text in told(report)))
    for table in tables_of(report, curves):
        note = f"{HOW.in_(language)}\n\n" if table.title == BOTH else ""
        parts.append(f"## {table.title.in_(language)}\n\n{note}{markdown(table, language)}")
    return "\n".join(parts)


def tables_of(report: RagReport, curves: Sequence[Curve]) -> list[Table]:
    """Retrieval, use, the sweep, facts, replies with each fact and without, facts that were shown
    in vain; what is empty is left out."""
    found = [use_table(report)]
    if report.retrieval:
        found.insert(0, retrieval_table(report.retrieval))
    if curves:
        found.append(sweep_table(curves))
    if report.facts:
        found += [fact_table(report), both_table(report)]
    if vain := [one for one in report.answers if one.found and one.held is False]:
        found.append(_vain_table(vain[:EXAMPLES]))
    return found


def use_table(report: RagReport) -> Table:
    """A line: what replies hold with RAG and without, and what they do with shown facts."""
    return Table(
        Text("Gold facts in the replies", "返答に含まれる正解の事実"),
        (
            Column(Text("With RAG", "RAG あり"), "share"),
            Column(Text("Without", "RAG なし"), "share"),
            Column(Text("Gain", "差"), "share"),
            Column(Text("Used when shown", "提示されて使用"), "share"),
            Column(Text("Held when not shown", "提示なしで含む"), "share"),
            Column(Text("Misled by a wrong fact", "誤った事実を使用"), "share"),
        ),
        (
            (
                *(report.held, report.held_without, report.gain),
                *(report.used, report.unshown, report.misled),
            ),
        ),
    )


def fact_table(report: RagReport) -> Table:
    """A line a gold fact, those that RAG helps most first."""
    rows: list[tuple[Cell, ...]] = [
        (row.fact, row.replies, row.shown, row.held, row.held_without) for row in report.facts
    ]
    return Table(
        Text("Fact by fact", "事実ごと"),
        (
            Column(Text("Fact", "事実")),
            Column(Text("Replies", "返答数")),
            Column(Text("Shown", "提示")),
            Column(Text("Held with RAG", "RAG ありで含む")),
            Column(Text("Held without", "RAG なしで含む")),
        ),
        tuple(rows),
    )


def both_table(report: RagReport) -> Table:
    """A line for each question of each fact: the reply with the fact in the prompt, and without.

    The fact is in the prompt where ``Shown`` says so.
    """
    rows: list[tuple[Cell, ...]] = [
        (
            row.fact,
            one.query.text,
            (YES if row.fact in one.shown else NO),
            first_lines(one.reply),
            first_lines(one.reply_without),
        )
        for row in report.facts
        for one in answers_to(report, row.fact)
    ]
    return Table(
        BOTH,
        (
            Column(Text("Fact", "事実")),
            Column(Text("Question", "質問")),
            Column(Text("Shown", "提示")),
            Column(Text("With RAG", "RAG あり")),
            Column(Text("Without", "RAG なし")),
        ),
        tuple(rows),
    )


def told(report: RagReport) -> list[Text]:
    """What the figures say in words; the weak link is named."""
    said = [_gain(report.gain)]
    if report.used.value is not None:
        n = report.used.n
        said.append(
            Text(
                f"Of {n} replies that were shown the right fact, {report.used.value:.0%} use it.",
                f"正しい事実を示された返答 {n} 件のうち、{report.used.value:.0%} が"
                "それを使っています。",
            )
        )
    if report.misled.value is not None:
        n = report.misled.n
        said.append(
            Text(
                f"Of {n} replies that were shown another fact, {report.misled.value:.0%} use it.",
                f"正解でない事実を示された返答 {n} 件のうち、{report.misled.value:.0%} が"
                "それを使っています。",
            )
        )
    said += _weak_link(report)
    if report.unseen:
        left = "1 reply is" if report.unseen == 1 else f"{report.unseen} replies are"
        said.append(
            Text(
                f"{left} left out: the question says the fact itself.",
                f"{report.unseen} 件は質問に事実がすでに含まれているため、除外しました。",
            )
        )
    said.append(
        Text(
            "Words are compared, not meanings: a fact in other words is missed, a denied one "
            "counts.",
            "意味ではなく語を比べています。言い換えは見落とし、否定も「使用」と数えます。",
        )
    )
    return said


def _gain(gain: Interval) -> Text:
    if gain.value is None or gain.low is None or gain.high is None:
        return Text(
            "Too few questions to say whether RAG puts facts into the replies.",
            "質問が少なすぎて、RAG の効果は判断できません。",
        )
    size = f"{100 * gain.value:+.0f} [{100 * gain.low:+.0f}, {100 * gain.high:+.0f}]"
    if gain.low > 0:
        found = Text("RAG puts facts into the replies", "RAG により事実を含む返答が増えています")
    elif gain.high < 0:
        found = Text("RAG takes facts out of the replies", "RAG により事実を含む返答が減っています")
    else:
        found = Text("No effect of RAG can be told", "RAG の効果があるとは言えません")
    return Text(
        f"{found.en}: {size} percentage points, {gain.n} replies.",
        f"{found.ja}（{size} ポイント、返答 {gain.n} 件）。",
    )


def _weak_link(report: RagReport) -> list[Text]:
    """Whether more is lost by not finding facts or by not using them."""
    found = report.retrieval.found.value if report.retrieval else None
    used = report.used.value
    if found is None or used is None:
        return []
    if 1 - found > found * (1 - used):
        return [
            Text(
                "More is lost in retrieval than in the reply: see the threshold and the number of "
                "facts.",
                "返答よりも検索で多くを取りこぼしています。しきい値と事実の数を見直してください。",
            )
        ]
    return [
        Text(
            "More is lost in the reply than in retrieval: facts are shown, but the model passes "
            "over them. Training with supporting facts in the prompt helps.",
            "検索よりも返答で多くを取りこぼしています。示された事実をモデルが使っていません。"
            "根拠の事実をプロンプトに入れて学習すると改善します。",
        )
    ]


def _vain_table(answers: Sequence[BothReplies]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (one.query.text, " / ".join(one.query.gold), first_lines(one.reply)) for one in answers
    ]
    return Table(
        Text("Shown, but not used", "提示されたが使われなかった事実"),
        (
            Column(Text("Question", "質問")),
            Column(Text("Fact", "事実")),
            Column(Text("Reply", "返答")),
        ),
        tuple(rows),
    )


def rag_json(report: RagReport, curves: Sequence[Curve]) -> dict[str, Any]:
    """Every figure, the curves as columns for a plot, and each question with both replies."""
    data: dict[str, Any] = plain(report)
    data["answers"] = [_answer_json(one) for one in report.answers]
    best = [
        {
            "best": curve.best.model_dump(mode="json"),
            "report": curve.report.model_dump(mode="json") if curve.report else None,
        }
        for curve in curves
    ]
    return {
        **data,
        "told": [text.as_json() for text in told(report)],
        "sweep": [
            {**at, **columns} for at, columns in zip(best, rag_sweep.plot_data(curves), strict=True)
        ],
    }


def _answer_json(one: BothReplies) -> dict[str, Any]:
    return {
        "query": one.query.id,
        "repeat": one.repeat,
        "question": one.query.text,
        "gold": list(one.query.gold),
        "shown": list(one.shown),
        "reply": one.reply,
        "reply_without": one.reply_without,
        "held": one.held,
        "held_without": one.held_without,
        "misled": one.misled,
    }
