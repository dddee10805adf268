"""The end of a search: finalists on the selection split, one choice, one look at the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from charllm.core.merging import finalists as final
from charllm.core.merging.finalists import Row, Score
from charllm.core.merging.genome import Candidate
from charllm.core.merging.guard import held_back
from charllm.core.merging.pareto import fronts
from charllm.core.merging.scoring import UNIFORM, differences
from charllm.core.merging.search_result import Claim, SearchResult, Stop
from charllm.core.statistics import Interval, mean_interval
from charllm.data.errors import Text
from charllm.data.queries import Split

if TYPE_CHECKING:
    from charllm.core.merging.search import Search

Scored = Mapping[str, Score]


def conclude(search: Search, stop: Stop) -> SearchResult:
    """Score the finalists, choose, open the report split and say what came out."""
    candidates = _finalists(search)
    search.expect("scoring the finalists", "最終候補を採点中")
    search.bench.run(candidates, search.splits.selection, "selection", needed=(UNIFORM,))
    selected = _scores(search, candidates, "selection")
    held = _held_back(search, candidates)
    gains = {
        one.id: search.scores.gains(one.id, "selection")
        for one in candidates
        if one.role in final.CHOOSABLE and one.id not in held
    }
    chosen = final.choose(gains, search.config.caution)
    honest = final.honest_gain(gains, search.config.caution, search.splits.selection)
    search.reporter.event("chosen", id=chosen, claimed=honest)

    _open_report(search, chosen)
    shown = [one for one in candidates if _is_reported(one, chosen)]
    left = sum(search.journal.find(one.id, "report") is None for one in shown)
    whole = search.journal.spent.queries + left * len(search.splits.report)
    search.expect("opening the report split", "報告用の質問で採点中", whole)
    search.bench.run(shown, search.splits.report, "report", needed=(UNIFORM, chosen))
    reported = _scores(search, shown, "report")
    result = _result(search, stop, candidates, chosen, honest, selected, reported)
    result = replace(result, held_back=tuple(held.items()), floors=search.objective.floors)
    search.clock.save()
    search.reporter.event("reported", over_uniform=result.over_uniform, opened=result.opened)
    return result


def _finalists(search: Search) -> list[Candidate]:
    """Baselines, the best global mixture, the best candidate seen, the mean and its shrunk ones."""
    mixtures = final.global_mixtures(search.space)
    members = [
        one
        for one in search.journal.candidates()
        if one.role == "candidate" and search.journal.find(one.id, "search", search.last_rung)
    ]
    mean = search.space.coefficients(search.strategy.mean)
    return [
        *final.baselines(search.space),
        *_best(search, mixtures),
        *_best(search, members),
        *final.shrunk_means(search.space, mean),
    ]


def _best(search: Search, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The one with the largest gain on the search split; none where all failed."""
    order = search.scores.order([one.id for one in candidates], "weighted")
    return [one for one in candidates if order and one.id == order[0]]


def _held_back(search: Search, candidates: Sequence[Candidate]) -> dict[str, Text]:
    """Whom the guard keeps from being chosen, and why; of those that could be."""
    choosable = [one.id for one in candidates if one.role in final.CHOOSABLE]
    found = {name: search.journal.outcomes(name, "selection") for name in [UNIFORM, *choosable]}
    return held_back(search.objective, {name: own for name, own in found.items() if own})


def _is_reported(one: Candidate, chosen: str) -> bool:
    return one.id == chosen or one.role in ("parent", "uniform", "candidate", "mean")


def _open_report(search: Search, chosen: str) -> None:
    """Written down before it is opened; going on after a kill is the same opening."""
    opened = search.state.opened
    if not search.state.reporting:
        search.state.opened = [*opened, chosen]
        search.state.reporting = True
        search.clock.save()


def _scores(search: Search, candidates: Sequence[Candidate], split: Split) -> dict[str, Score]:
    """Of all that did not fail."""
    found = {one.id: search.journal.outcomes(one.id, split) for one in candidates}
    whole = {name: outcomes for name, outcomes in found.items() if outcomes}
    return final.score_all(search.objective, whole, search.splits.of(split))


def _result(
    search: Search,
    stop: Stop,
    candidates: Sequence[Candidate],
    chosen: str,
    honest: float,
    selected: Scored,
    reported: Scored,
) -> SearchResult:
    parent = _best_parent(selected, candidates)
    gain = reported[chosen].gain
    over = _over(search, chosen, parent) if parent else None
    return SearchResult(
        chosen=next(one for one in candidates if one.id == chosen),
        best_parent=parent,
        over_uniform=final.verdict(gain, same=chosen == UNIFORM),
        over_parent=final.verdict(over, same=chosen == parent),
        gain_uniform=gain,
        gain_parent=over,
        rows=tuple(_row(search, one, selected, reported) for one in candidates),
        claims=_claims(search, candidates, chosen, honest, selected, reported),
        generations=tuple(search.generations),
        stop=stop,
        plan=search.plan,
        spent=search.journal.spent,
        failed=_failures(search),
        pareto=_front(search),
        opened=len(search.state.opened),
        given=tuple(one.id for one in search.journal.candidates() if one.origin),
    )


def _best_parent(selected: Scored, candidates: Sequence[Candidate]) -> str:
    """On the selection split, so that the report's own luck does not name it; "" if all failed."""
    gains = {
        one.id: selected[one.id].gain.value or 0.0
        for one in candidates
        if one.role == "parent" and one.id in selected
    }
    return max(gains, key=lambda name: gains[name]) if gains else ""


def _over(search: Search, a: str, b: str) -> Interval | None:
    """``a - b`` on the report split, by query."""
    found = differences(
        search.objective,
        search.journal.outcomes(a, "report"),
        search.journal.outcomes(b, "report"),
    )
    return mean_interval(list(found.values()), list(found)) if found else None


def _row(search: Search, one: Candidate, selected: Scored, reported: Scored) -> Row:
    return Row(
        one.id,
        one.role,
        one.coefficients,
        search.scores.gain(one.id),
        selected.get(one.id),
        reported.get(one.id),
        search.journal.failure(one.id),
    )


def _claims(
    search: Search,
    candidates: Sequence[Candidate],
    chosen: str,
    honest: float,
    selected: Scored,
    reported: Scored,
) -> tuple[Claim, ...]:
    """The choice with what cross-fitting says of it, the best candidate with what it seemed, the
    mean with its own selection; the choice comes first."""
    choice = next(one for one in candidates if one.id == chosen)
    found = [Claim(choice, honest, reported[chosen].gain)]
    for one in candidates:
        if one.id == chosen or one.id not in reported or one.role not in ("candidate", "mean"):
            continue
        claimed = search.scores.gain(one.id)
        if one.role == "mean":  # no candidate of the search; it may have failed here alone
            claimed = selected[one.id].gain.value if one.id in selected else None
        found.append(Claim(one, claimed, reported[one.id].gain))
    return tuple(found)


def _failures(search: Search) -> tuple[tuple[str, Text], ...]:
    """Every candidate that failed, and why."""
    found = [(one.id, search.journal.failure(one.id)) for one in search.journal.candidates()]
    return tuple((name, why) for name, why in found if why)


def _front(search: Search) -> tuple[str, ...]:
    """Whom no other candidate beats in every part, of all that were asked the same."""
    names = [
        one.id
        for one in search.journal.candidates()
        if one.role != "mean" and search.journal.find(one.id, "search", search.last_rung)
    ]
    points = search.scores.points(names)
    front = fronts(list(points.values()))
    return tuple(name for name, number in zip(points, front, strict=True) if number == 0)
