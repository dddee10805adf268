"""A press that comes while another one is on its way: none is lost, and none starts a run twice."""

from __future__ import annotations

from typing import Any

import pytest

from charllm.data.config import ROOT, Paths
from charllm.ui.presses import newest, noted, noting

CAREFUL = (
    "character_",
    "chat_",
    "evaluate_form",
    "evaluate_queries",
    "merge_",
    "models_",
    "runs_",
    "train_",
)
"""Modules of ``charllm.ui`` whose every press was looked at."""


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, str, Any]]:
    """``(module, element, event, function)`` of all that a visitor can set off in the dashboard."""
    pytest.importorskip("gradio")
    from charllm.ui import dashboard

    page = dashboard.build(Paths(ROOT, tmp_path_factory.mktemp("workspace")))
    return [
        (
            str(getattr(one.fn, "__module__", "")).removeprefix("charllm.ui."),
            str(page.blocks[block].elem_id),
            event,
            one,
        )
        for one in page.fns.values()
        for block, event in one.targets
        if block in page.blocks
    ]


def test_what_a_press_carries_is_handed_on_each_time(
    events: list[tuple[str, str, str, Any]],
) -> None:
    """``always_last`` would hand on the first press' data again, ``once`` none of the second's."""
    carrying = {
        f"{module} {element}": one.trigger_mode
        for module, element, _, one in events
        if one.collects_event_data and module.startswith(CAREFUL)
    }
    assert carrying and set(carrying.values()) == {"multiple"}, carrying


def test_where_the_newest_counts_nothing_newer_is_dropped(
    events: list[tuple[str, str, str, Any]],
) -> None:
    modes = {(element, event): one.trigger_mode for _, element, event, one in events}
    for element, event in (
        ("merge-candidates", "select"),
        ("mixer-board", "select"),
        ("table-facts", "select"),
        ("table-examples", "select"),
        ("mixer-parents", "input"),
        ("merge-start-from", "input"),
        ("train-start-from", "input"),
        ("runs-chosen", "input"),
        ("queries-a", "input"),
    ):
        assert modes[element, event] == "always_last", element


def test_what_starts_a_run_is_heard_once(events: list[tuple[str, str, str, Any]]) -> None:
    starts = ("train-start", "merge-start", "merge-fork-go", "merge-resume", "evaluate-start")
    modes = {e: one.trigger_mode for _, e, event, one in events if event == "click"}
    assert [modes[element] for element in starts] == ["once"] * len(starts)


def test_a_late_answer_does_not_put_a_choice_back(
    events: list[tuple[str, str, str, Any]],
) -> None:
    """An answer that comes late must not choose again what is not chosen any more."""
    chosen = [
        one for _, element, event, one in events if (element, event) == ("runs-chosen", "input")
    ]
    assert [block.elem_id for one in chosen for block in one.outputs].count("runs-chosen") == 0


def test_a_note_is_read_back() -> None:
    assert "charllmTable(element, props" in noting("charllmTable", "facts")
    assert "charllmNewest?.facts" in newest("facts")
    assert noted('{"id": "g1-2"}') == {"id": "g1-2"}
    assert noted("null") == noted("") == noted("[1]") == {}
