"""A search from its first question to its report: baselines, generations, finalists, report.

``run_search`` can be killed at any moment and called again: what stands in the journal is not
evaluated again, and the strategy is brought back by asking it anew from the same seed and telling
it the same places. It knows neither models nor judges: they are behind ``evaluate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from charllm.core.merging.budget import Clock, beyond, check_first, check_spent
from charllm.core.merging.concluding import conclude
from charllm.core.merging.evaluating import Bench, one_by_one
from charllm.core.merging.finalists import baselines, global_mixtures
from charllm.core.merging.genome import Candidate, Space, Vector
from charllm.core.merging.injecting import SHARE, Given, waiting
from charllm.core.merging.journal import Evaluate, EvaluateMany, Journal
from charllm.core.merging.objective import Objective
from charllm.core.merging.racing import kept, places
from charllm.core.merging.resuming import open_state
from charllm.core.merging.scoring import UNIFORM, Scores
from charllm.core.merging.search_config import SearchConfig, plan
from charllm.core.merging.search_result import STOPS, Generation, SearchResult, Stop
from charllm.core.merging.splits import Splits
from charllm.core.merging.strategies import Cma, Random, Sampled, Strategy, grid
from charllm.core.statistics import mean_interval
from charllm.data.errors import Text, UserError
from charllm.data.progress import Reporter

SAME = 1e-9
"""Vectors closer than this are the same, as another version of a library computes them."""
BENT = 1e-6
"""And vectors that went through a strategy's own bounds and back."""


def run_search(
    config: SearchConfig,
    space: Space,
    splits: Splits,
    evaluate: Evaluate | None,
    folder: Path,
    reporter: Reporter,
    *,
    evaluate_many: EvaluateMany | None = None,
    objective: Objective | None = None,
) -> SearchResult:
    """Search, choose and report; ``folder`` holds the journal and everything to go on from.

    ``evaluate_many`` scores a generation at once and comes before ``evaluate``. ``objective``: the
    configuration's with the evaluation's own ranges. ``Stopped`` when cancelled; ``Paused`` when
    asked to, when a budget does not suffice or when nothing can be scored; ``UserError`` where the
    folder holds another search.
    """
    many = evaluate_many or (one_by_one(evaluate) if evaluate else None)
    if many is None:
        raise ValueError("either evaluate or evaluate_many is needed")
    space = replace(space, parametrisation=config.parametrisation)
    goal = objective or Objective.parse(config.objective)
    with Journal(folder, writing=True) as journal:
        bench = Bench(journal, many, reporter, folder, lambda: check_spent(config, journal.spent))
        search = Search(config, space, splits, goal, bench, folder)
        search.baselines()
        stop = search.generate()
        return conclude(search, stop)


