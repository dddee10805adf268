"""What the judges' page shows: a rubric to read, the key's state, warnings, and a judged reply."""

from __future__ import annotations

from html import escape

import gradio as gr

from charllm.core.endpoint import has_key, resolve_base_url, server_name
from charllm.core.judging.judges import JudgeConfig
from charllm.core.judging.records import Record
from charllm.core.judging.rubric import Rubric
from charllm.core.judging.score import ABOUT, NAMES, WEIGHTS
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.services.judge_choice import Trial, withdrawal
from charllm.ui.judge_html import UNKNOWN, money_text, parts_text
from charllm.ui.page import banner
from charllm.ui.words import language_of, say

NEEDS = {
    "profile": Text("the profile", "プロファイル"),
    "example": Text("an example exchange", "やりとりの例"),
    "gold": Text("gold facts of each row", "各行の正解の事実"),
    "history": Text("earlier turns", "それまでのやりとり"),
}


def rubric_html(paths: Paths, rubric: Rubric, request: gr.Request) -> str:
    """Criterion, levels and steps as a person would read them, and where the file lies."""
    levels = "".join(
        f"<dt>{level}</dt><dd>{escape(say(text.text, request))}</dd>"
        for level, text in sorted(rubric.levels.items())
    )
    steps = "".join(f"<li>{escape(say(step.text, request))}</li>" for step in rubric.steps)
    needs = say(
        Text(
            ", ".join(NEEDS[need].en for need in rubric.needs),
            "、".join(NEEDS[need].ja for need in rubric.needs),
        ),
        request,
    )
    own = Text("File, and how to add one:", "ファイルと、追加のしかた:")
    add = Text(
        "a file of your own in this folder is a rubric of its own; editing one makes it another "
        "version, whose scores are kept apart.",
        "このフォルダーにファイルを置けば新しいルーブリックになります。編集すると別の版になり、"
        "スコアは分けて扱われます。",
    )
    return (
        f'<div class="rubric"><p><b>{escape(say(rubric.label.text, request))}</b> '
        f'<span class="chip">{escape(rubric.name)} {escape(rubric.version)}</span> '
        f'<span class="chip">{rubric.scale[0]}–{rubric.scale[1]}</span></p>'
        f"<p>{escape(say(rubric.about.text, request))}</p>"
        f"{_heading(Text('Criterion', '基準'), request)}"
        f"<p>{escape(say(rubric.criterion.text, request))}</p>"
        f"{_heading(Text('Levels', '段階'), request)}<dl class='levels'>{levels}</dl>"
        f"{_heading(Text('Steps', '手順'), request)}<ol>{steps}</ol>"
        f"{_heading(Text('It is shown', '渡すもの'), request)}<p>{escape(needs)}</p>"
        f"{_heading(own, request)}"
        f"<p><span class='path'>{escape(str(paths.rubrics / f'{rubric.name}.yaml'))}</span><br>"
        f"<span class='note'>{escape(say(add, request))}</span></p></div>"
    )


def embedded_html(request: gr.Request) -> str:
    """What the embedded judge measures, and how its score is made."""
    weights = "".join(
        f"<li>{escape(say(NAMES[key], request))}: {weight:.0%}</li>"
        for key, weight in WEIGHTS.items()
    )
    gate = Text(
        "First the gate: a loop, leaked markup, a second turn, a recital or another language makes "
        "it the lowest score, with the reason. Otherwise 1 to 7 from the weighted mean of:",
        "最初にゲート：繰り返し、記号の混入、余分な発言、設定の読み上げ、別の言語などは、理由つきで"
        "最低点になります。それ以外は、次の重みつき平均を 1～7 にします。",
    )
    hand = Text(
        "Hand scores from the spot-check desk can calibrate it.",
        "「手採点」で付けた点数で較正できます。",
    )
    title = Text("The embedded judge", "内蔵ジャッジ")
    return (
        f'<div class="rubric"><p><b>{escape(say(title, request))}</b> '
        f'<span class="chip">1–7</span></p><p>{escape(say(ABOUT, request))}</p>'
        f"{_heading(Text('How it scores', '採点のしかた'), request)}"
        f"<p>{escape(say(gate, request))}</p><ul>{weights}</ul>"
        f'<p class="note">{escape(say(hand, request))}</p></div>'
    )


