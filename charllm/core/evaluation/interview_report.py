"""What an interview run's folder says, at any time: the five, drift, correlation, and what lacks.

Read from the folder alone, so that a run that was stopped, or judged once more, is reported like
any other. ``report.json`` has every figure, ``tables/`` the same for a paper, in both languages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charllm.core.evaluation.five import CRITERIA, Exchange, Key, asked_about
from charllm.core.evaluation.five_correlation import WARNING, Correlations, correlations
from charllm.core.evaluation.five_measures import MEASURES, Measured
from charllm.core.evaluation.five_scores import (
    MEASURED,
    Column,
    Drifted,
    Figure,
    drifts,
    figures,
    judged_columns,
    measured_columns,
)
from charllm.core.evaluation.interview_exchanges import Plan, read_exchanges, read_interviews
from charllm.core.evaluation.interview_turns import Turn, read_turns
from charllm.core.evaluation.kept_lines import read_lines
from charllm.core.evaluation.scoring_replies import Judged, read_judged
from charllm.data.errors import Text
from charllm.data.files import plain

MEASURES_FILE = "measures.jsonl"


@dataclass(frozen=True)
class Interviews:
    """All that is known. ``correlation`` by the judge's name, ``MEASURED`` for the measures."""

    plan: Plan
    exchanges: tuple[Exchange, ...]
    turns: tuple[Turn, ...]
    judged: tuple[Judged, ...]
    columns: tuple[Column, ...]
    figures: tuple[Figure, ...]
    drifts: tuple[Drifted, ...]
    correlation: dict[str, Correlations]

    @property
    def singles(self) -> int:
        """Replies to single questions that are there."""
        return sum(one.part == "single" for one in self.exchanges)

    @property
    def failed(self) -> int:
        return sum(one.failed is not None for one in self.exchanges)

    @property
    def substituted(self) -> int:
        """Turns for which the interviewer wrote no usable question."""
        if self.plan.config.interviewer.kind == "list":
            return 0
        return sum(turn.turn > 1 and turn.asked_by == "list" for turn in self.turns)

    @property
    def waiting(self) -> dict[Key, int]:
        """How many exchanges each criterion of the run's judge has still to judge."""
        if self.plan.config.judge is None:
            return {}
        found: dict[Key, int] = {}
        for key in self.plan.config.criteria:
            items = [one.item() for one in asked_about(key, self.exchanges)]
            rubric = CRITERIA[key].rubric
            by = [one.waiting(items) for one in self.judged if one.ruler.rubric == rubric]
            found[key] = min(by, default=len(items))
        return found

    @property
    def unmeasured(self) -> list[Key]:
        """Criteria of the run of which nothing can be said: no judge and no measure beside them."""
        there = {figure.criterion for figure in self.figures}
        return [key for key in self.plan.config.criteria if key not in there]

    @property
    def complete(self) -> bool:
        """Whether all was asked and the run's judge has judged all of it."""
        asked = self.singles == self.plan.singles and len(self.turns) == self.plan.turns
        return asked and not any(self.waiting.values())


def read_report(folder: Path, measured: Sequence[Measured] | None = None) -> Interviews:
    """``UserError`` where the run has not begun to ask. ``measured``: the measures, where those
    that the folder keeps are not of all its replies."""
    plan = read_interviews(folder)
    exchanges, judged = read_exchanges(folder, plan), read_judged(folder)
    if measured is None:
        known = {one.id for one in exchanges}
        measured = [one for one in read_measures(folder) if one.id in known]
    columns = [*judged_columns(exchanges, judged), *measured_columns(exchanges, measured)]
    seed = plan.config.seed
    return Interviews(
        plan=plan,
        exchanges=tuple(exchanges),
        turns=tuple(read_turns(folder)),
        judged=tuple(judged),
        columns=tuple(columns),
        figures=tuple(figures(columns, exchanges, seed)),
        drifts=tuple(drifts(columns, exchanges, seed)),
        correlation=_correlation(columns),
    )


def read_measures(folder: Path) -> list[Measured]:
    """What the last report has measured; [] before the first."""
    return [
        Measured(row["id"], row["values"], tuple(row["gate"]))
        for row in read_lines(folder / MEASURES_FILE)
    ]


def as_json(found: Interviews) -> dict[str, Any]:
    """Every figure, without the exchanges and records themselves."""
    config = found.plan.config
    return {
        "name": config.name,
        "profile": config.profile,
        "complete": found.complete,
        "variants": [one.name for one in found.plan.planned.variants],
        "queries": len(found.plan.planned.queries),
        "wanted": {"single": found.plan.singles, "turns": found.plan.turns},
        "replies": {"single": found.singles, "turns": len(found.turns), "failed": found.failed},
        "interviewer": {
            "kind": config.interviewer.kind,
            "model": config.interviewer.model,
            "asked": sum(turn.asked_by == "model" for turn in found.turns),
            "substituted": found.substituted,
        },
        "seed": config.seed,
        "five": [_figure_json(one) for one in found.figures],
        "not_measured": found.unmeasured,
        "waiting": dict(found.waiting),
        "drift": [
            {
                "criterion": one.criterion,
                "judge": one.ruler.judge,
                "by": one.ruler.rubric,
                "variant": one.variant,
                **plain(one.drift),
            }
            for one in found.drifts
        ],
        "correlation": {name: plain(one) for name, one in found.correlation.items()},
        "warning": WARNING.as_json(),
        "told": [text.as_json() for text in told(found)],
    }


