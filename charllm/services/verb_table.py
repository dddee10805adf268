"""Every verb of the command line: its words, its arguments, and the function that does it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.services import (
    verbs,
    verbs_data,
    verbs_interop,
    verbs_interview,
    verbs_judge,
    verbs_models,
    verbs_rag,
)


class Argument(NamedTuple):
    """One argument, as argparse takes it."""

    names: tuple[str, ...]
    options: dict[str, Any]


def arg(*names: str, **options: Any) -> Argument:
    return Argument(names, options)


@dataclass(frozen=True)
class Verb:
    """``name`` is one word, or two for a verb of a group (``profile import``)."""

    name: str
    help: Text
    arguments: tuple[Argument, ...]
    handler: Callable[[Paths, argparse.Namespace], Any]
    hidden: bool = False


SLUG = arg("slug", metavar="SLUG")
EMBEDDER = (
    arg("--embedder", default="e5", choices=("e5", "openai", "sentence-transformers")),
    arg("--embedding-model", default="", help="for openai and sentence-transformers"),
    arg("--base-url", default="", help="an endpoint of OpenAI's protocol"),
)

DATASET = arg("name", metavar="NAME")
PROFILE = arg("--profile", required=True, metavar="SLUG")
JUDGE = (
    arg("--judge", default="", metavar="FILE", help="a YAML file with the judge's settings"),
    arg("--rubric", default="", help="a name in rubrics/"),
    arg("--model", default="", help="the judge's model"),
    arg("--base-url", default="", help="an endpoint of OpenAI's protocol"),
    arg("--local", action="store_true", help="--model is a model of this machine"),
    arg("--samples", type=int, default=0),
)

RECIPE = "a YAML file, or a name in recipes/"
VALUES = "over the file's, in YAML; parents='[/a, /b]', search.seed=1"

VERBS: tuple[Verb, ...] = (
    Verb(
        "doctor",
        Text("what works on this machine, and what is missing", "この環境で動くものと足りないもの"),
        (),
        verbs.doctor,
    ),
    Verb(
        "profile import",
        Text("read a character card or facts", "キャラクターカードや事実を読み込む"),
        (
            arg("file", metavar="FILE", help=".png .json .charx .txt"),
            arg("--as", dest="slug", default="", metavar="SLUG"),
            arg("--replace", action="store_true", help="overwrite a profile of that name"),
        ),
        verbs.profile_import,
    ),
    Verb(
        "profile export",
        Text("write a character card or facts", "キャラクターカードや事実を書き出す"),
        (SLUG, arg("--to", required=True, metavar="FILE", help=".png .json .charx .txt")),
        verbs.profile_export,
    ),
    Verb(
        "profile show", Text("one profile", "プロファイルを表示する"), (SLUG,), verbs.profile_show
    ),
    Verb("profile list", Text("all profiles", "プロファイルの一覧"), (), verbs.profile_list),
    Verb(
        "data import",
        Text("read dialogues of any known format", "会話データを読み込む（形式は自動判定）"),
        (
            arg("file", metavar="FILE"),
            arg("--out", default="", metavar="NAME", help="the dataset to make; none: only look"),
            arg("--format", default="", help="overrule what was detected (see `data formats`)"),
            arg("--map", action="append", default=[], metavar="FIELD=COLUMN"),
            arg("--profile", default="", metavar="SLUG"),
            arg("--rejected", default="", metavar="FILE", help="write the rejected rows as CSV"),
            arg("--replace", action="store_true", help="move a dataset of that name aside"),
        ),
        verbs_data.data_import,
    ),
    Verb(
        "data formats",
        Text("the formats that can be read", "読み込める形式の一覧"),
        (),
        verbs_data.data_formats,
    ),
    Verb("data list", Text("all datasets", "データセットの一覧"), (), verbs_data.data_list),
    Verb(
        "data check",
        Text("rows, duplicates and leaks of a dataset", "データの行、重複、漏れを調べる"),
        (DATASET, arg("--profile", default="", metavar="SLUG")),
        verbs_data.data_check,
    ),
    Verb(
        "data steps",
        Text("the preparation steps there are", "前処理のステップの一覧"),
        (),
        verbs_data.data_steps,
    ),
    Verb(
        "data prepare",
        Text("set a dataset's preparation steps", "データセットの前処理を決める"),
        (
            DATASET,
            arg("--step", action="append", default=[], metavar="NAME[:KEY=VALUE,…]"),
            arg("--preview", action="store_true", help="count the changes, change nothing"),
        ),
        verbs_data.data_prepare,
    ),
    Verb(
        "data card",
        Text("a dataset's card, as Markdown", "データセットカードを表示する"),
        (DATASET,),
        verbs_data.data_card,
    ),
    Verb(
        "data harvest",
        Text("training rows from the chat", "チャットから学習データを作る"),
        (
            arg("profile", metavar="SLUG"),
            arg("--kind", default="supervised", choices=("supervised", "preference")),
            arg("--out", default="", metavar="NAME", help="the dataset to make; none: only look"),
            arg("--replace", action="store_true"),
        ),
        verbs_data.data_harvest,
    ),
    Verb(
        "index",
        Text("embed a profile's facts", "プロファイルの事実を索引にする"),
        (SLUG, *EMBEDDER),
        verbs.index,
    ),
    Verb(
        "retrieve",
        Text("the facts nearest to a question", "質問に近い事実を探す"),
        (SLUG, arg("question"), arg("--k", type=int, default=3), *EMBEDDER),
        verbs.retrieve,
    ),
    Verb(
        "calibrate",
        Text("hit rate and threshold of an embedder", "埋め込みの的中率としきい値を調べる"),
        (SLUG, *EMBEDDER),
        verbs.calibrate,
    ),
    Verb(
        "labels",
        Text("the token ids a row is trained on", "学習に使うトークン ID とラベル"),
        (
            arg("--tokenizer", required=True, metavar="PATH"),
            arg("--template", required=True),
            arg("--system", default=""),
            arg("--user", required=True),
            arg("--reply", required=True),
        ),
        verbs.labels,
    ),
    Verb(
        "judge",
        Text(
            "score replies by the embedded judge or a model",
            "返答を採点する（内蔵ジャッジかモデル）",
        ),
        (
            arg("file", metavar="FILE", help="JSONL rows: id, query, reply"),
            PROFILE,
            *JUDGE,
        ),
        verbs_judge.judge,
    ),
    Verb("rubrics", Text("the rubrics there are", "ルーブリックの一覧"), (), verbs_judge.rubrics),
    Verb(
        "quality",
        Text("check a judge on pairs of known order", "優劣の分かっている組でジャッジを検査する"),
        (PROFILE, *JUDGE),
        verbs_judge.quality,
    ),
    Verb(
        "filter",
        Text("judge a dataset and keep the good rows", "データを採点して選別する"),
        (
            arg("config", metavar="CONFIG", help=RECIPE),
            arg("--quote", action="store_true", help="say what it will take, start nothing"),
        ),
        verbs_judge.filter_,
    ),
    Verb(
        "publish",
        Text("make a dataset of a filter run", "選別の実行からデータセットを作る"),
        (
            arg("run", metavar="RUN"),
            arg("--out", required=True, metavar="NAME"),
            arg("--threshold", type=float, required=True),
            arg("--unscored", default="drop", choices=("drop", "keep")),
        ),
        verbs_judge.publish,
    ),
    Verb(
        "judgements import",
        Text("read other people's judgements", "他の人の採点を読み込む"),
        (
            arg("file", metavar="FILE", help="JSONL rows: query, reply, score, judge"),
            PROFILE,
            arg("--name", required=True, help="what their source is called"),
        ),
        verbs_judge.judgements_import,
    ),
    Verb(
        "judgements export",
        Text("write our judgements as JSONL or a CSV table", "採点を JSONL か CSV の表で書き出す"),
        (PROFILE, arg("--to", required=True, metavar="FILE", help=".jsonl or .csv")),
        verbs_judge.judgements_export,
    ),
    Verb(
        "judgements keep",
        Text("add an evaluation's verdicts to the desk", "評価の採点を採点デスクに加える"),
        (arg("run", metavar="RUN", help="an evaluation"),),
        verbs_interop.judgements_keep,
    ),
    Verb(
        "agreement",
        Text("how well judges agree with hand scores", "手採点との一致を調べる"),
        (PROFILE, arg("--source", default="", help="a filter run, a file's name, or chat")),
        verbs_judge.agreement,
    ),
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
        verbs.evolve,
    ),
    Verb(
        "evaluate",
        Text("ask variants, judge their replies, compare", "構成に質問し、採点して比べる"),
        (
            arg("config", metavar="CONFIG", help=RECIPE),
            arg("--quote", action="store_true", help="say what it will take, start nothing"),
        ),
        verbs.evaluate,
    ),
    Verb(
        "rag-report",
        Text("what RAG does for a variant's replies", "RAG が返答に与える効果を調べる"),
        (
            SLUG,
            arg("--variant", default="", metavar="NAME", help="with RAG or without; both are read"),
            arg("--run", default="", metavar="RUN", help="an evaluation; default: the newest"),
        ),
        verbs_rag.rag_report,
    ),
    Verb(
        "forgetting",
        Text("general questions before and after training", "学習の前後で一般問題を比べる"),
        (
            SLUG,
            arg("--variants", default="", metavar="NAME,…", help="default: all of the character"),
            arg("--sets", default="", metavar="NAME,…", help="in datasets/general; default: all"),
            arg("--lines", default="", metavar="NAME", help="a dataset; default: the character's"),
        ),
        verbs_rag.forgetting,
    ),
    Verb(
        "questions",
        Text(
            "make a question set from a profile, with traps",
            "プロファイルから質問セットを作る（ひっかけ質問つき）",
        ),
        (
            SLUG,
            arg("--out", default="", metavar="NAME", help="default: SLUG-five"),
            arg("--seed", type=int, default=0, help="which traps are drawn"),
            arg("--traps", type=int, default=3, help="of each kind, at most"),
            arg("--replace", action="store_true"),
        ),
        verbs_interview.questions,
    ),
    Verb(
        "interview",
        Text(
            "the five criteria: questions, interviews, drift",
            "5つの基準を調べる（質問、インタビュー、変化）",
        ),
        (
            arg("config", metavar="CONFIG", help=RECIPE),
            arg("--quote", action="store_true", help="say what it will take, start nothing"),
        ),
        verbs_interview.interview,
    ),
    Verb(
        "pairs",
        Text("compare an evaluation's replies in pairs", "評価の返答をペアで比べる"),
        (
            arg("run", metavar="RUN", help="an evaluation"),
            *JUDGE,
            arg("--against", default="", metavar="NAME", help="each variant meets this one only"),
            arg("--quote", action="store_true", help="say what it will take, ask nothing"),
            arg("--markdown", action="store_true", help="ratings and win matrix as tables"),
        ),
        verbs_interop.pairs,
    ),
    Verb(
        "study-table",
        Text("an evaluation as the study's tables", "評価を研究と同じ形の表にする"),
        (
            arg("run", metavar="RUN", help="an evaluation"),
            arg("--markdown", action="store_true", help="tables instead of figures"),
        ),
        verbs_interop.study_table,
    ),
    Verb(
        "lm-eval-task",
        Text("a task of lm-evaluation-harness", "lm-evaluation-harness のタスクを書き出す"),
        (
            SLUG,
            arg("--out", required=True, metavar="FOLDER", help="a folder that is not there yet"),
            arg("--queries", default="", metavar="NAME", help="default: the character's own"),
            arg("--split", default="report", choices=("search", "selection", "report")),
            arg("--template", default="tokenizer", help="tokenizer: use --apply_chat_template"),
            arg("--rag", action="store_true", help="look facts up and put them into the prompts"),
            arg("--max-tokens", type=int, default=128),
        ),
        verbs_interop.lm_eval_task,
    ),
    Verb(
        "export-inspect",
        Text("an evaluation as logs for Inspect's viewer", "評価を Inspect のログとして書き出す"),
        (
            arg("run", metavar="RUN", help="an evaluation"),
            arg("--to", required=True, metavar="FILE", help=".eval or .json; one for each variant"),
            arg("--variant", action="append", default=[], metavar="NAME", help="default: all"),
        ),
        verbs_interop.export_inspect,
    ),
    Verb(
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
        verbs.merge,
    ),
    Verb(
        "chat",
        Text("ask one variant", "一つの構成に質問する"),
        (
            arg("text"),
            arg("--variant", required=True, metavar="NAME"),
            arg("--profile", default="", metavar="SLUG", help="default: the first profile"),
        ),
        verbs.chat,
    ),
    Verb("runs list", Text("all runs, the newest first", "実行の一覧"), (), verbs.runs_list),
    Verb(
        "runs show",
        Text("one run, with its result", "実行を表示する"),
        (arg("run", metavar="RUN"),),
        verbs.runs_show,
    ),
    Verb(
        "runs stop",
        Text("ask a run to stop and save", "実行を保存して止める"),
        (
            arg("run", metavar="RUN"),
            arg("--cancel", action="store_true", help="drop what it has done"),
        ),
        verbs.runs_stop,
    ),
    Verb(
        "runs resume",
        Text("go on with an ended run, and follow it", "終わった実行を再開する"),
        (
            arg("run", metavar="RUN"),
            arg("--detach", action="store_true", help="do not wait for its end"),
            arg("--budget-calls", type=int, help="for a filter run, all in all"),
            arg("--budget-tokens", type=int, help="for a filter run, all in all"),
            arg("--budget-usd", type=float, help="for a filter run, all in all"),
        ),
        verbs.runs_resume,
    ),
    Verb("models list", Text("known models", "モデルの一覧"), (), verbs.models_list),
    Verb(
        "models convert",
        Text("prepare the embedded base, or a GGUF file", "内蔵モデルか GGUF を準備する"),
        (arg("model", metavar="FILE", nargs="?", default="", help="a .gguf file"),),
        verbs.models_convert,
    ),
    Verb(
        "run-stage",
        Text("a run's own process", "実行のプロセス"),
        (arg("folder", metavar="FOLDER"),),
        verbs.run_stage,
        hidden=True,
    ),
)

GROUPS = {
    "profile": Text("characters", "キャラクター"),
    "data": Text("training dialogues", "学習用の会話"),
    "judgements": Text("scores that were given", "採点の記録"),
    "runs": Text("long operations", "時間のかかる処理"),
    "models": Text("models", "モデル"),
}
