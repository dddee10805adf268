"""What the whole page asks of Gradio: no choice is dropped, no clock ticks where nobody looks."""

from __future__ import annotations

from typing import Any

import pytest

from charllm.data.config import ROOT, Paths

CHOICES = ("dropdown", "radio", "checkbox", "checkboxgroup", "slider")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("gradio")
    from charllm.ui import dashboard

    return dashboard.build(Paths(ROOT, tmp_path_factory.mktemp("workspace")))


def test_a_choice_made_while_another_is_answered_is_not_dropped(page: Any) -> None:
    """``once`` would leave the page showing the answer to the choice before."""
    modes = {
        f"{one.fn.__module__} {page.blocks[block].elem_id}": one.trigger_mode
        for one in page.fns.values()
        for block, event in one.targets
        if event == "input" and one.fn and page.blocks[block].get_block_name() in CHOICES
    }
    dropped = {name for name, mode in modes.items() if mode == "once"}
    assert len(modes) > 40 and not dropped, dropped


def test_no_clock_ticks_in_pages_that_are_hidden(page: Any) -> None:
    """Two clocks stop by themselves: the conversion of the embedded model, and the mixer's."""
    clocks = [block for block in page.blocks.values() if block.get_block_name() == "timer"]
    ticking = [
        next(one for one in page.fns.values() if (clock._id, "tick") in one.targets)
        for clock in clocks
    ]
    modules = {one.fn.__module__.removeprefix("charllm.ui.") for one in ticking}
    assert modules == {"chat_tab", "merge_mixer"}
    assert all(clock in one.outputs for clock, one in zip(clocks, ticking, strict=True))
