"""Every verb of the command line in the order of its help: words, arguments, the function.

The verbs of one subject are in a file of their own, ``verb_table_*.py``.
"""

from __future__ import annotations

from charllm.data.errors import Text
from charllm.services import verbs
from charllm.services.verb_table_data import DATA
from charllm.services.verb_table_evaluating import EVALUATING
from charllm.services.verb_table_judging import JUDGING
from charllm.services.verb_table_models import MERGE, TRAINING
from charllm.services.verb_words import Verb, arg

USING: tuple[Verb, ...] = (
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
            arg(
                "--set",
                action="append",
                default=[],
                metavar="NAME=VALUE",
                help="an evolution's budget, such as search.max_calls=500",
            ),
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

VERBS = (*DATA, *JUDGING, *TRAINING, *EVALUATING, MERGE, *USING)

GROUPS = {
    "profile": Text("characters", "キャラクター"),
    "data": Text("training dialogues", "学習用の会話"),
    "judgements": Text("scores that were given", "採点の記録"),
    "runs": Text("long operations", "時間のかかる処理"),
    "models": Text("models", "モデル"),
}