class Search:
    """What one search is made of, while it runs."""

    def __init__(
        self,
        config: SearchConfig,
        space: Space,
        splits: Splits,
        objective: Objective,
        bench: Bench,
        folder: Path,
    ) -> None:
        self.config, self.space, self.splits = config, space, splits
        self.objective, self.bench = objective, bench
        self.journal, self.reporter = bench.journal, bench.reporter
        self.plan = plan(config, space, splits)
        self.state = open_state(config, space, splits, objective, folder)
        self.clock = Clock(self.state, folder)
        self.scores = Scores(self.journal, objective)
        self.generations: list[Generation] = []
        self.kinds: dict[str, tuple[str, ...]] = {}
        self.strategy = _strategy(
            config, space, self.plan.population, self.state.start, self.state.seeds[0][1]
        )

    @property
    def last_rung(self) -> int:
        """The rung that only the better ones of a generation were asked."""
        return len(self.config.race.rungs(self.splits.search, 0, 0)) - 1

    def expect(self, en: str, ja: str, replies: int | None = None) -> None:
        """What is done now, for the progress; the whole is counted in replies."""
        self.bench.expect(replies or self.plan.replies, Text(en, ja))

    def baselines(self) -> None:
        """The plain average, the parents and the global mixtures, on all search queries."""
        self.expect("scoring the parents and the plain average", "親と単純平均を採点中")
        candidates = [*baselines(self.space), *global_mixtures(self.space)]
        self.bench.run(candidates, self.splits.search, "search", needed=(UNIFORM,))
        known = self.journal.outcomes(UNIFORM, "search")
        self.objective.check({part for one in known for part in one.parts})
        if all(value is None for value in self.objective.values(known).values()):
            raise _unscored(len(known))
        self.kinds = {one.query: tuple(sorted(one.parts)) for one in known}
        self.reporter.event(
            "baselines", gains={one.id: self.scores.gain(one.id) for one in candidates}
        )

    def generate(self) -> Stop:
        """Generation after generation, until there is a reason to stop."""
        stop = Stop("candidates", self.plan.generations, STOPS["candidates"])
        for number in range(1, self.plan.generations + 1):
            if early := self._stop_before(number):
                stop = early
                break
            for first, seed in self.state.seeds[1:]:
                if first == number:
                    self.strategy.reseed(seed)
            members = self._members(number)
            if not members:
                stop = Stop("exhausted", number - 1, STOPS["exhausted"])
                break
            self._generation(number, members)
        self.state.stop = self.state.stop or stop.as_json()
        self.clock.save()
        return stop

    def _stop_before(self, number: int) -> Stop | None:
        """Why there should be no generation ``number``; one that was begun is always finished."""
        if self.state.stop:  # decided in an earlier attempt, by a clock or a request
            told = Stop.from_json(self.state.stop)
            return told if number > told.generation else None
        if number in self.journal.generations:
            return None
        if why := self.strategy.finished:
            return Stop("converged", number - 1, why)
        if self.reporter.stop_requested() == "save":
            return Stop("asked", number - 1, STOPS["asked"])
        now = (self.config, self.plan, self.journal.spent, self.clock.seconds)
        if number == 1:
            check_first(*now)
        for name in beyond(*now, generations=1):
            return Stop(name, number - 1, STOPS[name])
        return None

    def _members(self, number: int) -> list[Candidate]:
        """What the strategy asks for, or what the journal says that it asked for."""
        found = []
        given = self._given(number)
        for i, asked in enumerate(self.strategy.ask([one.vector for one in given])):
            known = self.journal.find(_id(number, i), "search")
            vector = asked
            if known and _far(known.candidate.vector, asked):
                self.reporter.log(f"{_id(number, i)}: not the journal's vector, which is kept")
                vector = known.candidate.vector
            mixed = self.space.coefficients(vector)
            origin = next((one.origin for one in given if not _far(one.vector, asked, BENT)), "")
            found.append(Candidate(_id(number, i), mixed, vector, number, origin=origin))
        return found

    def _given(self, number: int) -> list[Given]:
        """The mixtures from outside that generation ``number`` holds. Which ones is written down
        before any is scored, so that it is the same after a kill."""
        known = [Given.from_json(row) for row in self.state.given]
        here = [one for one in known if one.generation == number]
        if number in self.journal.generations:
            return here
        room = int(SHARE * self.plan.population) - len(here)
        taken = {one.id for one in known}
        fresh = islice(waiting(self.clock.folder, self.space, taken), max(0, room))
        found = [replace(one, generation=number) for one in fresh]
        if found:
            self.state.given += [one.as_json() for one in found]
            self.clock.save()
        return [*here, *found]

    def _generation(self, number: int, members: Sequence[Candidate]) -> None:
        """One race: the first rung for all, the next for the better half, and who came where."""
        whole = self.plan.generations
        self.expect(f"generation {number} of {whole}", f"第 {number} 世代（全 {whole} 世代）")
        seed = next(seed for first, seed in reversed(self.state.seeds) if first <= number)
        rungs = self.config.race.rungs(self.splits.search, seed, number, self.kinds)
        self.bench.run(members, rungs[0], "search")
        first = self.scores.order([one.id for one in members], self.config.goals, rungs=1)
        tiers = [first]
        if len(rungs) > 1 and first:
            better = first[: kept(len(first))]
            again = [one for one in members if one.id in better]
            self.bench.run(again, rungs[1], "search", rung=1)
            tiers = [self.scores.order(better, self.config.goals), first[len(better) :]]
        losses = places([one.id for one in members], tiers)
        self.strategy.tell([one.vector for one in members], losses)
        self._note(number, members, [one for tier in tiers for one in tier])

    def _note(self, number: int, members: Sequence[Candidate], order: Sequence[str]) -> None:
        """Keep the generation's figures, and tell them."""
        every = [self.scores.gains(one) for one in order]
        common = [q for q in self.splits.search if every and all(q in gains for gains in every)]
        means = [sum(gains[q] for gains in every) / len(every) for q in common]
        found = Generation(
            number,
            order[0] if order else "",
            self.scores.gain(order[0]) if order else None,
            mean_interval(means, common) if common else None,
            len(members) - len(order),
            self.space.coefficients(self.strategy.mean),
            self.strategy.spread,
        )
        self.generations.append(found)
        self.reporter.event("generation", **found.as_json())
        self.clock.save_sometimes()


def _strategy(
    config: SearchConfig, space: Space, population: int, start: Vector | None, seed: int
) -> Strategy:
    if config.strategy == "random":
        return Random(space, seed, population)
    if config.strategy == "grid":
        return Sampled(space, population, grid(space, config.grid_steps, config.max_candidates))
    return Cma(space, seed, population, config.sigma, config.least_spread, start)


def _unscored(count: int) -> UserError:
    """Said after the first candidate, before a whole budget is spent on more of the same."""
    return UserError(
        f"None of the plain average's {count} search questions could be scored, so nothing can "
        "be compared. Check the judge (`python -m charllm quality`), then start a new search.",
        f"単純平均の探索用の質問 {count} 件がどれも採点できなかったため、比べられません。"
        "ジャッジを `python -m charllm quality` で確かめてから、新しく始めてください。",
    )


def _id(generation: int, number: int) -> str:
    return f"g{generation:03d}c{number:02d}"


def _far(a: Vector, b: Vector, most: float = SAME) -> bool:
    return len(a) != len(b) or max(abs(x - y) for x, y in zip(a, b, strict=True)) > most
