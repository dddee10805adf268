"""The command line: ``python -m charllm VERB …``. A table of verbs, and how a verb ends.

0: it did what was asked; 2: the user's mistake, one clear line on stderr; 1: ours. With ``--json``
stdout holds one JSON value and nothing else; progress goes to stderr. What a verb does is in
``verbs.py``; nothing heavy is imported before a verb needs it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from charllm.data.config import Paths
from charllm.data.errors import Text, UserError, current_language
from charllm.services import verbs
from charllm.services.following import Ended
from charllm.services.redaction import redact

OK, OURS, USERS = 0, 1, 2


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
        "data check",
        Text("rows, duplicates and leaks of a dataset", "データの行、重複、漏れを調べる"),
        (arg("name", metavar="NAME"),),
        verbs.data_check,
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
        Text("score replies: gate, style, relevance", "返答を採点する（ゲート・口調・関連度）"),
        (
            arg("file", metavar="FILE", help="JSONL rows: id, query, reply"),
            arg("--profile", required=True, metavar="SLUG"),
        ),
        verbs.judge,
    ),
    Verb(
        "train",
        Text("fine-tune an adapter", "アダプターを学習する"),
        (arg("config", metavar="CONFIG", help="a YAML file, or a name in recipes/"),),
        verbs.train,
    ),
    Verb(
        "merge",
        Text("blend weights by a mergekit recipe", "mergekit のレシピで重みを混ぜる"),
        (
            arg("recipe", metavar="RECIPE", help="a YAML file, or a name in recipes/"),
            arg("--out", required=True, metavar="DIR"),
            arg("--engine", default="resident", choices=("resident", "mergekit")),
            arg("--form", default="model", choices=("model", "adapter", "recipe")),
            arg("--label-en", default="", help="what the page calls it, in English"),
            arg("--label-ja", default="", help="what the page calls it, in Japanese"),
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

ABOUT = Text(
    "Build, compare and judge role-play character language models.",
    "キャラクターを演じる言語モデルを作り、比べ、採点します。",
)
GROUPS = {
    "profile": Text("characters", "キャラクター"),
    "data": Text("training dialogues", "学習用の会話"),
    "runs": Text("long operations", "時間のかかる処理"),
    "models": Text("models", "モデル"),
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other mistake is said."""

    def error(self, message: str) -> NoReturn:
        raise UserError(
            f"{message}. See `{self.prog} --help`.",
            f"引数が正しくありません: {message}。`{self.prog} --help` を見てください。",
        )


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs in ``VERBS``, helped in the current language."""
    language = current_language()
    parser = Parser(prog="charllm", description=ABOUT.in_(language))
    top = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    groups: dict[str, Any] = {}
    for verb in VERBS:
        group, _, word = verb.name.rpartition(" ")
        where = top
        if group:
            if group not in groups:
                help_ = GROUPS[group].in_(language)
                made = top.add_parser(group, help=help_, description=help_)
                groups[group] = made.add_subparsers(dest="word", metavar="VERB", required=True)
            where = groups[group]
        help_ = verb.help.in_(language)
        shown: dict[str, Any] = {} if verb.hidden else {"help": help_}
        one = where.add_parser(word, description=help_, **shown)
        for argument in verb.arguments:
            one.add_argument(*argument.names, **argument.options)
        one.add_argument("--json", action="store_true", help="print JSON")
        one.set_defaults(handler=verb.handler)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the process' exit status."""
    try:
        options = build_parser().parse_args(arguments)
        outcome = options.handler(Paths.default(), options)
    except UserError as error:
        return _complain(error)
    except KeyboardInterrupt:
        return 130
    except Exception:  # the last place before the user: ours, with all that helps to mend it
        print(redact(traceback.format_exc()), file=sys.stderr, end="")
        return OURS
    value, status = outcome if isinstance(outcome, Ended) else (outcome, OK)
    try:
        _print(value, options.json)
        sys.stdout.flush()
    except UserError as error:  # a wrong row, found while rows are printed
        return _complain(error)
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _complain(error: UserError) -> int:
    line = " ".join(error.in_(current_language()).split())
    print(f"charllm: {redact(line)}", file=sys.stderr)
    return USERS


def _print(value: Any, as_json: bool) -> None:
    if value is None:
        return
    if isinstance(value, Iterator):  # rows as they come: one JSON value a line
        for row in value:
            _print(row if as_json else [row], as_json)
        return
    if as_json:
        print(json.dumps(value, ensure_ascii=False))
        return
    for row in value if isinstance(value, list) else [value]:
        if not isinstance(row, dict):
            print(row)
        elif isinstance(value, list):
            print("  ".join(_cell(item) for item in row.values()))
        else:
            print("\n".join(f"{key}: {_cell(item)}" for key, item in row.items()))


def _cell(item: Any) -> str:
    if isinstance(item, float):
        return f"{item:.3f}"
    return item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
