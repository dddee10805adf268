"""Verbs of evaluations and interviews, and of their forms for other tools."""

from __future__ import annotations

from charllm.data.errors import Text
from charllm.services import verbs, verbs_interop, verbs_interview, verbs_rag
from charllm.services.verb_words import JUDGE, RECIPE, SLUG, Verb, arg

EVALUATING: tuple[Verb, ...] = (
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
            arg("--plot", default="", metavar="FILE.html", help="write the sweep's curves there"),
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
        "judge-interviews",
        Text("judge the turns of an interview run", "インタビューの返答を採点する"),
        (
            arg("run", metavar="RUN", help="an interview run"),
            *JUDGE,
            arg("--criteria", default="", metavar="NAME,…", help="default: all seven"),
            arg("--calls", type=int, help="ask the judge so often at most, for all criteria"),
            arg("--money", type=float, metavar="DOLLARS", help="spend so much at most"),
            arg("--insist", action="store_true", help="take a judge that has not passed its check"),
            arg("--quote", action="store_true", help="say what it will take, ask nothing"),
        ),
        verbs_interview.judge_interviews,
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
)
