"""What an evaluation asks, settled before anything is generated and kept in the run's folder.

The folder holds the character, the queries, the variants and the facts as they were at the start:
a run that is resumed, or judged again a year later, asks and judges the same things.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from charllm.core.evaluation.evaluate_config import EvaluateConfig
from charllm.core.evaluation.query_sets import Remark, read_query_set
from charllm.core.evaluation.replies import Asking
from charllm.core.retrieval import Hit, open_index, threshold_for
from charllm.core.variants import Variant, find_variant, load_checkpoint
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import read_json, write_json
from charllm.data.profile import Profile, load_profile
from charllm.data.progress import Reporter, Stopped
from charllm.data.queries import Query

PLAN = "plan.json"


@dataclass(frozen=True)
class Planned:
    """``facts`` of each query as they were looked up, {} where no variant has RAG.

    ``remarks`` are what a reader should know of the query set (leaks between its splits).
    """

    config: EvaluateConfig
    profile: Profile
    variants: tuple[Variant, ...]
    queries: tuple[Query, ...]
    facts: Mapping[str, tuple[Hit, ...]]
    remarks: tuple[Remark, ...]

    @property
    def asking(self) -> Asking:
        config = self.config
        return Asking(
            profile=self.profile,
            variants=self.variants,
            queries=self.queries,
            facts=self.facts,
            settings=config.settings,
            repeats=config.repeats,
            seed=config.seed,
            rows=config.rows,
        )

    @property
    def wanted(self) -> int:
        """Replies in all."""
        return len(self.variants) * len(self.queries) * self.config.repeats


def plan_evaluation(config: EvaluateConfig, paths: Paths) -> Planned:
    """Everything but the facts; ``UserError`` for a query set with faults, a variant that is not
    there or incomplete, or one that was made for another character."""
    profile = load_profile(paths, config.profile)
    path = paths.queries / f"{config.queries or config.profile}.jsonl"
    asked = read_query_set(path, profile, config.splits)
    wanted = tuple(q for q in asked.queries if not config.splits or q.split in config.splits)
    variants = tuple(_variant(paths, config.profile, one) for one in config.variants)
    return Planned(config, profile, variants, wanted, {}, asked.remarks)


def open_plan(config: EvaluateConfig, paths: Paths, folder: Path, reporter: Reporter) -> Planned:
    """The plan that the folder keeps, or a new one with its facts, kept from now on."""
    if (folder / PLAN).exists():
        return read_plan(folder)
    planned = plan_evaluation(config, paths)
    facts = _facts(planned, paths, reporter)
    planned = Planned(
        config, planned.profile, planned.variants, planned.queries, facts, planned.remarks
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / PLAN, _as_json(planned))
    return planned


def read_plan(folder: Path) -> Planned:
    """``UserError`` where the run has not got as far as a plan."""
    path = folder / PLAN
    if not path.exists():
        raise UserError(
            f"{folder.name} has not begun to ask anything yet.",
            f"{folder.name} はまだ質問を始めていません。",
        )
    data, where = read_json(path), str(path)
    return Planned(
        config=EvaluateConfig.from_data(data["config"], where),
        profile=Profile.from_data(data["profile"], where),
        variants=tuple(Variant.from_data(one, where) for one in data["variants"]),
        queries=tuple(Query.from_data(one, where) for one in data["queries"]),
        facts={query: tuple(Hit(**hit) for hit in hits) for query, hits in data["facts"].items()},
        remarks=tuple(Remark(one["line"], Text(one["en"], one["ja"])) for one in data["remarks"]),
    )


def _as_json(planned: Planned) -> dict[str, object]:
    return {
        "config": planned.config.model_dump(mode="json"),
        "profile": planned.profile.model_dump(mode="json"),
        "variants": [one.model_dump(mode="json") for one in planned.variants],
        "queries": [one.model_dump(mode="json") for one in planned.queries],
        "facts": {query: [asdict(hit) for hit in hits] for query, hits in planned.facts.items()},
        "remarks": [{"line": one.line, **one.text.as_json()} for one in planned.remarks],
    }


def _variant(paths: Paths, slug: str, wanted: str | Variant) -> Variant:
    """The variant with its checkpoint looked at, so that a broken one stops the run at once."""
    variant = find_variant(paths, slug, wanted) if isinstance(wanted, str) else wanted
    if variant.checkpoint and not variant.base_url:
        load_checkpoint(paths, variant.checkpoint)
    return variant


def _facts(planned: Planned, paths: Paths, reporter: Reporter) -> dict[str, tuple[Hit, ...]]:
    """The nearest facts of every query, the same for all variants with RAG."""
    if not any(variant.rag for variant in planned.variants):
        return {}
    from charllm.core.embedding import get_embedder

    config, profile = planned.config, planned.profile
    embedder = get_embedder(config.embedder)
    index = open_index(paths, profile, embedder)
    if index.state().kind != "ready":
        if config.embedder.kind == "openai":
            raise _costs_money(profile, embedder.id)
        index.build(reporter)
    limit = config.threshold
    if limit is None:
        limit = threshold_for(paths, profile.slug, embedder)
    doing = Text("looking up the facts", "事実を検索しています")
    found: dict[str, tuple[Hit, ...]] = {}
    for query in planned.queries:
        reporter.progress(len(found), len(planned.queries), doing)
        if reporter.stop_requested() == "cancel":
            raise Stopped
        found[query.id] = tuple(index.retrieve(query.text, config.top_k, limit))
    return found


def _costs_money(profile: Profile, embedder: str) -> UserError:
    return UserError(
        f"The index of {profile.name} for {embedder} is not up to date. Build it in the Character "
        "tab first; it asks the endpoint once for every new fact.",
        f"{profile.name} の {embedder} 用の索引が最新ではありません。先に「キャラクター」タブで"
        "作成してください（新しい事実の分だけ問い合わせます）。",
    )