def key_html(config: JudgeConfig, request: gr.Request) -> str:
    """Whether a key is known for this server; never the key. "" for judges that need none."""
    if config.kind != "endpoint":
        return ""
    try:
        known = has_key(config.base_url)
        own_server = bool(resolve_base_url(config.base_url))
        where = server_name(config.base_url)
    except UserError as error:
        return banner(error.in_(language_of(request)), "bad")
    if known:
        words = Text(f"A key is known for {where}.", f"{where} のキーは設定済みです。")
    elif own_server:
        words = Text(
            f"No key is known for {where}; a local server usually needs none.",
            f"{where} のキーは未設定です（ローカルのサーバーなら通常は不要）。",
        )
    else:
        words = Text(
            "No key is known for OpenAI: enter one here, or set OPENAI_API_KEY before the start. "
            "It is kept in memory until the dashboard ends and never written down.",
            "OpenAI のキーが未設定です。ここに入力するか、起動前に OPENAI_API_KEY を設定して"
            "ください。終了するまでメモリーにだけ置かれ、どこにも書き込まれません。",
        )
    kind = "good" if known else "" if own_server else "fair"
    name = say(Text("known", "設定済み") if known else Text("not known", "未設定"), request)
    return (
        f'<p class="note"><span class="chip {kind}">{escape(name)}</span> '
        f"{escape(say(words, request))}</p>"
    )


def notices_html(config: JudgeConfig, request: gr.Request) -> str:
    ends = withdrawal(config)
    return banner(say(ends, request)) if ends else ""


# --- a judged reply -----------------------------------------------------------------------------


def trial_html(trial: Trial, request: gr.Request) -> str:
    """Gate, score, parts, reasons, flaws, what it cost, and the exact prompt."""
    verdicts = "".join(_verdict(record, trial, request) for record in trial.records)
    return f'<div class="stacked">{_gate(trial, request)}{verdicts}{_prompt(trial, request)}</div>'


def _gate(trial: Trial, request: gr.Request) -> str:
    if not trial.found:
        return banner(
            say(Text("The gate lets it pass.", "ゲートを通過しました。"), request), "good"
        )
    reasons = "; ".join(say(finding.text, request) for finding in trial.found)
    words = Text(
        "Stopped by the gate; the judge is not asked. The reply",
        "ゲートが止めました。ジャッジには送りません。返答が",
    )
    return banner(f"{say(words, request)} {reasons}", "bad")


def _verdict(record: Record, trial: Trial, request: gr.Request) -> str:
    shown = UNKNOWN if record.score is None else f"{record.score:.2f}"
    told = [f'<p class="big">{shown} <small>/ {trial.scale[1]}</small></p>']
    if record.unscored:
        told.append(f"<p>{escape(say(record.unscored, request))}</p>")
    levels = " · ".join(f"{level}: {share:.0%}" for level, share in record.levels.items())
    for words, text in (
        (Text("Parts", "内訳"), parts_text(record, request)),
        (Text("Levels", "段階の確率"), levels),
        (Text("Flaws", "欠点"), " / ".join(record.flaws)),
        (Text("Reasons", "理由"), record.rationale),
    ):
        if text:
            told.append(f"<p class='said'><b>{escape(say(words, request))}</b>: {escape(text)}</p>")
    told.append(f'<p class="note">{escape(_cost(record, request))}</p>')
    return f'<div class="verdict">{"".join(told)}</div>'


def _cost(record: Record, request: gr.Request) -> str:
    who = f"{record.judge} · {record.rubric} ({record.version})"
    if record.cached:
        return f"{who} · {say(Text('from the cache, free', 'キャッシュから（無料）'), request)}"
    if not (record.tokens_in or record.tokens_out):
        return f"{who} · {say(Text('free', '無料'), request)}"
    tokens = Text(
        f"{record.tokens_in:,} tokens in ({record.tokens_cached:,} cached), "
        f"{record.tokens_out:,} out",
        f"入力 {record.tokens_in:,} トークン（うちキャッシュ {record.tokens_cached:,}）、"
        f"出力 {record.tokens_out:,} トークン",
    )
    return f"{who} · {say(tokens, request)} · {money_text(record.cost)} · {record.seconds:.1f} s"


def _prompt(trial: Trial, request: gr.Request) -> str:
    if not trial.prompt:
        return ""
    text = "\n\n".join(f"[{message.role}]\n{message.content}" for message in trial.prompt)
    title = Text("The exact prompt", "送るプロンプト全文")
    return (
        f'<details class="fold"><summary>{escape(say(title, request))}</summary>'
        f'<div class="promptview">{escape(text)}</div></details>'
    )


def _heading(words: Text, request: gr.Request) -> str:
    return f"<h4>{escape(say(words, request))}</h4>"
