"""What a search claims and what it truly gains, over several seeds of data, parents and search.

Run: ``python benchmarks/honesty.py --seeds 0 1 2 3 4 5 6 7 --out FOLDER`` with the embedded model
prepared (minutes a seed on CUDA, an hour on two CPU cores), then ``--summary FOLDER``.

For each seed the shipped dialogues of the character are shuffled: 60 train one parent, 60 others
the second, the rest are held out and dealt to search, selection and report. The objective is the
loss per token of her lines, so no judge's noise is in it. For each of several ways to search the
table says, in nats a token below the plain average, what the search claimed and what the report
lines say: of the best candidate seen, the distribution's mean, and the default choice; and how the
default choice compares with the better parent.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

HALF = 60
WAYS: dict[str, dict[str, Any]] = {
    "simplex, 3 groups": {"group_size": 6},
    "free, 3 groups": {"group_size": 6, "parametrisation": "free"},
    "simplex, 18 groups": {"group_size": 1},
    "free, 9 groups": {"group_size": 2, "parametrisation": "free"},
    "free, 18 groups": {"group_size": 1, "parametrisation": "free"},
    "free, 18 groups, no racing": {"group_size": 1, "parametrisation": "free", "race_first": 1.0},
    "free, 18 groups, 240 candidates": {
        "group_size": 1,
        "parametrisation": "free",
        "max_candidates": 240,
    },
}
"""``SearchConfig`` and the layers of a group. Simplex: weights add up to 1. Free: shares of each
parent's change, whose sum may be more or less."""


def one_seed(seed: int, ways: Sequence[str], candidates: int, target: Path) -> None:
    """Parents of this seed, and every way's search over them; ``target`` grows way by way."""
    import torch

    from charllm.core.catalog import EMBEDDED
    from charllm.core.evaluation import likelihood
    from charllm.core.evaluation.likelihood import ending_of
    from charllm.core.merging.adapter_engine import AdapterEngine
    from charllm.core.models import load_model, load_tokenizer, model_folder
    from charllm.core.training_data import build_rows, choose_facts
    from charllm.data.config import Paths
    from charllm.data.dialogue import dataset_path, load_dialogues
    from charllm.data.profile import load_profile
    from charllm.data.prompts import get_template

    whole = Paths.default()
    dialogues = load_dialogues(dataset_path(whole, "ayane"))
    random.Random(seed).shuffle(dialogues)
    parts = {"a": dialogues[:HALF], "b": dialogues[HALF : 2 * HALF]}
    lines = dialogues[2 * HALF :]
    profile = load_profile(whole, "ayane")
    home = model_folder(whole, EMBEDDED)
    found: dict[str, Any] = {"seed": seed, "lines": len(lines), "ways": {}}
    if torch.cuda.is_available():
        likelihood.CELLS = 2**29  # all lines of a candidate in one batch
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        began = time.perf_counter()
        adapters: dict[str, Path | None] = {
            name: train(name, part, seed, folder, whole) for name, part in parts.items()
        }
        found["training seconds"] = round(time.perf_counter() - began, 1)
        tokenizer = load_tokenizer(home)
        examples = choose_facts(lines, profile, 1.0, seed)
        template = get_template("plain-ja")
        rows = build_rows(examples, profile, template, tokenizer, max_length=100_000)
        endings = {one.id: ending_of(row) for one, row in zip(lines, rows, strict=True)}
        model = load_model(home)
        for way in ways:
            engine = AdapterEngine(model, adapters, WAYS[way]["group_size"], "base")
            began = time.perf_counter()
            found["ways"][way] = search(engine, endings, way, seed, candidates, folder / way)
            found["ways"][way]["seconds"] = round(time.perf_counter() - began, 1)
            engine.close()
            target.write_text(json.dumps(found))
            print(seed, way, json.dumps(found["ways"][way]["claims"]), file=sys.stderr, flush=True)


def train(name: str, part: Sequence[Any], seed: int, folder: Path, whole: Any) -> Path:
    """A parent as ``recipes/parent-a.yaml`` trains it, on these dialogues."""
    import shutil

    from charllm.core.training import run_train
    from charllm.core.training_config import TrainConfig
    from charllm.data.config import Paths
    from charllm.data.dialogue import save_dialogues
    from charllm.data.progress import Silent

    root = folder / f"root-{name}"
    for kind in ("profiles", "datasets", "recipes"):
        shutil.copytree(ROOT / kind, root / kind)
    save_dialogues(root / "datasets" / "ayane.jsonl", list(part))
    paths = Paths(root, folder / f"workspace-{name}")  # seeds may run side by side
    paths.workspace.mkdir()
    paths.models.symlink_to(whole.models)
    config = TrainConfig.load(root / "recipes" / "parent-a.yaml")
    changed = {"name": name, "half": "all", "seed": seed, "samples": (), "threads": 0}
    config = config.model_copy(
        update={**changed, "sample_each_epoch": False, "keep": "last", "held_out": 0.0}
    )
    run_train(config, Silent(), folder / f"run-{name}", paths)
    return paths.checkpoints / name


