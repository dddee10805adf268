"""What an evolution asks of every candidate: questions with their facts, held-out lines, general
questions; and which split each of them belongs to.

It does not know what a candidate is, nor what is made of its answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.evaluation.general_questions import GeneralQuestion, load_general
from charllm.core.merging.evolve_config import EvolveConfig
from charllm.core.merging.splits import SPLITS, Splits, split_queries
from charllm.core.merging.trial import GUARD, LINE, Question, Stage
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.data.profile import Profile
from charllm.data.progress import Reporter
from charllm.data.queries import Query, load_queries

if TYPE_CHECKING:
    from charllm.core.merging.planning import Plan
    from charllm.data.prompts import Row, Template

ROWS = {"cpu": 16, "cuda": 128}
"""Rows decoded at once where the configuration does not say."""


def query_file(config: EvolveConfig, paths: Paths) -> Path:
    return paths.queries / f"{config.queries or config.profile}.jsonl"


def splits_of(config: EvolveConfig, paths: Paths) -> Splits:
    """Which split each question, held-out line and general question belongs to, by their ids."""
    lines = [LINE + one.id for one in _line_dialogues(config, paths)] if config.lines else []
    splits = _with_lines(split_queries(load_queries(query_file(config, paths))), lines)
    return _with_general(splits, _general(config, paths))


def _with_lines(splits: Splits, lines: Sequence[str]) -> Splits:
    """Lines are dealt out to the splits in turn, so that none is both tuned and reported on."""
    dealt = {split: tuple(lines[place :: len(SPLITS)]) for place, split in enumerate(SPLITS)}
    return Splits(*(splits.of(split) + dealt[split] for split in SPLITS))


def _with_general(splits: Splits, questions: Mapping[str, GeneralQuestion]) -> Splits:
    """General questions say themselves which split they belong to."""
    dealt = {
        split: tuple(key for key, one in questions.items() if one.split == split)
        for split in SPLITS
    }
    return Splits(*(splits.of(split) + dealt[split] for split in SPLITS))


def stage_of(
    config: EvolveConfig,
    paths: Paths,
    profile: Profile,
    found: Plan,
    reporter: Reporter,
    home: Path,
) -> Stage:
    """The questions as they are asked of every candidate; ``home`` holds the tokenizer."""
    from charllm.core.models import shared_tokenizer
    from charllm.data.prompts import build_messages, end_ids, get_template, prompt_ids

    queries = load_queries(query_file(config, paths))
    reporter.progress(0, 1, Text("looking up the facts", "事実を検索しています"))
    facts = _facts(config, paths, profile, queries, reporter)
    tokenizer = shared_tokenizer(home)
    template = get_template(_template(config, found, profile))
    questions = {
        query.id: Question(
            query.id,
            query.text,
            prompt_ids(
                template,
                tokenizer,
                build_messages(profile, query.text, facts=facts[query.id] or None),
            ),
            query.gold,
        )
        for query in queries
    }
    return Stage(
        tokenizer,
        end_ids(template, tokenizer),
        template.stop_strings,
        questions,
        _lines(config, paths, profile, template, tokenizer),
        config.preset,
        config.rows or ROWS[found.device],
        _general(config, paths),
    )


def _facts(
    config: EvolveConfig,
    paths: Paths,
    profile: Profile,
    queries: Sequence[Query],
    reporter: Reporter,
) -> dict[str, tuple[str, ...] | None]:
    """The facts each question's prompt shows; None without retrieval."""
    if not config.rag:
        return dict.fromkeys((query.id for query in queries), None)
    from charllm.core.embedding import EmbedderConfig, get_embedder
    from charllm.core.retrieval import open_index, threshold_for

    embedder = get_embedder(EmbedderConfig())
    index = open_index(paths, profile, embedder)
    if index.state().kind != "ready":
        index.build(reporter)
    limit = threshold_for(paths, profile.slug, embedder)
    return {
        query.id: tuple(
            hit.fact for hit in index.retrieve(query.text, config.top_k, limit) if hit.used
        )
        for query in queries
    }


def _template(config: EvolveConfig, found: Plan, profile: Profile) -> str:
    from charllm.core.catalog import find_model, template_name

    if config.template != "auto":
        return config.template
    home = found.parents[0].base
    try:
        return template_name(find_model(home.name), profile.language)
    except UserError:
        return template_name(find_model(str(home)), profile.language)


def _line_dialogues(config: EvolveConfig, paths: Paths) -> list[Any]:
    from charllm.core.training_data import split_dialogues
    from charllm.data.dialogue import dataset_path, load_dialogues

    dialogues = load_dialogues(dataset_path(paths, config.lines))
    share = min(config.lines_held_out, 0.999)
    return split_dialogues(dialogues, "all", share, config.lines_seed)[1]


def check_lines(config: EvolveConfig, paths: Paths, found: Plan) -> None:
    """``UserError`` where a parent's own ``train.yaml`` says that it was trained on the lines that
    are to measure it; a model that does not say what it has seen is taken at the user's word."""
    from charllm.core.training_config import TrainConfig
    from charllm.core.training_data import split_dialogues
    from charllm.data.dialogue import dataset_path, load_dialogues

    measured = {one.id for one in _line_dialogues(config, paths)} if config.lines else set()
    for parent in found.parents:
        file = parent.adapter / "train.yaml" if parent.adapter else None
        if not measured or file is None or not file.is_file():
            continue
        trained = TrainConfig.load(file)
        if trained.dataset != config.lines:
            continue
        dialogues = load_dialogues(dataset_path(paths, config.lines))
        how = (trained.half, trained.held_out, trained.split_seed)
        seen = measured & {one.id for one in split_dialogues(dialogues, *how)[0]}
        if seen:
            share, seed = trained.held_out, trained.split_seed
            raise UserError(
                f"lines: {parent.name} was trained on {len(seen)} of the {len(measured)} lines "
                f"that are to measure it. Set lines_held_out to {share:g} or less and lines_seed "
                f"to {seed}, as in its training.",
                f"lines: {parent.name} は、評価に使うせりふ {len(measured)} 件のうち {len(seen)} "
                "件を学習しています。学習時と同じように lines_held_out を "
                f"{share:g} 以下、lines_seed を {seed} にしてください。",
            )


def _lines(
    config: EvolveConfig, paths: Paths, profile: Profile, template: Template, tokenizer: Any
) -> dict[str, Row]:
    """The held-out dialogues as rows, with the facts that their replies rely on."""
    if not config.lines:
        return {}
    from charllm.core.training_data import build_rows, choose_facts

    dialogues = _line_dialogues(config, paths)
    examples = choose_facts(dialogues, profile, 1.0 if config.rag else 0.0, config.lines_seed)
    rows = build_rows(examples, profile, template, tokenizer, max_length=100_000)
    return {LINE + one.id: row for one, row in zip(dialogues, rows, strict=True)}


def _general(config: EvolveConfig, paths: Paths) -> dict[str, GeneralQuestion]:
    """The general questions that guard against forgetting; {} where none are asked."""
    if config.general_sets is None:
        return {}
    return {GUARD + one.id: one for one in load_general(paths, config.general_sets)}
