"""The real dashboard in headless Chromium: ask, watch, stop, reload, vote, edit.

Nothing is replaced: the server is a process of its own, the answers come from the embedded model.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from browser import (
    ENDED,
    WRITING,
    Dashboard,
    Visitor,
    ask,
    choose,
    go_to,
    late,
    names,
    number,
    ramble,
    texts,
    toasts,
    until,
    wait_count,
    wait_value,
)

from charllm.core.model_files import weights_hash
from charllm.core.variants import default_columns
from charllm.ui.server import STATIC
from charllm.ui.stale import forgive_stale_choices

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
FACT = "#table-facts [data-row='0'] textarea[data-column=fact]"
NAME = "#field-name :is(input, textarea)"
SAVED = "#character-status .banner.good"
REFUSED = "#character-status .banner.bad"
EVIL = (
    '<img src=x onerror="window.owned=1"><script>window.owned=2</script></script>'
    "${window.owned=3}{{window.owned=4}}"
)
# Notes, twenty times a second, how long each column's text is and how many are being written.
SAMPLER = """() => {
  window.samples = [];
  setInterval(() => window.samples.push({
    writing: document.querySelectorAll(".card[data-state=writing]").length,
    lengths: [...document.querySelectorAll(".card")].map((card) =>
      card.dataset.state === "waiting" ? 0 : card.querySelector(".text").textContent.length),
  }), 50);
}"""


@pytest.fixture
def columns(board: Dashboard) -> int:
    """Four where the character has checkpoints, else two."""
    return len(default_columns(board.paths, "ayane"))


def test_a_choice_that_is_gone_counts_as_none() -> None:
    gr = pytest.importorskip("gradio")
    forgive_stale_choices()
    forgive_stale_choices()
    one, many = gr.Dropdown(["a", "b"]), gr.Dropdown(["a", "b"], multiselect=True)
    assert [one.preprocess(value) for value in ("a", "gone", None)] == ["a", None, None]
    assert many.preprocess(["b", "gone", "a"]) == ["b", "a"]
    assert gr.Dropdown(["a"], allow_custom_value=True).preprocess("own") == "own"


# --- answers ------------------------------------------------------------------------------------


def test_a_first_question_is_answered_side_by_side_and_scored(
    visitor: Visitor, board: Dashboard, columns: int, base_folder: Path
) -> None:
    page = visitor.open()
    assert page.locator(".empty h2").inner_text() == "話しかけて、くらべる"
    assert page.evaluate("document.documentElement.lang") == "ja"
    question, *others = texts(page, ".suggestion")
    assert len(others) == 2
    page.locator(".suggestion").first.click()
    assert page.input_value("#composer textarea") == question
    page.evaluate(SAMPLER)
    page.press("#composer textarea", "Control+Enter")
    page.wait_for_selector(WRITING)
    assert page.input_value("#composer textarea") == ""
    wait_count(page, ENDED, columns)
    samples = page.evaluate("window.samples")
    assert max(sample["writing"] for sample in samples) >= 2
    grown = [{s["lengths"][n] for s in samples if s["lengths"]} for n in range(columns)]
    assert max(len(lengths) for lengths in grown) >= 4, "the text did not come bit by bit"

    wait_count(page, ".score b", columns)
    assert all(1 <= number(score) <= 7 for score in texts(page, ".score b"))
    assert names(page) == board.labels()
    stored = board.replies(question)
    assert texts(page, ".card .text") == [row["text"].strip() for row in stored]
    _check_details(page.locator(".card").last, stored[-1], question, base_folder)


def _check_details(card: Any, row: Any, question: str, base_folder: Path) -> None:
    """Of a column that looks facts up: its facts, its exact prompt, and what ran."""
    from tokenizers import Tokenizer

    card.locator("summary").click()
    card.locator("[data-pane=facts]").click()
    used = card.locator(".fact.used").first
    assert used.locator("span").first.inner_text() == "名前は小野寺絢音。"
    threshold = number(card.locator(".pane .note").last.inner_text())
    assert threshold <= number(used.locator(".value").inner_text()) <= 1
    card.locator("[data-pane=prompt]").click()
    prompt = card.locator(".pane pre").inner_text()
    assert prompt == row["prompt"] and question in prompt and "・名前は小野寺絢音。" in prompt
    tokenizer = Tokenizer.from_file(str(base_folder / "tokenizer.json"))
    count = len(tokenizer.encode(prompt, add_special_tokens=False).ids)
    assert number(card.locator(".pane .note").inner_text()) == count == row["prompt_tokens"]
    card.locator("[data-pane=run]").click()
    weights = card.locator(".pane dd").first.inner_text()
    assert f"gemma-3-270m@{weights_hash(base_folder)[:10]}" in weights == row["weights"]


def test_a_reload_in_the_middle_finds_the_conversation(visitor: Visitor, columns: int) -> None:
    page = visitor.open()
    ramble(page, 1000)
    ask(page, "好きな食べ物は何ですか？")
    page.wait_for_selector(WRITING)
    visitor.reload(page)
    page.wait_for_selector(WRITING)
    assert texts(page, ".said") == ["好きな食べ物は何ですか？"]
    second = visitor.open()
    second.wait_for_selector(WRITING)
    second.keyboard.press("Escape")
    for tab in (page, second):
        wait_count(tab, ENDED, columns)
    assert texts(second, ".card .text") == texts(page, ".card .text")
    assert all(texts(page, ".card .text"))
    assert page.input_value("#composer textarea") == "", "what was sent came back as a draft"


def test_a_draft_survives_a_reload(visitor: Visitor) -> None:
    page = visitor.open()
    page.fill("#composer textarea", "まだ送っていない")
    visitor.reload(page)
    wait_value(page, "#composer textarea", "まだ送っていない")


def test_one_column_or_all_can_be_stopped(visitor: Visitor, columns: int) -> None:
    page = visitor.open()
    ramble(page, 1000)
    ask(page, "長い長い昔話を、できるだけ詳しく話してください。")
    wait_count(page, WRITING, columns)
    page.locator(".card").first.locator("[aria-label='この列を止める']").click()
    wait_count(page, ENDED, 1)
    assert "手動で停止" in page.locator(".card").first.inner_text()
    assert page.locator(WRITING).count() == columns - 1
    page.keyboard.press("Escape")
    wait_count(page, ENDED, columns)
    assert texts(page, ".card .chips .chip.bad") == ["手動で停止"] * columns
    ask(page, "別の昔話も、できるだけ詳しく話してください。")
    page.wait_for_selector(WRITING)
    page.click("#stop.live")
    wait_count(page, ENDED, 2 * columns)
    assert "手動で停止" in page.locator(".turn").last.inner_text()
    assert page.locator("#stop.live").count() == 0


def test_a_new_conversation_is_not_overwritten_by_the_last_answer(
    visitor: Visitor, board: Dashboard, columns: int
) -> None:
    page = visitor.open()
    ramble(page, 32)
    ask(page, "途中で離れる質問です。")
    page.wait_for_selector(WRITING)
    page.click("#clear")
    page.wait_for_selector(".empty")
    page.evaluate(SAMPLER)
    assert until(lambda: len(board.replies("途中で離れる質問です。")) == columns)
    go_to(page, "実行")  # a round trip later, whatever the old answer sent has been drawn
    page.wait_for_selector("#runs-table p, #runs-table table")
    go_to(page, "チャット")
    page.wait_for_selector(".empty")
    assert all(sample["lengths"] == [] for sample in page.evaluate("window.samples"))
    choose(page, "#conversation", "途中で離れる質問です。")
    wait_count(page, ENDED, columns)
    assert texts(page, ".said") == ["途中で離れる質問です。"]


def test_a_blind_vote_hides_names_until_it_is_given(
    visitor: Visitor, board: Dashboard, columns: int
) -> None:
    page = visitor.open()
    page.check("#blind input")
    ask(page, "お名前を教えてください")
    wait_count(page, ENDED, columns)
    page.wait_for_selector("[data-vote='2']")
    assert names(page) == list("ABCDEF"[:columns])
    assert page.locator(".score").count() == page.locator(".more").count() == 0
    assert not any(label in page.locator("#board").inner_text() for label in board.labels())
    page.locator("#composer textarea").blur()
    page.keyboard.press("2")
    page.wait_for_selector("#board .more")
    (vote,) = board.rows("SELECT choice, shown, blind FROM votes")
    shown = json.loads(vote["shown"])
    assert vote["choice"] == shown[1] and vote["blind"] == 1
    assert sorted(shown) == sorted(default_columns(board.paths, "ayane"))
    assert names(page) == board.labels(names=shown)
    assert board.labels(names=[shown[1]])[0] in page.locator(".votes").inner_text()
    wait_count(page, ".score b", columns)
    page.keyboard.press("1")
    visitor.reload(page)
    page.wait_for_selector(".card")
    assert names(page) == board.labels(names=shown)
    assert len(board.rows("SELECT id FROM votes")) == 1


def test_edit_regenerate_export_and_begin_anew(
    visitor: Visitor, board: Dashboard, columns: int
) -> None:
    page = visitor.open()
    ask(page, "ご趣味は？")
    wait_count(page, ENDED, columns)
    page.click("[aria-label='編集して再送信']")
    page.fill(".editarea", "休みの日は何をしますか？")
    page.click(".editbar .primary")
    page.wait_for_selector(".said:text-is('休みの日は何をしますか？')")
    wait_count(page, ENDED, columns)
    assert texts(page, ".said") == ["休みの日は何をしますか？"]
    before = texts(page, ".card .text")
    page.locator("[aria-label='この答えを生成し直す']").nth(1).click()
    assert until(lambda: len(board.replies("休みの日は何をしますか？")) == columns + 1)
    fresh = max(board.replies("休みの日は何をしますか？"), key=lambda row: row["created"])["text"]
    assert until(lambda: texts(page, ".card .text")[1] == fresh.strip())
    wait_count(page, ENDED, columns)
    wait_count(page, ".score b", columns)  # nothing is under way any more
    after = texts(page, ".card .text")
    assert after[:1] + after[2:] == before[:1] + before[2:]
    with page.expect_download() as download:
        page.click("#export-jsonl")
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    said = [json.loads(line)["messages"] for line in lines]
    assert [messages[1]["content"].strip() for messages in said] == after
    assert {messages[0]["content"] for messages in said} == {"休みの日は何をしますか？"}
    page.click("#clear")
    page.wait_for_selector(".empty")
    assert page.input_value("#conversation input") == ""
    choose(page, "#conversation", "ご趣味は？")
    wait_count(page, ENDED, columns)
    page.click("#delete-conversation")
    page.wait_for_selector(".empty")
    assert board.replies("休みの日は何をしますか？") == []
    downloads: list[Any] = []
    page.on("download", lambda one: downloads.append(one))
    page.click("#export-md")
    assert "書き出す会話がまだありません" in toasts(page)
    page.wait_for_timeout(500)
    assert downloads == [], "what was exported last was saved once more"


def test_what_is_pressed_while_the_stream_closes_is_answered(
    visitor: Visitor, board: Dashboard, columns: int
) -> None:
    visitor.context.add_init_script(late("close_stream"))
    page = visitor.open()
    for count in (1, 2):
        ask(page, "お名前を教えてください")
        wait_count(page, ENDED, count * columns)
    again = page.locator("[aria-label='この答えを生成し直す']").first
    again.click()
    assert until(lambda: len(board.replies("お名前を教えてください")) == columns + 1)
    wait_count(page, ENDED, 2 * columns)
    choose(page, "#profile", "magnus")
    page.wait_for_selector(".empty")


def test_markup_is_text_and_long_questions_are_refused(visitor: Visitor, columns: int) -> None:
    page = visitor.open()
    ask(page, EVIL)
    wait_count(page, ENDED, columns)
    assert texts(page, ".said") == [EVIL]
    assert page.locator("#board :is(img, script)").count() == 0
    ask(page, "あ" * 20_000)
    assert "20,000 文字" in toasts(page)
    assert page.input_value("#composer textarea") == "あ" * 20_000
    visitor.reload(page)
    page.wait_for_selector(".card")
    assert texts(page, ".said") == [EVIL] and page.evaluate("window.owned") is None


def test_keys_of_the_input_method_send_nothing(visitor: Visitor, board: Dashboard) -> None:
    page = visitor.open()
    before = len(board.rows("SELECT id FROM turns"))
    page.fill("#composer textarea", "かんじ")
    page.evaluate(
        """() => document.querySelector("#composer textarea").dispatchEvent(new KeyboardEvent(
          "keydown", {key: "Enter", ctrlKey: true, isComposing: true, bubbles: true}))"""
    )
    page.press("#composer textarea", "Enter")
    assert page.input_value("#composer textarea") == "かんじ\n"
    page.fill("#composer textarea", "")
    page.press("#composer textarea", "Control+Enter")
    assert "質問を入力してください" in toasts(page)
    assert len(board.rows("SELECT id FROM turns")) == before and page.locator(".card").count() == 0


# --- the page -----------------------------------------------------------------------------------


def test_language_and_theme_are_remembered(visitor: Visitor) -> None:
    page = visitor.open()

    def dark() -> bool:
        return "dark" in page.evaluate("document.body.className").split()

    assert page.locator("#send").inner_text() == "送信" and not dark()
    page.click("[data-theme-switch]")
    visitor.leave(page, "[data-language=en]")
    for _ in range(2):
        page.wait_for_selector("#send:text-is('Send')")
        tabs = ["Chat", "Character", "Data", "Judge", "Train", "Merge", "Evaluate"]
        tabs += ["Models", "Runs"]
        assert texts(page, "button[role=tab]:visible") == tabs
        assert page.locator(".empty h2").inner_text() == "Ask, and compare" and dark()
        visitor.reload(page)
    page.click("[data-theme-switch]")
    visitor.reload(page)
    assert not dark()
    visitor.leave(page, "[data-language=ja]")
    page.wait_for_selector("#send:text-is('送信')")


def test_every_script_is_there_before_a_tab_can_be_opened(board: Dashboard) -> None:
    html = urllib.request.urlopen(board.url).read().decode()
    head = html[: html.index('type="module"')]
    missing = [file.name for file in STATIC.glob("*.js") if f"/{file.name}?" not in head]
    assert missing == []


def test_the_server_answers_loopback_names_only(board: Dashboard) -> None:
    for path in ("/", "/config", "/charllm-static/board.js"):
        with urllib.request.urlopen(board.url + path, timeout=20) as answer:
            assert "default-src 'self'" in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
        request = urllib.request.Request(board.url + path, headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=20)
        assert refused.value.code == 421


def test_models_and_runs_open(visitor: Visitor) -> None:
    page = visitor.open()
    go_to(page, "モデル")
    page.wait_for_selector("#machine dl")
    page.wait_for_selector("#embedded-state .banner")
    assert "Gemma 3 270M" in page.locator("#catalog").inner_text()
    go_to(page, "キャラクター")
    page.click("#rebuild")
    page.wait_for_selector("#index-state .banner.good")
    go_to(page, "実行")
    page.wait_for_selector("#runs-table .state.done")
    assert "事実の索引" in page.locator("#runs-table").inner_text()


def test_an_idle_page_rests(visitor: Visitor) -> None:
    """Whatever was opened before: once a second the page in sight asks whether anything is new."""
    page = visitor.open()
    for tab, inner in (
        ("ジャッジ", "judge-filter"),
        ("学習", "train-runs"),
        ("マージ", "merge-runs"),
    ):
        go_to(page, tab)
        page.click(f"#{inner.replace('-', '-tab-')}-button")
    page.wait_for_selector("#merge-chosen", state="visible")
    page.wait_for_timeout(2000)  # what was opened is answered
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    before = busy_seconds(session)
    frames = page.evaluate(
        "() => new Promise((told) => { let drawn = 0; const ask = window.requestAnimationFrame;"
        " window.requestAnimationFrame = (call) => { drawn += 1; return ask(call); };"
        " setTimeout(() => { window.requestAnimationFrame = ask; told(drawn); }, 4000); })"
    )
    assert page.evaluate("window.charllmCalm"), "quiet.js has found Gradio's LoadingStatus"
    assert frames < 60, "nothing moves; the clock of Gradio's first page would draw 240"
    assert 1 <= len([url for url in asked if "queue/join" in url]) <= 6
    assert busy_seconds(session) - before < 0.6, "a tenth of a second; without quiet.js over one"


def busy_seconds(session: Any) -> float:
    """How long the page's own thread has worked, as the browser counts it."""
    told = session.send("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in told if one["name"] == "TaskDuration"))


# --- the character ------------------------------------------------------------------------------


def open_character(visitor: Visitor) -> Any:
    page = visitor.open()
    go_to(page, "キャラクター")
    wait_value(page, FACT, "名前は小野寺絢音。")
    wait_value(page, NAME, "小野寺絢音")
    return page


def edit(page: Any, text: str) -> None:
    page.fill(FACT, text)
    page.locator(FACT).blur()


def test_facts_are_saved_undone_and_never_overwritten(visitor: Visitor, board: Dashboard) -> None:
    def stored() -> str:
        return board.read("profiles", "ayane", "facts.txt")

    before = stored()
    own = before.splitlines()[0]
    first, second = open_character(visitor), open_character(visitor)
    edit(first, EVIL)
    first.wait_for_selector(SAVED)
    changed = stored()
    assert changed.splitlines() == [EVIL, *before.splitlines()[1:]]
    edit(second, "別の名前。")
    second.wait_for_selector(REFUSED)
    assert "別の画面で変更されました" in second.locator(REFUSED).inner_text()
    assert stored() == changed and second.input_value(FACT) == "別の名前。"
    second.click("#reload")
    wait_value(second, FACT, EVIL)
    second.fill("#playground :is(input, textarea)", EVIL)
    second.click("#playground-go")
    second.wait_for_selector("#playground-hits .hit.used")
    assert EVIL in texts(second, "#playground-hits .hit > span:first-child")
    first.bring_to_front()  # the browser lets a page behind wait for seconds
    for button, shown, file in (("#undo", own, before), ("#redo", EVIL, changed)) * 2:
        first.click(button)
        wait_value(first, FACT, shown)
        assert stored() == file
    first.click("#undo")
    wait_value(first, FACT, own)
    assert second.evaluate("window.owned") is None and first.evaluate("window.owned") is None
    edit(first, "もう一度。")
    assert until(lambda: stored().startswith("もう一度。\n"))
    first.click("#undo")
    wait_value(first, FACT, own)
    assert stored() == before


def test_presses_in_a_hurry_all_count(visitor: Visitor, board: Dashboard) -> None:
    """The second edit, and the second step back, come while the first is on its way."""

    def stored() -> tuple[str, str]:
        files = ("profile.yaml", "facts.txt")
        return board.read("profiles", "ayane", files[0]), board.read("profiles", "ayane", files[1])

    before = stored()
    page = open_character(visitor)
    page.fill(NAME, "急ぐ人")
    page.locator(NAME).blur()
    assert until(lambda: stored()[0] != before[0])
    edit(page, "一つ目。")
    edit(page, "二つ目。")
    assert until(lambda: stored()[1].startswith("二つ目。\n"))
    page.wait_for_selector(SAVED)
    page.evaluate(
        "() => { const undo = document.querySelector('#undo'); undo.click(); "
        "setTimeout(() => undo.click(), 60); }"
    )
    assert until(lambda: stored() == before)
    wait_value(page, FACT, before[1].splitlines()[0])


def test_a_page_never_conflicts_with_itself(visitor: Visitor, board: Dashboard) -> None:
    """A row and a field that are saved at the same moment are both kept."""
    page = open_character(visitor)

    def kept(name: str, fact: str) -> bool:
        data = board.read("profiles", "ayane", "profile.yaml")
        facts = board.read("profiles", "ayane", "facts.txt")
        return f"\nname: {name}\n" in f"\n{data}" and facts.startswith(f"{fact}\n")

    for name, fact in (("絢音", "名前は絢音。"), ("小野寺絢音", "名前は小野寺絢音。")):
        page.fill(FACT, fact)
        page.fill(NAME, name)
        page.locator(NAME).blur()
        assert until(lambda name=name, fact=fact: kept(name, fact), 30)
    assert page.locator(REFUSED).count() == 0
    assert page.locator(SAVED).count() == 1


def test_the_playground_lists_facts_over_a_threshold(visitor: Visitor) -> None:
    page = open_character(visitor)
    page.fill("#playground :is(input, textarea)", "飼っている猫の名前は？")
    page.click("#playground-go")
    page.wait_for_selector("#playground-hits .hit.used em")
    assert "ショコラ" in page.locator("#playground-hits .hit.used").first.inner_text()
    values = [number(text) for text in texts(page, "#playground-hits .value")]
    assert values == sorted(values, reverse=True) and len(values) == 8
    threshold = number(page.locator("#playground-hits .note").inner_text())
    used = page.locator("#playground-hits .hit.used").count()
    assert used == sum(value >= threshold for value in values) > 0
    assert page.locator("#playground-hits .hit em").count() == 8


def test_cards_go_out_and_come_in(visitor: Visitor, board: Dashboard, tmp_path: Path) -> None:
    page = open_character(visitor)

    def upload(path: Path) -> None:
        with page.expect_file_chooser() as chooser:
            page.click("#card-upload")
        chooser.value.set_files(str(path))

    profiles = {folder.name for folder in board.paths.profiles.iterdir()}
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n torn")
    upload(broken)
    page.wait_for_selector("#card-report .banner.bad")
    assert "PNG" in page.locator("#card-report .banner.bad").inner_text()
    with page.expect_download() as download:
        page.click("#card-export")
    card = tmp_path / download.value.suggested_filename
    download.value.save_as(card)
    assert card.name == "ayane.png" and card.read_bytes().startswith(b"\x89PNG")
    upload(card)
    page.wait_for_selector("#card-report .banner.good")
    (slug,) = {folder.name for folder in board.paths.profiles.iterdir()} - profiles
    assert board.read("profiles", slug, "facts.txt") == board.read("profiles", "ayane", "facts.txt")
    wait_value(page, "#profile input", f"小野寺絢音 ({slug})")


def test_the_chat_follows_the_character(visitor: Visitor, board: Dashboard, columns: int) -> None:
    """A character that was made in the Character tab is asked at once, with columns of its own."""
    page = visitor.open()
    ask(page, "おはよう")
    wait_count(page, ENDED, columns)
    go_to(page, "キャラクター")
    page.fill("#new-name :is(input, textarea)", "newcomer")
    page.click("#create")
    wait_value(page, "#profile input", "newcomer")
    go_to(page, "チャット")
    page.wait_for_selector(".empty")
    assert page.input_value("#conversation input") == ""
    ask(page, "おはよう")
    wait_count(page, ENDED, 2)
    assert names(page) == board.labels("newcomer", ["base", "rag"])
    visitor.reload(page)
    wait_count(page, ENDED, 2)
    choose(page, "#profile", "ayane")
    page.wait_for_selector(".empty")
    choose(page, "#conversation", "おはよう")
    wait_count(page, ENDED, columns)
    assert names(page) == board.labels()
