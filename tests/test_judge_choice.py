"""The chosen judge as every page shares it, one reply tried, and a filter run read as it grows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from judge_server import Reply, serving

from charllm.core.filtering import FilterConfig
from charllm.core.judging.judges import JudgeConfig
from charllm.core.judging.records import Item, Record
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.services.filter_progress import FilterProgress
from charllm.services.filtering import RECORDS
from charllm.services.judge_choice import (
    check_key,
    choice_path,
    load_choice,
    save_choice,
    scale_of,
    title,
    try_out,
    withdrawal,
)
from charllm.services.runs import Run

NAMED = JudgeConfig(kind="endpoint", model="gpt-4o-mini", in_flight=4, price_in=0.15)


def test_the_choice_is_kept_and_a_broken_file_is_named(paths: Paths) -> None:
    assert load_choice(paths) == JudgeConfig()
    save_choice(paths, NAMED)
    assert load_choice(paths) == NAMED
    written = choice_path(paths).stat().st_mtime_ns
    save_choice(paths, NAMED)
    assert choice_path(paths).stat().st_mtime_ns == written, "the same choice was written again"
    choice_path(paths).write_text("kind: oracle\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"judge\.yaml"):
        load_choice(paths)


def test_a_judge_is_named_in_words_and_its_end_is_told() -> None:
    assert title(JudgeConfig()).ja == "内蔵ジャッジ"
    assert title(NAMED).en == "gpt-4o-mini @ OpenAI, rubric study"
    for model in ("gpt-4o-mini", "gpt-4o-mini-2024-07-18", "openai/gpt-4o-mini"):
        told = withdrawal(NAMED.model_copy(update={"model": model}))
        assert told is not None and "2027-01-14" in told.en and "2027-01-14" in told.ja
    assert withdrawal(NAMED.model_copy(update={"model": "gpt-4o-minimal"})) is None
    assert withdrawal(NAMED.model_copy(update={"kind": "local"})) is None


def test_openai_is_not_asked_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for config in (JudgeConfig(), NAMED.model_copy(update={"base_url": "http://127.0.0.1:9/v1"})):
        check_key(config)
    with pytest.raises(UserError, match="No API key"):
        check_key(NAMED)


def test_the_scale_is_the_rubrics(paths: Paths) -> None:
    assert scale_of(paths, JudgeConfig()) == (1, 7)
    text = (paths.rubrics / "study.yaml").read_text(encoding="utf-8")
    three = {n: text.index(f"\n  {n}:") for n in (4, 7)}
    end = text.index("\nsteps")
    short = text[: three[4]] + text[end:]
    (paths.rubrics / "three.yaml").write_text(f"{short}\nhigh: 3\n", encoding="utf-8")
    assert scale_of(paths, NAMED.model_copy(update={"rubric": "three"})) == (1, 3)


def test_a_reply_is_tried_with_its_exact_prompt(paths: Paths) -> None:
    item = Item("try", "お名前は？", "小野寺絢音ですわ。")
    with serving(lambda asked: Reply()) as server:
        config = JudgeConfig(
            kind="endpoint", model="judge-1", base_url=server.url, rubric="personality"
        )
        made = try_out(paths, "ayane", config, item)
        stopped = try_out(
            paths, "ayane", config, Item("try", "お名前は？", "絢音ですわ。\nユーザー: はい")
        )
    assert [record.score for record in made.records] == [6] and made.found == ()
    sent = [(m["role"], m["content"]) for m in server.bodies[0]["messages"]]
    assert [(m.role, m.content) for m in made.prompt] == sent
    assert stopped.found and stopped.records[0].gate and server.requests == 1


# --- a growing run ------------------------------------------------------------------------------


def line(item: str, score: float | None, **more: object) -> str:
    why = None if score is not None else Text("no verdict", "採点なし")
    record = Record(item, "j@s", "study", "1", score, why, **more)  # type: ignore[arg-type]
    return json.dumps(record.as_json(), ensure_ascii=False) + "\n"


def test_a_run_is_read_as_it_grows(tmp_path: Path) -> None:
    file = tmp_path / RECORDS
    run = Run(tmp_path)
    config = FilterConfig(
        dataset="ayane",
        profile="ayane",
        judge=JudgeConfig(kind="endpoint", model="m", samples=2, temperature=0.7),
    )
    progress = FilterProgress()
    assert progress.of(run, config).items == 0

    cost = {"calls": 1, "tokens_in": 100, "tokens_out": 10, "cost": 0.5}
    second = line("a", 5.0, sample=1, **cost)
    file.write_text(line("a", 4.0, **cost) + second[:20], encoding="utf-8")
    assert progress.of(run, config).scores == (4.0,)
    file.write_text(line("a", 4.0, **cost) + second, encoding="utf-8")
    found = progress.of(run, config)
    assert found.scores == (4.5,)
    assert (found.spend.calls, found.spend.tokens_in, found.spend.money) == (2, 200, 1.0)

    with file.open("a", encoding="utf-8") as out:
        out.write(line("b", 1.0, gate=("loop",)) + line("c", None) + line("c", 6.0, sample=1))
        out.write(line("d", None) + line("d", None, sample=1))
    found = progress.of(run, config)
    assert (found.scores, found.gated, found.unscored) == ((4.5, 6.0), 1, 1)
    assert found.items == 4 and found.spend.calls == 2

    file.write_text(line("a", 2.0), encoding="utf-8")  # shorter: not the file that was read
    assert progress.of(run, config).scores == (2.0,)