def told(found: Interviews) -> list[Text]:
    """What has to be said beside the figures, the gravest first."""
    said = [*_incomplete(found), *_marks(found), *_missing(found), _asked_by(found)]
    if found.failed:
        first = next(one.failed for one in found.exchanges if one.failed)
        said.append(
            Text(
                f"{found.failed:,} replies could not be had and count as unscored, the first "
                f"because: {first.en}",
                f"{found.failed:,} 件の返答は生成できず、採点不能として数えています。"
                f"最初の理由: {first.ja}",
            )
        )
    if found.correlation:
        said.append(WARNING)
    said += [
        Text(f"Query set, line {line}: {text.en}.", f"質問セット {line} 行目: {text.ja}。")
        for line, text in found.plan.planned.remarks
    ]
    return said


def _incomplete(found: Interviews) -> list[Text]:
    there, wanted = found.singles + len(found.turns), found.plan.singles + found.plan.turns
    said = []
    if there < wanted:
        said.append(
            Text(
                f"Incomplete: {there:,} of {wanted:,} replies are there. The figures are of these.",
                f"途中までの結果です。返答 {wanted:,} 件中 {there:,} 件から計算しています。",
            )
        )
    left = sum(found.waiting.values())
    if left:
        said.append(
            Text(
                f"The judge has {left:,} verdicts still to give.",
                f"ジャッジの採点があと {left:,} 件残っています。",
            )
        )
    return said


def _marks(found: Interviews) -> list[Text]:
    """Judges that have not passed their check; one that was never checked in one line."""
    open_ = [one for one in found.judged if not one.mark.get("passed")]
    never: dict[str, list[str]] = {}
    for one in open_:
        if not one.mark.get("date"):
            never.setdefault(one.ruler.judge, []).append(one.ruler.rubric)
    said = [
        Text(
            f"{judge} was never checked by these rubrics and was insisted on: "
            f"{', '.join(rubrics)}.",
            f"{judge} は次のルーブリックで検査されていませんが、承知のうえで使われました："
            f"{'、'.join(rubrics)}。",
        )
        for judge, rubrics in never.items()
    ]
    marks = [one.mark["text"] for one in open_ if one.mark.get("date")]
    return said + [Text(one["en"], one["ja"]) for one in marks]


def _missing(found: Interviews) -> list[Text]:
    if not found.unmeasured:
        return []
    labels = [CRITERIA[key].label for key in found.unmeasured]
    if found.plan.config.judge is None:
        why = Text(
            "they need a judge that reads (an endpoint or a local chat model)",
            "文章を読むジャッジ（エンドポイントかローカルのチャットモデル）が必要です",
        )
    else:
        why = Text("no reply has a verdict on them", "採点された返答がありません")
    return [
        Text(
            f"Nothing is said of {', '.join(one.en for one in labels)}: {why.en}.",
            f"{'、'.join(one.ja for one in labels)}については何も言えません。{why.ja}。",
        )
    ]


def _asked_by(found: Interviews) -> Text:
    config, asked = found.plan.config, sum(one.asked_by == "model" for one in found.turns)
    if config.interviewer.kind == "list":
        return Text(
            "The interviews follow a fixed list of questions: no model asked, and no question "
            "reacts to a reply.",
            "インタビューは固定の質問リストによるものです（質問するモデルなし）。"
            "質問は返答に応じて変わりません。",
        )
    if not found.substituted:
        return Text(
            f"{config.interviewer.model} asked {asked:,} of the questions, all but the first ones.",
            f"最初の質問を除く {asked:,} 問は {config.interviewer.model} が尋ねました。",
        )
    return Text(
        f"{config.interviewer.model} asked {asked:,} of the questions; {found.substituted:,} times "
        "it wrote nothing usable and the list's question was asked.",
        f"{asked:,} 問は {config.interviewer.model} が尋ねました。使える質問が出なかった "
        f"{found.substituted:,} 回は、リストの質問で補いました。",
    )


def _figure_json(figure: Figure) -> dict[str, Any]:
    ruler = figure.comparison.ruler
    measure = next((one for one in MEASURES.values() if one.key == ruler.rubric), None)
    measured = ruler.judge == MEASURED and measure is not None
    return {
        "criterion": figure.criterion,
        "part": figure.part,
        "judge": ruler.judge,
        "by": ruler.rubric,
        "version": ruler.version,
        "about": measure.about.as_json() if measured and measure else None,
        "scale": list(figure.scale),
        "summaries": plain(figure.comparison.summaries),
        "differences": plain(figure.comparison.differences),
    }


def _correlation(columns: list[Column]) -> dict[str, Correlations]:
    """By judge. Whether the gate was passed is the same for all replies that passed it."""
    by_judge: dict[str, list[Column]] = {}
    for column in columns:
        if column.measured and column.ruler.rubric == "clean":
            continue
        by_judge.setdefault(column.ruler.judge, []).append(column)
    made = {judge: correlations(of_it) for judge, of_it in by_judge.items()}
    return {judge: one for judge, one in made.items() if one is not None}
