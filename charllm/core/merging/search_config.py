"""The settings of a search, and the arithmetic of its budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import model_validator

from charllm.core.merging.finalists import count_baselines, count_finalists, count_reported
from charllm.core.merging.genome import Parametrisation, Space
from charllm.core.merging.objective import Objective
from charllm.core.merging.racing import Race
from charllm.core.merging.splits import Splits
from charllm.core.merging.strategies import population_of
from charllm.data.config import Config
from charllm.data.errors import Text, UserError
from charllm.data.settings import setting

SEARCH_GROUPS = {
    "search": Text("Search", "探索"),
    "objective": Text("Objective", "目標"),
    "race": Text("Queries for each candidate", "候補ごとの質問数"),
    "budget": Text("Budget", "予算"),
    "choice": Text("Choosing the result", "結果の選び方"),
}
BUDGETS = ("max_candidates", "max_calls", "max_money", "max_hours")
"""What may be raised when a search is resumed; everything else makes it another search."""


class SearchConfig(Config):
    """Everything that decides how a search goes, given its space, queries and evaluation."""

    strategy: Literal["cma", "random", "grid"] = setting(
        "cma",
        "Strategy",
        "探索方法",
        "cma: CMA-ES. random: what it must beat. grid: every step, for few groups only.",
        "cma は CMA-ES、random は比較用、grid は総当たり（グループが少ないとき）です。",
        group="search",
        simple=True,
    )
    parametrisation: Parametrisation = setting(
        "simplex",
        "Genes",
        "遺伝子の表し方",
        "simplex: shares. raw: the study's α / (α + β). free: weights as they are.",
        "simplex は割合、raw は論文の α ÷ (α + β)、free は重みそのままです。",
        group="search",
    )
    population: int = setting(
        0,
        "Population",
        "集団の大きさ",
        "Candidates in one generation. 0: 4 + 3 ln(genes).",
        "一世代の候補の数です。0 なら 4 + 3 ln(遺伝子数) です。",
        group="search",
        ge=0,
        le=1000,
    )
    sigma: float = setting(
        0.25,
        "First step size (sigma)",
        "最初のステップ幅（シグマ）",
        "How far the first generation spreads from the plain average.",
        "最初の世代が単純平均からどれだけ散らばるかです。",
        group="search",
        gt=0.0,
        le=2.0,
    )
    least_spread: float = setting(
        0.01,
        "Stop below this spread",
        "収束とみなすばらつき",
        "Weights that differ by less than this are the same model after rounding.",
        "これより小さい重みの差は、丸めると同じモデルになります。",
        group="search",
        ge=0.0,
        le=1.0,
    )
    grid_steps: int = setting(
        4, "Steps of the grid", "グリッドの刻み数", group="search", ge=1, le=100
    )
    warm_start: str = setting(
        "",
        "Start from an earlier search",
        "以前の探索から始める",
        "Folder of a search over the same space: starts at the mean of its better half.",
        "同じ空間の探索のフォルダーです。良かった半分の平均から始めます。",
        group="search",
    )
    seed: int = setting(0, "Seed", "シード", group="search", ge=0)
    objective: str = setting(
        "score",
        "Objective",
        "目標",
        "Parts and their weights: score=1, style=0.5.",
        "項目と重みを score=1, style=0.5 のように書きます。",
        group="objective",
        simple=True,
    )
    goals: Literal["weighted", "pareto"] = setting(
        "weighted",
        "Several parts",
        "複数の項目の扱い",
        "weighted: their weighted mean. pareto: a generation is ordered by Pareto fronts.",
        "weighted は重み付き平均、pareto は世代内をパレートフロントで順位付けします。",
        group="objective",
    )
    race_first: float = setting(
        0.25,
        "Asked of all candidates",
        "全候補に使う割合",
        "Share of the search queries. 1: every query for everybody.",
        "探索用の質問のうち全候補に使う割合です。1 なら全員に全問を使います。",
        group="race",
        gt=0.0,
        le=1.0,
    )
    race_more: float = setting(
        0.25,
        "Also asked of the better half",
        "良い半分に追加する割合",
        group="race",
        ge=0.0,
        lt=1.0,
    )
    max_candidates: int = setting(
        120,
        "Candidates",
        "候補の数",
        "Merges scored by the search. Whole generations; baselines and finalists are extra.",
        "探索で採点するマージの数です（世代単位）。比較対象と最終候補は別に数えます。",
        group="budget",
        simple=True,
        ge=1,
        le=100_000,
    )
    max_calls: int | None = setting(
        None,
        "Judge calls",
        "採点の呼び出し回数",
        "The search ends early enough to leave the calls for finalists and report.",
        "最終候補と報告の分を残して探索を終えます。",
        group="budget",
        ge=1,
    )
    max_money: float | None = setting(
        None, "Money, US dollars", "費用（米ドル）", group="budget", gt=0.0
    )
    max_hours: float | None = setting(None, "Hours", "時間", group="budget", gt=0.0)
    caution: float = setting(
        0.5,
        "Caution",
        "慎重さ",
        "Standard errors taken off a finalist's gain before the largest is chosen.",
        "最終候補の差から引く標準誤差の数です。引いた後に最も大きいものを選びます。",
        group="choice",
        ge=0.0,
        le=5.0,
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.race_first + self.race_more > 1 and self.race_first < 1:
            raise ValueError("race_first and race_more together exceed 1") from UserError(
                "race_first and race_more together must not exceed 1: they are shares of the "
                "search queries. For every query of everybody set race_first to 1.",
                "race_first と race_more の合計は 1 以下にしてください（探索用の質問に対する割合"
                "です）。全候補に全問を使うなら race_first を 1 にします。",
            )
        try:
            Objective.parse(self.objective)
        except UserError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def race(self) -> Race:
        return Race(self.race_first, self.race_more)

    def population_for(self, space: Space) -> int:
        return self.population or population_of(space.size)

    def meaning(self) -> dict[str, Any]:
        """The settings that must stay the same for a search to be the same one."""
        return {k: v for k, v in self.model_dump(mode="json").items() if k not in BUDGETS}


@dataclass(frozen=True)
class Plan:
    """A budget in whole generations, and the replies it takes at most.

    ``by_rule``: the population is the rule's. ``first`` queries of ``queries`` go to all
    candidates, ``more`` to the better half. The last four count replies of each phase.
    """

    genes: int
    sigma: float
    by_rule: bool
    population: int
    generations: int
    queries: int
    first: int
    more: int
    search: int
    baselines: int
    selection: int
    report: int

    @property
    def candidates(self) -> int:
        return self.population * self.generations

    @property
    def reserve(self) -> int:
        """Replies that choosing and reporting will still take when the search has ended."""
        return self.selection + self.report

    @property
    def replies(self) -> int:
        return self.baselines + self.search + self.reserve


def plan(config: SearchConfig, space: Space, splits: Splits) -> Plan:
    """What a search will do; ``UserError`` where the budget is less than one generation."""
    population = config.population_for(space)
    generations = config.max_candidates // population
    if not generations or population < 4:
        raise UserError(
            f"A generation has {population} candidates: the budget must allow at least one "
            "generation, and a generation at least 4.",
            f"一世代は {population} 候補です。予算は一世代分以上、一世代は 4 候補以上に"
            "してください。",
        )
    rungs = config.race.rungs(splits.search, 0, 0)
    return Plan(
        space.size,
        config.sigma,
        not config.population,
        population,
        generations,
        len(splits.search),
        len(rungs[0]),
        sum(map(len, rungs[1:])),
        generations * config.race.queries(len(splits.search), population),
        count_baselines(space) * len(splits.search),
        count_finalists(space) * len(splits.selection),
        count_reported(space) * len(splits.report),
    )
