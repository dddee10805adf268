"""What the desk and the agreement page offer to choose from: sources, judges, rubrics by name."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from charllm.core.filtering import THRESHOLD
from charllm.core.judging.rubric import Rubric, list_rubrics, load_rubric
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.data.profile import Profile
from charllm.services.judged_files import PREFIX
from charllm.services.runs import list_runs
from charllm.services.store import CHAT, JudgeCount, Store
from charllm.services.store_rows import PERSON
from charllm.ui.filter_html import filter_config, run_label
from charllm.ui.judge_html import run_among
from charllm.ui.words import language_of, say

EMBEDDED = {
    "embedded": Text("the embedded judge", "内蔵ジャッジ"),
    "embedded-calibrated": Text("the embedded judge, calibrated", "内蔵ジャッジ（較正済み）"),
}
SEPARATOR = "\n"
STUDY = "study"
HINT = 150
"""Characters of the character's description that are shown beside a reply."""


def judge_name(judge: str, request: gr.Request) -> str:
    """A judge or a person by a name that people know."""
    if judge.startswith(PERSON):
        return judge.removeprefix(PERSON)
    return say(EMBEDDED.get(judge, Text(judge, judge)), request)


def source_choices(
    paths: Paths, store: Store, slug: str, request: gr.Request
) -> list[tuple[str, str]]:
    """Where the profile's replies come from, the latest first."""
    runs = {run.id: run for run in list_runs(paths)}
    filtered = Text("filter: ", "選別: ")
    imported = Text("imported: ", "読み込み: ")
    named = []
    for source in store.sources(slug):
        if source == CHAT:
            label = say(Text("the chat's replies", "チャットの返答"), request)
        elif source in runs:
            label = say(filtered, request) + run_label(runs[source])
        elif source.startswith(PREFIX):
            label = say(imported, request) + source.removeprefix(PREFIX)
        else:
            label = source
        named.append((label, source))
    return named


def threshold_of(paths: Paths, source: str) -> float:
    """The filter run's own threshold; the usual one for what is no filter run."""
    run = run_among(paths, "filter", source)
    return filter_config(run).threshold if run else THRESHOLD


def judges_of(store: Store, slug: str, source: str | None) -> list[JudgeCount]:
    """The judges that are no people, those that have scored most first."""
    found = [row for row in store.judges(slug, source) if not row.judge.startswith(PERSON)]
    return sorted(found, key=lambda row: row.unscored - row.n)


def judge_choices(rows: Sequence[JudgeCount], request: gr.Request) -> list[tuple[str, str]]:
    """Each judge with its rubric and how many replies it has seen; the value names all three."""
    made = []
    for row in rows:
        replies = Text(f"{row.n:,} repl{'y' if row.n == 1 else 'ies'}", f"{row.n:,} 件")
        rubric = f"{row.rubric} {row.rubric_version}".strip()
        words = (judge_name(row.judge, request), rubric, say(replies, request))
        key = SEPARATOR.join((row.judge, row.rubric, row.rubric_version))
        made.append((" · ".join(filter(None, words)), key))
    return made


def rubric_for(paths: Paths, name: str) -> Rubric:
    """The rubric by which a judge scores; the study's where no file describes it.

    The embedded judge's has no file: like the study's it asks how well a reply reflects the
    character.
    """
    return load_rubric(paths, name if name in list_rubrics(paths) else STUDY)


def rubric_data(rubric: Rubric, request: gr.Request) -> dict[str, object]:
    """The criterion and what each level means, for desk.js."""
    language = language_of(request)
    return {
        "label": rubric.label.in_(language),
        "criterion": rubric.criterion.in_(language),
        "levels": [[level, words.in_(language)] for level, words in sorted(rubric.levels.items())],
    }


def hint(profile: Profile) -> str:
    """The character in a few lines: who, how it speaks, how long its replies are."""
    speech = profile.speech
    persona = profile.persona.strip()
    if len(persona) > HINT:
        persona = persona[:HINT].rstrip() + "…"
    ja = profile.language == "ja"
    talk = "・".join(filter(None, (speech.first_person, *speech.endings[:6])))
    manner = "／".join(filter(None, (talk, speech.tone)))
    length = f"約{profile.reply_length}字" if ja else f"about {profile.reply_length} characters"
    return "\n".join(
        filter(None, (persona, f"{manner}（{length}）" if ja else f"{manner} ({length})"))
    )
