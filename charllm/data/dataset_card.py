"""The card of a dataset: where its rows come from and everything that was done to them.

``datasets/cards/<name>.yaml``. With the originals and the hand edits it says how
``datasets/<name>.jsonl`` is made again; as Markdown it is the card that Hugging Face shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from charllm.data.config import Config, Paths, dump_yaml
from charllm.data.errors import Language, Text
from charllm.data.files import check_slug

Kind = Literal["imported", "filtered", "harvested", "own"]

KINDS: dict[Kind, Text] = {
    "imported": Text("imported", "インポート"),
    "filtered": Text("filtered by a judge", "ジャッジで選別"),
    "harvested": Text("from the chat", "チャットから作成"),
    "own": Text("own", "自作"),
}

_LICENCES = frozenset(
    ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "unknown")
)
"""What Hugging Face takes as it is; any other licence is named in words."""
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))


class Step(Config):
    """One preparation step, by its name in ``preparing.STEPS``.

    ``inputs`` is what it took from the profile and the query sets when it was applied, so that the
    same rows come out for ever. ``changed`` counts rows changed, added or removed; ``ids`` names
    the first ``MAX_IDS`` of them.
    """

    kind: str
    options: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    changed: int = Field(default=0, ge=0)
    ids: tuple[str, ...] = ()


class Source(Config):
    """The file that rows were imported from. ``rejected`` counts the rows that could not be."""

    file: str
    sha256: str = ""
    format: str = ""
    rows: int = Field(default=0, ge=0)
    rejected: int = Field(default=0, ge=0)


class Filtered(Config):
    """The judging that chose the rows. ``quality`` is the judge's mark in its own check.

    ``quality`` has ``share`` in [0, 1] or None, ``passed``, and ``insisted`` where the user wanted
    a judge that had not passed: it stays here for ever.
    """

    run: str
    judge: str
    rubric: str
    version: str
    threshold: float
    kept: int = Field(ge=0)
    dropped: int = Field(ge=0)
    unscored: int = Field(default=0, ge=0)
    quality: dict[str, Any] = {}


class DatasetCard(Config):
    """Everything known about a dataset but its rows.

    ``rows`` and ``data_hash`` describe ``datasets/<name>.jsonl`` as it was last written;
    ``made_from`` identifies the originals, steps and hand edits that it was made of.
    """

    name: str
    profile: str = ""
    kind: Kind = "own"
    source: Source | None = None
    language: str = ""
    licence: str = ""
    created: str = ""
    parents: tuple[str, ...] = ()
    filtered: Filtered | None = None
    notes: str = ""
    steps: tuple[Step, ...] = ()
    rows: int = Field(default=0, ge=0)
    data_hash: str = ""
    made_from: str = ""


def card_path(paths: Paths, name: str) -> Path:
    return paths.datasets / "cards" / f"{check_slug(name, 'dataset name')}.yaml"


def as_markdown(card: DatasetCard, language: Language) -> str:
    """The card as Hugging Face's ``README.md``: YAML between dashes, then text to read."""
    sections = [f"# {card.name}", _facts(card, language)]
    if card.filtered:
        sections.append(_filtering(card.filtered, language))
    if card.steps:
        sections.append(_steps(card.steps, language))
    if card.notes.strip():
        sections += [_heading(Text("Notes", "メモ"), language), card.notes.strip()]
    return f"---\n{dump_yaml(_front_matter(card))}---\n\n" + "\n\n".join(sections) + "\n"


def _front_matter(card: DatasetCard) -> dict[str, Any]:
    size = next((label for limit, label in _SIZES if card.rows < limit), "100K<n<1M")
    licence = card.licence.strip()
    known = licence.casefold() in _LICENCES
    return {
        **({"language": [card.language]} if card.language else {}),
        "license": licence.casefold() if known else "other" if licence else "unknown",
        **({"license_name": licence} if licence and not known else {}),
        "pretty_name": card.name,
        "size_categories": [size],
        "task_categories": ["text-generation"],
        "tags": ["dialogue", "role-play"],
        "configs": [{"config_name": "default", "data_files": f"{card.name}.jsonl"}],
    }


