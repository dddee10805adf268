"""What the import panel shows of a file: its rows, as a model learns them, what was refused."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import gradio as gr

from charllm.data.checking import CODES, Report
from charllm.data.dialogue import Dialogue
from charllm.data.errors import Text
from charllm.data.importing import FORMATS, Detected, Imported
from charllm.data.text import first_lines
from charllm.services.preview import RowPreview
from charllm.ui.page import banner
from charllm.ui.words import say

ROLES = {
    "system": Text("System", "システム"),
    "user": Text("User", "ユーザー"),
    "assistant": Text("Character", "キャラクター"),
}
LISTED = 50
NOTES = 8


def table_html(heads: Sequence[Text], rows: Sequence[str], request: gr.Request) -> str:
    """A plain table; ``rows`` are cells in HTML, escaped already."""
    head = "".join(f"<th>{escape(say(text, request))}</th>" for text in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def detected_html(found: Detected, read_as: str, request: gr.Request) -> str:
    """The format, why it is thought to be that, and which others fit."""
    title = say(FORMATS[read_as].label, request)
    if read_as != found.format:
        words = Text(
            f"Read as {FORMATS[read_as].label.en}, as you chose; the file looks like "
            f"{FORMATS[found.format].label.en}.",
            f"指定された「{FORMATS[read_as].label.ja}」として読みました。"
            f"中身は「{FORMATS[found.format].label.ja}」のようです。",
        )
        return banner(say(words, request))
    also = ", ".join(say(FORMATS[other].label, request) for other in found.also)
    others = Text(f"It would also fit: {also}.", f"ほかに当てはまる形式: {also}") if also else None
    parts = [f"<b>{escape(title)}</b>", f"<span>{escape(say(found.reason, request))}</span>"]
    if others:
        parts.append(f'<span class="note">{escape(say(others, request))}</span>')
    return f'<div class="banner good">{"".join(parts)}</div>'


def counts_html(found: Imported, report: Report, request: gr.Request) -> str:
    """How many rows came in, how many did not, and what the checks say of them."""
    words = Text(
        f"{len(found.dialogues):,} rows can be imported, {len(found.rejected):,} cannot.",
        f"{len(found.dialogues):,} 行を読み込めます。"
        f"読み込めない行は {len(found.rejected):,} 行です。",
    )
    kind = "bad" if not found.dialogues else "" if found.rejected else "good"
    chips = "".join(
        f'<span class="chip{" bad" if CODES[code].serious else ""}">'
        f"{escape(say(CODES[code].label, request))} {count:,}</span>"
        for code, count in report.counts.items()
    )
    notes = "".join(
        f'<span class="note">{escape(say(note, request))}</span>' for note in found.notes[:NOTES]
    )
    extra = f'<div class="chips">{chips}</div>' if chips else ""
    return banner(say(words, request), kind, extra + notes)


def previews_html(rows: Sequence[Dialogue], made: Sequence[RowPreview], request: gr.Request) -> str:
    """The first rows as they were read, each beside what a model is trained on."""
    if not rows:
        return ""
    by_id = {row.id: row for row in made}
    heads = (
        Text("As it was read", "読み込んだ内容"),
        Text("As a model is trained on it", "モデルが学習する形"),
    )
    parts = [f"<h4>{escape(say(head, request))}</h4>" for head in (heads if made else heads[:1])]
    for row in rows:
        parts.append(_talk(row, request))
        if row.id in by_id:
            parts.append(_trained(by_id[row.id], request))
    return f'<div class="previews{"" if made else " single"}">{"".join(parts)}</div>'


def _talk(row: Dialogue, request: gr.Request) -> str:
    said = "".join(
        f'<p class="{m.role}"><b>{escape(say(ROLES[m.role], request))}</b>'
        f"{escape(first_lines(m.content, 400))}</p>"
        for m in row.messages
    )
    return f'<div class="talk"><span class="note">{escape(row.id)}</span>{said}</div>'


def _trained(row: RowPreview, request: gr.Request) -> str:
    if row.problem:
        return banner(say(row.problem, request), "bad")
    text = "".join(
        f"<mark>{escape(part)}</mark>" if learnt else f"<span>{escape(part)}</span>"
        for part, learnt in row.spans
    )
    if row.tokens is None:
        words = Text(
            "Plain text of the template: the model's tokenizer is not on this machine.",
            "テンプレートの文面です（このモデルのトークナイザーは手元にありません）。",
        )
    else:
        words = Text(
            f"{row.tokens} tokens, {row.learnt} of them learnt (marked).",
            f"{row.tokens} トークン中 {row.learnt} トークンを学習します（色の付いた部分）。",
        )
    note = f'<span class="note">{escape(say(words, request))}</span>'
    return f'<div class="trained">{note}<div class="promptview">{text}</div></div>'


def rejected_html(found: Imported, request: gr.Request) -> str:
    """The rows that do not come in, each with its line and the reason."""
    if not found.rejected:
        return ""
    title = Text("Rows that cannot be imported", "読み込めない行")
    heads = (Text("Line", "行"), Text("Reason", "理由"), Text("Text", "内容"))
    rows = [
        f"<td class='num'>{r.line}</td><td>{escape(say(r.reason, request))}</td>"
        f"<td>{escape(first_lines(r.text, 100))}</td>"
        for r in found.rejected[:LISTED]
    ]
    more = ""
    if len(found.rejected) > LISTED:
        rest = Text(
            f"{len(found.rejected) - LISTED:,} more are in the CSV file.",
            f"ほか {len(found.rejected) - LISTED:,} 行は CSV ファイルにあります。",
        )
        more = f'<p class="note">{escape(say(rest, request))}</p>'
    return f"<h4>{escape(say(title, request))}</h4>{table_html(heads, rows, request)}{more}"
