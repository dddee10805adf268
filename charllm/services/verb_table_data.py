"""Verbs of characters, their dialogues and their facts."""

from __future__ import annotations

from charllm.data.errors import Text
from charllm.services import verbs, verbs_data
from charllm.services.verb_words import DATASET, EMBEDDER, SLUG, Verb, arg

DATA: tuple[Verb, ...] = (
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
)
