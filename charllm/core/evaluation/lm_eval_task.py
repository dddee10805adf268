"""Our queries and our offline scores as a task of lm-evaluation-harness, in a folder of its own.

The folder holds the task (YAML), the questions with their prompts, the character and the fitted
style model: whoever has it asks and scores the same a year later, whatever became of the profile.
``utils.py`` in it calls this module while the harness runs. Scores are gate, style and length (1-7,
the judge "embedded-without-relevance"): no embedder, no key, no network. The harness does not say
why a reply ended, so a reply that only ran out of tokens is not stopped for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from charllm.core.evaluation.query_sets import read_query_set
from charllm.core.judging.score import JUDGE_WITHOUT_RELEVANCE, VERSION, Scorer, style_scorer
from charllm.core.judging.style import StyleModel
from charllm.data.config import Paths
from charllm.data.dialogue import Message
from charllm.data.errors import Text, UserError
from charllm.data.files import (
    json_lines,
    new_folder,
    read_json,
    write_json,
    write_json_lines,
    write_text,
)
from charllm.data.profile import Profile, load_profile
from charllm.data.prompts import Template, build_messages, get_template
from charllm.data.queries import Split

QUESTIONS, STYLE, PROFILE, UTILS = "questions.jsonl", "style.json", "profile.json", "utils.py"
OWN_TEMPLATE = "tokenizer"
"""The model's own chat template: the harness puts it on (``--apply_chat_template``)."""
MAX_TOKENS = 128
METRICS: dict[str, bool] = {
    "score": True,
    "style": True,
    "passed": True,
    "length": False,
    "unscored": False,
}
"""Score in [1, 7], style in [0, 1] of what passed the gate, shares of passed and unscored replies,
length in characters; whether more of it is better."""

_UTILS = '''"""What the harness calls as it runs this task; Python must find the package charllm."""

from pathlib import Path

from charllm.core.evaluation.lm_eval_task import Task

_task = Task(Path(__file__).parent)
dataset = _task.dataset
process_results = _task.results
'''


class _Function(str):
    """``module.name`` behind the harness' tag for what it has to import."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(_Function, lambda out, name: out.represent_scalar("!function", name))


def write_task(
    paths: Paths,
    slug: str,
    out: Path,
    *,
    queries: str = "",
    split: Split = "report",
    template: str = OWN_TEMPLATE,
    facts: Callable[[str], Sequence[str]] | None = None,
    max_tokens: int = MAX_TOKENS,
) -> dict[str, Any]:
    """Write the task folder ``out``; gives what the command line shows.

    ``template``: one of ours puts the whole prompt into the questions, for models without a chat
    template. ``facts`` of a question go into its prompt as retrieval puts them there.
    ``UserError`` where ``out`` is there already, the query set has faults, or the character has too
    few lines for a style.
    """
    if out.exists():
        raise UserError(
            f"{out} is there already: name a folder that is not.",
            f"{out} はすでにあります。まだ存在しないフォルダーを指定してください。",
        )
    form, profile = get_template(template), load_profile(paths, slug)
    asked = read_query_set(paths.queries / f"{queries or slug}.jsonl", profile, (split,))
    style = style_scorer(paths, profile).style
    if isinstance(style, Text):
        raise UserError(*style)
    rows = []
    for query in asked.split(split):
        used = None if facts is None else list(facts(query.text))
        system, prompt = _rendered(form, build_messages(profile, query.text, facts=used))
        rows.append({"id": query.id, "question": query.text, "system": system, "prompt": prompt})
    name = f"charllm_{slug.replace('-', '_')}" + ("" if facts is None else "_rag")
    with new_folder(out) as folder:
        write_json_lines(folder / QUESTIONS, rows)
        write_json(folder / STYLE, asdict(style))
        write_json(folder / PROFILE, profile.model_dump(mode="json"))
        write_text(folder / UTILS, _UTILS)
        task = _task(name, form, max_tokens)
        text = yaml.dump(task, Dumper=_Dumper, allow_unicode=True, sort_keys=False)
        write_text(folder / f"{name}.yaml", text)
    return {"task": name, "folder": str(out), "questions": len(rows), "template": template}


class Task:
    """A written task folder: its questions for the harness, and the scores of each reply."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._scorer: Scorer | None = None

    def dataset(self, **_: Any) -> dict[str, Any]:
        """The questions as a ``datasets.Dataset``, the one split ``test``."""
        from datasets import Dataset  # type: ignore[attr-defined]  # our folder hides it

        rows = [row for _, row in json_lines(self.folder / QUESTIONS)]
        return {"test": Dataset.from_list(rows)}

    def results(self, doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
        """``METRICS`` of one reply, without those that have no value for it."""
        if self._scorer is None:
            self._scorer = read_scorer(self.folder)
        reply = results[0].strip()
        judged = self._scorer.score(doc["question"], reply)
        parts = {part.key: part.value for part in judged.parts}
        values = {
            "score": judged.score,
            "style": parts.get("style"),
            "passed": float(not judged.gate),
            "length": float(len(reply)),
            "unscored": float(judged.score is None),
        }
        return {name: value for name, value in values.items() if value is not None}


def read_scorer(folder: Path) -> Scorer:
    """The scorer that a task folder holds, by gate, style and length."""
    profile = Profile.from_data(read_json(folder / PROFILE), str(folder / PROFILE))
    kept = read_json(folder / STYLE)
    style = StyleModel(
        **{
            **kept,
            "weights": {gram: (idf, weight) for gram, (idf, weight) in kept["weights"].items()},
            "markers": tuple(kept["markers"]),
        }
    )
    return Scorer(profile, style, Text("relevance was not asked for", "関連度は採点の対象外です"))


def _task(name: str, form: Template, max_tokens: int) -> dict[str, Any]:
    """The task as the harness reads it."""
    return {
        "task": name,
        "custom_dataset": _Function("utils.dataset"),
        "test_split": "test",
        "output_type": "generate_until",
        "description": "{{system}}",
        "doc_to_text": "prompt",
        "doc_to_target": "",
        "target_delimiter": "",
        "process_results": _Function("utils.process_results"),
        "generation_kwargs": {
            "until": list(form.stop_strings),
            "do_sample": False,
            "max_gen_toks": max_tokens,
        },
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": better}
            for metric, better in METRICS.items()
        ],
        "num_fewshot": 0,
        "metadata": {"version": f"{JUDGE_WITHOUT_RELEVANCE} {VERSION}"},
    }


def _rendered(form: Template, messages: Sequence[Message]) -> tuple[str, str]:
    """``(system, prompt)`` for the harness: apart for a model's own template, else all in prompt.

    The beginning token is left to the tokenizer, which puts it before any text.
    """
    system = "\n\n".join(m.content for m in messages if m.role == "system")
    (question,) = (m.content for m in messages if m.role == "user")
    if form.name == OWN_TEMPLATE:
        return system, question
    before = "".join(form.system).replace("{text}", system) if system else ""
    if system and not form.system:
        lead, _, rest = form.fold.partition("{system}")
        between, _, end = rest.partition("{user}")
        question = f"{lead}{system}{between}{question}{end}"
    turn = "".join(form.user).replace("{text}", question)
    return "", before + turn + "".join(form.assistant) + form.opening
