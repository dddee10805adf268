"""Verbs of judges: scores, filtering, other people's judgements."""

from __future__ import annotations

from charllm.data.errors import Text
from charllm.services import verbs_interop, verbs_judge
from charllm.services.verb_words import JUDGE, PROFILE, RECIPE, Verb, arg

JUDGING: tuple[Verb, ...] = (
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
)
