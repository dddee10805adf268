"""The Data tab in headless Chromium: rows seen, filtered and edited; steps, import, use, the bar.

The server is a process of its own. What the page stores is read from the files it wrote.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import Dashboard, Visitor, choose, go_to, texts, toasts, until, wait_text

from charllm.data.collection import create, edit_row, list_deleted, load
from charllm.data.dataset_card import DatasetCard
from charllm.data.dialogue import Dialogue, Message, load_dialogues
from charllm.services.reply_edits import edited
from charllm.services.store import Reply, Store

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
EVIL = '<img src=x onerror="window.owned=1">${window.owned=2}{{window.owned=3}}'
MANY = 5_000
# Notes the longest time without a frame: what a user sees as a pause.
FRAMES = """() => {
  window.pause = 0;
  let last = performance.now();
  const frame = (now) => {
    window.pause = Math.max(window.pause, now - last);
    last = now;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}"""
REPLY = ".drawerturn.assistant textarea"


@pytest.fixture
def dataset(board: Dashboard) -> Callable[..., str]:
    """Makes a dataset of ``(question, reply)`` pairs; its name."""

    def make(name: str, *pairs: tuple[str, str], profile: str = "ayane") -> str:
        rows = [
            dialogue(f"{name}-{n}", *pair, topic="tea" if n % 2 else "rain")
            for n, pair in enumerate(pairs)
        ]
        create(board.paths, name, rows, DatasetCard(name=name, profile=profile))
        return name

    return make


def dialogue(id: str, question: str, reply: str, topic: str = "") -> Dialogue:
    messages = (
        Message(role="user", content=question),
        Message(role="assistant", content=reply),
    )
    return Dialogue(id=id, messages=messages, meta={"topic": topic})


def many(count: int) -> list[Dialogue]:
    """Rows of many words, drawn with a seed; each has its number in its question."""
    draw = random.Random(7)
    words = [chr(draw.randrange(0x4E00, 0x9FA0)) * 2 for _ in range(400)]
    return [
        dialogue(
            f"many-{n:05}",
            f"{n}番の{''.join(draw.choices(words, k=6))}は？",
            f"{''.join(draw.choices(words, k=draw.randrange(4, 30)))}ですわ。",
            topic=f"topic-{n % 30}",
        )
        for n in range(count)
    ]


def opened(visitor: Visitor, name: str, panel: str = "") -> Any:
    page = visitor.open()
    go_to(page, "データ")
    page.wait_for_selector(".gridline")
    return to_dataset(page, name, panel)


def to_dataset(page: Any, name: str, panel: str = "") -> Any:
    choose(page, "#dataset", f"{name} ·")
    page.wait_for_selector(f".gridline[data-id^='{name}-']")
    if panel:
        page.click(f"#data-tab-{panel}-button")
    return page


def ids(page: Any) -> list[str]:
    return [
        str(id) for id in page.eval_on_selector_all(".gridline", "n => n.map(r => r.dataset.id)")
    ]


def wait_ids(page: Any, *wanted: str) -> None:
    page.wait_for_function(
        "wanted => JSON.stringify([...document.querySelectorAll('.gridline')]"
        ".map(r => r.dataset.id)) === JSON.stringify(wanted)",
        arg=list(wanted),
    )


def edit(page: Any, id: str, reply: str) -> None:
    page.click(f".gridline[data-id='{id}']")
    page.fill(REPLY, reply)
    page.click("[data-save]")


def reply_of(board: Dashboard, name: str, id: str) -> str:
    return next((row.reply for row in load(board.paths, name).dialogues if row.id == id), "")


# --- rows ---------------------------------------------------------------------------------------


def test_findings_topics_and_words_filter_the_rows(
    visitor: Visitor, dataset: Callable[..., str]
) -> None:
    dataset(
        "facets",
        ("紅茶はお好き？", "ええ、毎朝いただきますわ。"),
        ("雨の日は何をするの？", "本を読んで過ごしますの"),
        ("紅茶はお好き？", "ええ、毎朝いただきますわ。"),
        ("天気はどう？", "I have no idea about the weather today."),
    )
    page = opened(visitor, "facets")
    page.wait_for_selector(".facet[data-code=duplicate]")
    assert page.inner_text(".facet[data-code=duplicate] b") == "1"
    page.click(".facet[data-code=duplicate]")
    wait_ids(page, "facets-2")
    assert "完全な重複" in page.inner_text(".gridline .found")
    page.click(".gridline")
    page.click(".rowfindings .link")
    page.wait_for_selector(".drawer header b:text-is('facets-0')")
    page.keyboard.press("Escape")
    page.click(".facet[data-code=duplicate]")
    page.click(".facet[data-code=wrong-language]")
    wait_ids(page, "facets-3")
    page.click("text=絞り込みを解除")
    page.click(".facet[data-topic=tea]")
    wait_ids(page, "facets-1", "facets-3")
    page.fill(".gridbar input", "本を")
    wait_ids(page, "facets-1")
    assert page.inner_text(".gridbar .count") == "4 行中 1 行"
    page.fill(".gridbar input", "ない言葉")
    page.wait_for_selector("text=条件に合う行がありません。")
    page.click(".facets .facet >> nth=0")
    page.click("[data-sort=length]")
    wait_ids(page, "facets-1", "facets-0", "facets-2", "facets-3")
    page.click("[data-sort=length]")
    wait_ids(page, "facets-3", "facets-0", "facets-2", "facets-1")
    page.click(".lengthbars button:has(i[style*='100%'])")
    assert all(n == "13" for n in texts(page, ".gridline .num")), ids(page)


def test_an_edit_is_stored_undone_redone_and_taken_back(
    visitor: Visitor, board: Dashboard, dataset: Callable[..., str]
) -> None:
    name = dataset(
        "edits", ("一つ目？", "はい、一つ目ですわ。"), ("二つ目？", "ええ、二つ目ですわ。")
    )
    page = opened(visitor, name)
    edit(page, "edits-1", EVIL)
    page.wait_for_selector(".drawer .said.good")
    assert reply_of(board, name, "edits-1") == EVIL
    assert EVIL in page.inner_text(".gridline[data-id=edits-1]")
    page.click("[data-undo]")
    wait_text(page, ".gridline[data-id=edits-1]", "二つ目ですわ。")
    assert reply_of(board, name, "edits-1") == "ええ、二つ目ですわ。"
    page.click("[data-redo]")
    wait_text(page, ".gridline[data-id=edits-1]", "onerror")
    page.click("[data-restore]")
    wait_text(page, ".gridline[data-id=edits-1]", "二つ目ですわ。")

    page.click(".drawerbody [data-add]")
    page.locator(".drawerturn textarea").last.fill("まだある？")
    page.click("[data-save]")
    wait_text(page, ".drawer .said.bad", "返答で終わる")
    page.click(".drawerbody [data-add]")
    page.locator(".drawerturn textarea").last.fill("ございますわ。")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".drawer .said.good")
    stored = load(board.paths, name).dialogues[1].messages
    assert [m.role for m in stored] == ["user", "assistant", "user", "assistant"]

    page.click("[data-drop]")
    wait_ids(page, "edits-0")
    assert [row.id for row in load(board.paths, name).dialogues] == ["edits-0"]
    page.click("[data-back=edits-1]")
    wait_ids(page, "edits-0", "edits-1")
    assert reply_of(board, name, "edits-1") == "ええ、二つ目ですわ。"
    assert page.evaluate("window.owned") is None


def test_two_editors_of_one_row_lose_nothing(
    visitor: Visitor, board: Dashboard, dataset: Callable[..., str]
) -> None:
    name = dataset(
        "twice", ("一つ目？", "はい、一つ目ですわ。"), ("二つ目？", "ええ、二つ目ですわ。")
    )
    page = opened(visitor, name)
    page.click(".gridline[data-id=twice-0]")
    page.fill(REPLY, "こちらの編集ですわ。")
    user = Message(role="user", content="一つ目？")
    edit_row(
        board.paths,
        name,
        "twice-0",
        [user, Message(role="assistant", content="あちらの編集ですわ。")],
    )
    page.click("[data-save]")
    page.wait_for_selector(".theirs")
    assert "あちらの編集" in page.inner_text(".theirs")
    assert page.input_value(REPLY) == "こちらの編集ですわ。"
    assert reply_of(board, name, "twice-0") == "あちらの編集ですわ。"
    page.click(".gridline[data-id=twice-1]")
    page.click(".gridline[data-id=twice-0]")
    assert page.input_value(REPLY) == "こちらの編集ですわ。"
    page.click("[data-save]")
    page.click("text=自分の編集で上書きする")
    page.wait_for_selector(".drawer .said.good")
    assert reply_of(board, name, "twice-0") == "こちらの編集ですわ。"

    # What another page did to another row is here after the next save.
    other = [
        Message(role="user", content="二つ目？"),
        Message(role="assistant", content="別の答え。"),
    ]
    edit_row(board.paths, name, "twice-1", other)
    edit(page, "twice-0", "三度目ですわ。")
    wait_text(page, ".gridline[data-id=twice-1]", "別の答え。")
    wait_text(page, ".gridline[data-id=twice-0]", "三度目ですわ。")


def test_five_thousand_rows_are_scrolled_filtered_and_edited(
    visitor: Visitor, board: Dashboard
) -> None:
    rows = many(MANY)
    create(board.paths, "many", rows, DatasetCard(name="many", profile="ayane"))
    page = opened(visitor, "many")
    assert page.inner_text(".gridbar .count") == "5,000 行"
    assert page.locator(".gridline").count() < 60
    page.evaluate(FRAMES)
    page.eval_on_selector(".gridbody", "body => body.scrollTop = body.scrollHeight")
    page.wait_for_selector(".gridline[data-id=many-04999]")
    assert page.locator(".gridline").count() < 60
    page.fill(".gridbar input", "4321番")
    wait_ids(page, "many-04321")
    edit(page, "many-04321", "五千行の一つですわ。")
    page.wait_for_selector(".drawer .said.good")
    assert reply_of(board, "many", "many-04321") == "五千行の一つですわ。"
    page.fill(".gridbar input", "")
    page.click(".facet[data-topic=topic-3]")
    shown = sum(row.meta["topic"] == "topic-3" for row in rows)
    wait_text(page, ".gridbar .count", f"5,000 行中 {shown} 行")
    page.wait_for_selector(".facet[data-code='-']")
    print(f"longest pause with {MANY} rows: {page.evaluate('window.pause'):.0f} ms")


# --- preparation --------------------------------------------------------------------------------


def test_steps_are_counted_before_they_are_applied_and_taken_out_again(
    visitor: Visitor, board: Dashboard, dataset: Callable[..., str]
) -> None:
    name = dataset(
        "steps", ("一つ目？", "はい、一つ目ですわ"), ("二つ目？", "ええ、二つ目ですわ。")
    )
    before = board.read("datasets", "steps.jsonl")
    page = opened(visitor, name, "steps")
    page.click("[data-kind=end-mark]")
    wait_text(page, ".stepline[data-step=end-mark]", "1 行が変わります")
    assert "はい、一つ目ですわ。" in page.inner_text(".stepexample .will")
    page.click("[data-kind=profile-rows]")
    page.fill("[data-option=per_topic]", "1")
    page.press("[data-option=per_topic]", "Tab")
    page.wait_for_function("document.querySelector('[data-apply]')?.disabled === false")
    assert board.read("datasets", "steps.jsonl") == before
    page.click("[data-apply]")
    page.wait_for_selector(".stepline[data-step=profile-rows] .chip.good")
    card = load(board.paths, name).card
    assert [step.kind for step in card.steps] == ["end-mark", "profile-rows"]
    assert card.steps[1].options == {"per_topic": 1}
    page.click("#data-tab-rows-button")
    wait_text(page, ".gridbar .count", f"{card.rows} 行")
    wait_text(page, ".gridline[data-id=steps-0]", "一つ目ですわ。")

    page.click("#data-tab-steps-button")
    page.click(".stepline[data-step=profile-rows] [aria-label='この前処理を外す']")
    page.click(".stepline[data-step=end-mark] input[type=checkbox]")
    page.wait_for_function("document.querySelector('[data-apply]')?.disabled === false")
    page.click("[data-apply]")
    until(lambda: not load(board.paths, name).card.steps)
    assert board.read("datasets", "steps.jsonl") == before


# --- import -------------------------------------------------------------------------------------


def test_a_file_is_seen_before_it_is_imported(
    visitor: Visitor, board: Dashboard, dataset: Callable[..., str], tmp_path: Path
) -> None:
    name = dataset("before", ("一つ目？", "はい、一つ目ですわ。"))
    file = tmp_path / "My Talks.jsonl"
    good = {
        "messages": [{"role": "user", "content": EVIL}, {"role": "assistant", "content": "まあ。"}]
    }
    empty = {
        "messages": [{"role": "user", "content": "ねえ"}, {"role": "assistant", "content": ""}]
    }
    lines = [json.dumps(row, ensure_ascii=False) for row in (good, empty)]
    file.write_text("\n".join([lines[0], "no json", lines[1]]), encoding="utf-8")
    page = opened(visitor, name, "import")
    assert page.is_disabled("#import-go")
    page.set_input_files("#import-file input[type=file]", file)
    wait_text(page, "#import-counts", "1 行を読み込めます")
    assert texts(page, "#import-rejected td.num") == ["2", "3"]
    assert "OpenAI" in page.inner_text("#import-said b")
    learnt = "".join(page.locator("#import-rows mark").all_text_contents())
    assert learnt.startswith("まあ。") and learnt != "まあ。", "the end token is learnt too"
    assert EVIL in page.inner_text("#import-rows .talk")
    assert page.input_value("#import-name :is(input, textarea)") == "my-talks"
    with page.expect_download() as download:
        page.click("#import-csv")
    rejected = Path(download.value.path()).read_text(encoding="utf-8-sig").splitlines()
    assert [line.split(",")[0] for line in rejected[1:]] == ["2", "3"]
    page.fill("#import-name :is(input, textarea)", "my-own")
    page.click("#import-go")
    page.wait_for_selector(".gridline[data-id^='My']")
    made = load(board.paths, "my-own")
    assert [row.reply for row in made.dialogues] == ["まあ。"]
    assert made.card.source is not None and made.card.source.rejected == 2
    assert made.card.profile == "ayane" and page.evaluate("window.owned") is None


def test_a_tables_columns_are_chosen_and_a_wrong_format_is_told(
    visitor: Visitor, board: Dashboard, dataset: Callable[..., str], tmp_path: Path
) -> None:
    name = dataset("table", ("一つ目？", "はい、一つ目ですわ。"))
    file = tmp_path / "table.csv"
    file.write_text("question,reply,extra\nq1,一つ目。,x\nq2,二つ目。,y\n", encoding="utf-8")
    page = opened(visitor, name, "import")
    page.set_input_files("#import-file input[type=file]", file)
    wait_text(page, "#import-counts", "2 行を読み込めます")
    assert "一つ目。" in page.inner_text("#import-rows .talk .assistant")
    choose(page, "#import-column-reply", "extra")
    wait_text(page, "#import-rows .talk .assistant", "x")
    choose(page, "#import-model", "Vicuna 7B")
    wait_text(page, "#import-rows .trained", "ASSISTANT:")
    script = tmp_path / "scene.txt"
    script.write_text("春日：「おはよう」\n絢音：「ごきげんよう」\n", encoding="utf-8")
    page.click("#import-file [aria-label=クリア]")
    page.set_input_files("#import-file input[type=file]", script)
    wait_text(page, "#import-rows .talk .assistant", "ごきげんよう")
    page.fill("#import-speaker :is(input, textarea)", "春日")
    page.press("#import-speaker :is(input, textarea)", "Enter")
    wait_text(page, "#import-counts", "0 行を読み込めます")
    assert page.is_disabled("#import-go")
    choose(page, "#import-format", "ShareGPT")
    page.wait_for_selector("#import-said .banner.bad, #import-counts .banner.bad")
    assert page.is_disabled("#import-go")


# --- from use, the bar, the card ----------------------------------------------------------------


def test_what_was_said_in_the_chat_becomes_rows_and_pairs(
    visitor: Visitor, board: Dashboard
) -> None:
    store = Store(board.paths)
    talk = store.add_conversation("ayane", ["base"])
    turn = store.add_turn(talk.id, "猫と犬のどちらと暮らしたい？")
    said = store.add_reply(Reply(turn=turn.id, position=0, variant="base", text="犬。"))
    better = edited(store, said, "犬ですわ。")
    assert better is not None
    store.add_reply(better)
    store.close()
    page = visitor.open()
    go_to(page, "データ")
    page.click("#data-tab-use-button")
    wait_text(page, "#use-rows", "犬ですわ。")
    assert "1 行" in page.inner_text("#use-rows-head")
    assert texts(page, "#use-pairs td")[:2] == ["犬ですわ。", "犬。"]
    page.click("#use-save")
    page.wait_for_selector("#use-status .banner.bad")
    page.fill("#use-name :is(input, textarea)", "from-chat")
    with page.expect_download() as download:
        page.click("#use-save-pairs")
    pair = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert pair["chosen"][0]["content"] == "犬ですわ。"
    page.click("#use-save")
    page.wait_for_selector(".gridline:has-text('犬ですわ。')")
    assert load(board.paths, "from-chat").card.kind == "harvested"


def test_a_dataset_is_copied_renamed_downloaded_deleted_and_brought_back(
    visitor: Visitor, board: Dashboard, dataset: Callable[..., str]
) -> None:
    name = dataset("first", ("一つ目？", "はい、一つ目ですわ。"))
    page = opened(visitor, name)
    page.click("#data-copy")
    assert "新しい名前" in toasts(page)
    for button, new in (("copy", "second"), ("rename", "third")):
        page.fill("#data-new-name :is(input, textarea)", new)
        page.click(f"#data-{button}")
        wait_text(page, "#data-status", f"「{new}」")
    assert load(board.paths, "third").card.parents == ("first",)
    with page.expect_download() as download:
        page.click("#data-rows")
    assert (
        Path(download.value.path()).read_bytes()
        == (board.paths.datasets / "third.jsonl").read_bytes()
    )
    page.click("#data-tab-card-button")
    wait_text(page, "#data-card-view", "third")
    page.fill("#data-card-licence :is(input, textarea)", "CC0-1.0")
    page.click("#data-tab-rows-button")
    page.click("#data-tab-card-button")
    page.wait_for_timeout(1000)  # the card is looked up again: what was typed must stay
    page.click("#data-card-save")
    wait_text(page, "#data-card-view", "CC0-1.0")
    with page.expect_download() as download:
        page.click("#data-card")
    assert "license: cc0-1.0" in Path(download.value.path()).read_text(encoding="utf-8")
    page.click("#data-delete")
    wait_text(page, "#data-status", "削除しました")
    assert not (board.paths.datasets / "third.jsonl").exists() and list_deleted(board.paths)
    page.click("#data-bin button")
    page.click("#data-back")
    wait_text(page, "#data-status", "「third」を戻しました")
    page.click("#data-tab-rows-button")
    page.wait_for_selector(".gridline[data-id=first-0]")
    assert load(board.paths, "third").card.licence == "CC0-1.0"


def test_rows_that_another_program_changed_wait_for_a_decision(
    visitor: Visitor, board: Dashboard, dataset: Callable[..., str]
) -> None:
    name = dataset("outside", ("一つ目？", "はい、一つ目ですわ。"), ("二つ目？", "ええ。"))
    path = board.paths.datasets / "outside.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("ええ。", "否。"), encoding="utf-8")
    page = opened(visitor, name)
    page.wait_for_selector("#data-adopt")
    edit(page, "outside-0", "書き換え。")
    page.wait_for_selector(".drawer .said.bad")
    assert [row.reply for row in load_dialogues(path)] == ["はい、一つ目ですわ。", "否。"]
    page.click("#data-discard")
    wait_text(page, ".gridline[data-id=outside-1]", "ええ。")
    assert not page.is_visible("#data-adopt")
    assert reply_of(board, name, "outside-1") == "ええ。"