def search(
    engine: Any, endings: dict[str, Any], way: str, seed: int, candidates: int, folder: Path
) -> dict[str, Any]:
    """One search; besides its own report, every finalist's lines on all splits."""
    from charllm.core.evaluation.likelihood import mean_log_likelihoods
    from charllm.core.merging.genome import Space
    from charllm.core.merging.journal import Outcome
    from charllm.core.merging.search import run_search
    from charllm.core.merging.search_config import SearchConfig
    from charllm.core.merging.splits import Splits
    from charllm.data.progress import Silent

    def losses(coefficients: Any, queries: Sequence[str]) -> dict[str, float]:
        row = engine.apply(coefficients).scales

        @contextmanager
        def opened(rows: int) -> Iterator[Any]:
            with engine.model.selected([row] * rows) as model:
                yield model

        values = mean_log_likelihoods(opened, [endings[q] for q in queries])
        return {q: -value for q, value in zip(queries, values, strict=True)}

    def many(group: Sequence[Any], queries: Sequence[str], split: str) -> Iterator[Any]:
        for one in group:
            made = losses(one.coefficients, queries)
            yield [Outcome(query, {"loss": made[query]}) for query in queries]

    names = list(endings)
    splits = Splits(*(tuple(names[place::3]) for place in range(3)))
    options = {k: v for k, v in WAYS[way].items() if k != "group_size"}
    options = {"max_candidates": candidates, **options}
    config = SearchConfig(objective="loss=1", seed=seed, **options)
    # Weights that do not add up to 1 are shares of the changes, not of whole models.
    method = "task_arithmetic" if config.parametrisation == "free" else "linear"
    space = Space(tuple(engine.groups), 2, config.parametrisation, method)
    result = run_search(config, space, splits, None, folder, Silent(), evaluate_many=many)
    finalists = {row.id: row for row in result.rows}
    table: dict[str, dict[str, Any]] = {
        name: {
            "role": row.role,
            "search": row.search,
            "weights": {g: list(w) for g, w in row.coefficients.weights.items()},
            "asked": losses(row.coefficients, splits.search),
            "selection": losses(row.coefficients, splits.selection),
            "report": losses(row.coefficients, splits.report),
        }
        for name, row in finalists.items()
    }
    uniform = table["uniform"]["report"]
    claims = {}
    for place, claim in enumerate(result.claims):
        role = "choice" if not place else claim.candidate.role
        own = table[claim.candidate.id]["report"]
        claims[role] = {
            "id": claim.candidate.id,
            "claimed": claim.claimed,
            "true": statistics.fmean(uniform[q] - own[q] for q in uniform),
        }
    for role in ("candidate", "mean"):  # where the choice is one of them
        claims.setdefault(role, claims["choice"])
    parent = table[result.best_parent]["report"]
    chosen = table[result.chosen.id]["report"]
    claims["choice"]["over parent"] = statistics.fmean(parent[q] - chosen[q] for q in parent)
    return {"claims": claims, "finalists": table}


def summary(folder: Path) -> dict[str, Any]:
    """Over the seeds: what was claimed, what was true, intervals by bootstrap over the seeds."""
    from charllm.core.statistics import mean_interval

    seeds = [json.loads(path.read_text()) for path in sorted(folder.glob("seed-*.json"))]
    found: dict[str, Any] = {}
    for way in dict.fromkeys(way for one in seeds for way in one["ways"]):
        own = [one["ways"][way]["claims"] for one in seeds if way in one["ways"]]
        found[way] = {"seeds": len(own)}
        for role in ("candidate", "mean", "choice"):
            true = [one[role]["true"] for one in own]
            claimed = [one[role]["claimed"] for one in own]
            interval = mean_interval(true, list(range(len(true))))
            found[way][role] = {
                "claimed": round(statistics.fmean(claimed), 4),
                "true": round(statistics.fmean(true), 4),
                "interval": [interval.low, interval.high],
                "worst": round(min(true), 4),
            }
        over = [one["choice"]["over parent"] for one in own]
        found[way]["choice"]["over parent"] = [
            round(min(over), 4),
            round(statistics.fmean(over), 4),
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--candidates", type=int, default=120)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--summary", type=Path)
    options = parser.parse_args()
    for seed in options.seeds:
        options.out.mkdir(parents=True, exist_ok=True)
        one_seed(seed, options.ways, options.candidates, options.out / f"seed-{seed}.json")
    if options.summary or options.out:
        print(json.dumps(summary(options.summary or options.out), indent=1))


if __name__ == "__main__":
    main()
