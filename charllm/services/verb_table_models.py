"""Verbs that make models: training, export, evolution; and ``merge``."""

from __future__ import annotations

from charllm.data.errors import Text
from charllm.services import verbs, verbs_merge, verbs_models
from charllm.services.verb_words import FORKED, RECIPE, VALUES, Verb, arg

TRAINING: tuple[Verb, ...] = (
    Verb(
        "train",
        Text("fine-tune an adapter", "アダプターを学習する"),
        (
            arg("config", metavar="CONFIG", nargs="?", default="", help=RECIPE),
            arg("--preset", default="", choices=("demo", "study", "study-early")),
            arg("--set", action="append", default=[], metavar="NAME=VALUE"),
            arg("--check", action="store_true", help="rows, labels, leaks, memory; start nothing"),
        ),
        verbs.train,
    ),
    Verb(
        "export",
        Text("write a model, an adapter or a GGUF file", "モデル・アダプター・GGUF を書き出す"),
        (
            arg("source", metavar="SOURCE", help="a checkpoint, a recipe, or for GGUF a model"),
            arg("--to", default="merged", choices=("merged", "adapter", "gguf")),
            arg("--out", default="", metavar="NAME", help="a name, or a folder"),
            arg("--quantization", default="bf16", choices=("bf16", "f16", "q8_0")),
            arg("--replace", action="store_true", help="overwrite an earlier export"),
        ),
        verbs_models.export,
    ),
    Verb(
        "evolve",
        Text("search for the best merge of some parents", "親モデルの最良の混ぜ方を探索する"),
        (
            arg("config", metavar="CONFIG", help=RECIPE),
            arg("--set", action="append", default=[], metavar="NAME=VALUE", help=VALUES),
            arg("--quote", action="store_true", help="say what it will take, start nothing"),
        ),
        verbs_merge.evolve,
    ),
    Verb(
        "fork",
        Text("go on from a generation of an evolution", "進化マージを途中の世代から分岐する"),
        (
            arg("run", metavar="RUN", help="an evolution"),
            arg("--generation", type=int, required=True, help="the last one kept; 0: baselines"),
            arg("--set", action="append", default=[], metavar="NAME=VALUE", help=FORKED),
            arg("--detach", action="store_true", help="do not wait for its end"),
        ),
        verbs_merge.fork,
    ),
)

MERGE = Verb(
    "merge",
    Text("blend weights by a mergekit recipe", "mergekit のレシピで重みを混ぜる"),
    (
        arg("recipe", metavar="RECIPE", help=RECIPE),
        arg("--out", required=True, metavar="DIR"),
        arg("--engine", default="resident", choices=("resident", "mergekit")),
        arg("--form", default="model", choices=("model", "adapter", "recipe")),
        arg("--label-en", default="", help="what the page calls it, in English"),
        arg("--label-ja", default="", help="what the page calls it, in Japanese"),
        arg("--seed", type=int, default=0, help="of DARE's random numbers"),
    ),
    verbs_merge.merge,
)
