"""What an evaluation hands out: its tables for a paper, and every reply with its scores.

Tables that the run has written are taken as they are; of a run that was stopped before it could,
they are made from the part that is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from charllm.core.evaluation.reply_records import Reply, read_replies
from charllm.core.evaluation.report import TABLES, read_evaluation, tables_of
from charllm.core.evaluation.scoring_replies import Judged, read_judged
from charllm.core.evaluation.tables import as_csv, latex, markdown
from charllm.core.judging.records import Record
from charllm.data.errors import Language, Text, UserError
from charllm.data.files import read_text, write_text
from charllm.services.evaluate_view import is_current
from charllm.services.runs import Run

Form = Literal["md", "csv", "tex", "jsonl"]
FORMS: dict[Form, Text] = {
    "md": Text("Markdown", "Markdown"),
    "csv": Text("CSV", "CSV"),
    "tex": Text("LaTeX", "LaTeX"),
    "jsonl": Text("JSONL (every reply)", "JSONL（全返答）"),
}
MADE = {"md": markdown, "csv": as_csv, "tex": latex}
LEAD = {"md": "## {name}\n\n", "csv": "# {name}\n", "tex": "% {name}\n"}
"""What stands before a table where several are in one file."""


def hand_out(run: Run, form: Form, language: Language, folder: Path) -> Path:
    """Write the file into ``folder``; ``UserError`` where the run has not begun to ask."""
    if form == "jsonl":
        target = folder / f"{run.id}.jsonl"
        _write_lines(target, rows_of(run.folder))
        return target
    tables = _tables(run.folder, form, language)
    if not tables:
        raise UserError(f"{run.name} has no table yet.", f"{run.name} にはまだ表がありません。")
    target = folder / f"{run.id}.{language}.{form}"
    texts = [LEAD[form].format(name=name) + text for name, text in tables.items()]
    write_text(target, "\n".join(texts))
    return target


def rows_of(folder: Path) -> Iterator[dict[str, Any]]:
    """Every kept reply as it was kept, with ``scores``: each judge's verdicts on it."""
    said = [(one, _by_item(one)) for one in read_judged(folder)]
    for reply in read_replies(folder):
        yield {**reply.as_json(), "scores": _scores(reply, said)}


def _tables(folder: Path, form: Form, language: Language) -> dict[str, str]:
    if is_current(folder):
        written = sorted((folder / TABLES).glob(f"*.{language}.{form}"))
        return {p.name.split(".")[0]: read_text(p) for p in written if not p.name.startswith("all")}
    made = tables_of(read_evaluation(folder))
    return {name: MADE[form](table, language) for name, table in made.items()}


def _by_item(judged: Judged) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in judged.records:
        found.setdefault(record.item, []).append(record)
    return found


def _scores(
    reply: Reply, said: list[tuple[Judged, dict[str, list[Record]]]]
) -> list[dict[str, Any]]:
    return [record.as_json() for _, by_item in said for record in by_item.get(reply.task.key, ())]


def _write_lines(target: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Line by line, seen only when whole: thousands of prompts need not be held at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with part.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    part.replace(target)