def _heading(text: Text, language: Language) -> str:
    return f"## {text.in_(language)}"


def _facts(card: DatasetCard, language: Language) -> str:
    lines = [
        (Text("Rows", "行数"), f"{card.rows:,}"),
        (Text("How it was made", "作り方"), KINDS[card.kind].in_(language)),
        (Text("Character", "キャラクター"), card.profile),
        (Text("Language", "言語"), card.language),
        (Text("Licence", "ライセンス"), card.licence),
        (Text("Made on", "作成日時"), card.created),
        (Text("Made from", "元のデータ"), ", ".join(card.parents)),
        (Text("Source", "出典"), _source(card.source, language) if card.source else ""),
        (Text("Data hash (SHA-256)", "データのハッシュ（SHA-256）"), card.data_hash),
    ]
    return "\n".join(f"- {label.in_(language)}: {value}" for label, value in lines if value)


def _source(source: Source, language: Language) -> str:
    return Text(
        f"{source.file} ({source.format}, {source.rows:,} rows, {source.rejected:,} rejected, "
        f"SHA-256 {source.sha256})",
        f"{source.file}（{source.format}、{source.rows:,}行、除外{source.rejected:,}行、"
        f"SHA-256 {source.sha256}）",
    ).in_(language)


def _filtering(made: Filtered, language: Language) -> str:
    lines = [
        _heading(Text("Filtering", "選別"), language),
        "",
        Text(
            f"Judge {made.judge}, rubric {made.rubric} (version {made.version}); rows of "
            f"{made.threshold:g} and more are kept: {made.kept:,} kept, {made.dropped:,} dropped, "
            f"{made.unscored:,} unscored (run {made.run}).",
            f"ジャッジ {made.judge}、ルーブリック {made.rubric}（版 {made.version}）で"
            f"{made.threshold:g} 以上の行を残しました。採用 {made.kept:,} 行、不採用 "
            f"{made.dropped:,} 行、採点なし {made.unscored:,} 行（実行 {made.run}）。",
        ).in_(language),
    ]
    return "\n".join([*lines, "", quality_note(made).in_(language)])


def quality_note(made: Filtered) -> Text:
    """What the judge's own check said, and whether the user insisted on an unproven one."""
    share, passed = made.quality.get("share"), bool(made.quality.get("passed"))
    right = f"{share:.0%}" if isinstance(share, int | float) else "-"
    if passed:
        said = Text(
            f"The judge passed its quality check ({right} of the contrast pairs right).",
            f"ジャッジは品質チェックに合格しています（対照ペアの正答率 {right}）。",
        )
    else:
        said = Text(
            "Caution: this judge has not passed its quality check "
            f"(contrast pairs right: {right}).",
            f"注意: このジャッジは品質チェックに合格していません（対照ペアの正答率 {right}）。",
        )
    notes = [said, *([_INSISTED] if made.quality.get("insisted") else [])]
    detail = made.quality.get("text")
    if isinstance(detail, dict):
        notes.append(Text(str(detail.get("en", "")), str(detail.get("ja", ""))))
    return Text(" ".join(note.en for note in notes), "".join(note.ja for note in notes))


_INSISTED = Text(
    "It was used because the user insisted.", "承知のうえで使う指定により使われました。"
)


def _steps(steps: tuple[Step, ...], language: Language) -> str:
    lines = [
        f"{number}. {step.kind}"
        + (f" {step.options}" if step.options else "")
        + Text(f": {step.changed:,} rows", f": {step.changed:,} 行").in_(language)
        for number, step in enumerate(steps, 1)
    ]
    return "\n".join([_heading(Text("Preparation", "前処理"), language), "", *lines])
