"""Datasets: cards, steps that can be taken back, hand edits, crashes, and the way back."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from charllm.data import collection, dataset_state
from charllm.data.config import ROOT, Paths, load_yaml
from charllm.data.dataset_card import DatasetCard, Filtered, Source, Step, as_markdown, card_path
from charllm.data.dialogue import Dialogue, Message, data_hash, dataset_path, load_dialogues
from charllm.data.errors import EditConflict, UserError
from charllm.data.preparing import STEPS, Surroundings, chosen, prepare
from charllm.data.preparing_rows import rows_from
from charllm.data.preparing_text import lacks_end_mark, normal_widths, stripped, with_end_mark
from charllm.data.profile import Example, Profile, Speech, load_profile, save_profile
from charllm.data.queries import load_queries

NAME = "mine"


def talk(id: str, *turns: str, system: str = "") -> Dialogue:
    """User and character by turns; the character has the last word."""
    roles = ("user", "assistant")
    messages = [Message(role=roles[n % 2], content=turn) for n, turn in enumerate(turns)]
    head = [Message(role="system", content=system)] if system else []
    return Dialogue(id=id, messages=(*head, *messages), source="test", meta={"topic": id[0]})


ROWS = [
    talk("a1", "休みの日は何を？", "本を読みますわ"),
    talk("a2", "休みの日は何を？", "本を読みますわ。"),
    talk(
        "b1",
        "ﾃﾚﾋﾞは見る？ ",
        "  ＮＨＫを２時間ほど　観ますの！　楽しいですわ  ",
        system="お嬢様です。",
    ),
    talk("c1", "やあ", "ごきげんよう", "元気？", "ええ、とても", "何してる？", "お茶ですわ♪"),
    talk("d1", "食べられないものってありますか？", "セロリですわ…"),
    talk("e1", "長い話をして", "むかしむかし、" * 40),
    talk("f1", "Do you speak English?", "A little, I do"),
]


@pytest.fixture
def made(paths: Paths) -> Paths:
    collection.create(paths, NAME, ROWS, DatasetCard(name="", profile="ayane"))
    return paths


def rows_file(paths: Paths) -> bytes:
    return dataset_path(paths, NAME).read_bytes()


def messages(reply: str, user: str = "何をしますか？") -> list[Message]:
    return [Message(role="user", content=user), Message(role="assistant", content=reply)]


def find(paths: Paths, id: str) -> Dialogue | None:
    """As a program sees it that has nothing in memory."""
    dataset_state._memory.clear()
    return next((row for row in collection.load(paths, NAME).dialogues if row.id == id), None)


def reply_of(paths: Paths, id: str) -> str:
    row = find(paths, id)
    assert row is not None
    return row.reply


def step(kind: str, **options: object) -> Step:
    return Step(kind=kind, options=dict(options))


# Cards and whole datasets


def test_a_new_data_set_has_a_complete_card(paths: Paths) -> None:
    source = Source(file="x.csv", sha256="0" * 64, format="csv", rows=7, rejected=2)
    card = DatasetCard(name="", profile="ayane", kind="imported", source=source, licence="MIT")
    dataset = collection.create(paths, NAME, ROWS, card)
    assert dataset.dialogues == dataset.originals == ROWS
    assert load_dialogues(dataset_path(paths, NAME)) == ROWS
    stored = DatasetCard.load(card_path(paths, NAME))
    assert stored == dataset.card
    assert (stored.name, stored.rows, stored.language) == (NAME, 7, "ja")
    assert stored.data_hash == data_hash(ROWS) and stored.created and stored.source == source


def test_names_rows_and_ids_are_checked(made: Paths) -> None:
    for name, rows in (
        (NAME, ROWS),
        ("Not A Slug", ROWS),
        ("empty", []),
        ("twice", [ROWS[0], ROWS[0]]),
    ):
        before = rows_file(made)
        with pytest.raises(UserError):
            collection.create(made, name, rows, DatasetCard(name=name))
        assert rows_file(made) == before
    with pytest.raises(UserError, match=r"Known:.*ayane"):
        collection.load(made, "nowhere")


def test_replacing_keeps_the_old_one_aside(made: Paths) -> None:
    collection.create(made, NAME, ROWS[:2], DatasetCard(name=NAME), replace=True)
    assert len(collection.load(made, NAME).dialogues) == 2
    collection.rename_dataset(made, NAME, "newer")
    kept = collection.list_deleted(made)
    assert [item.name for item in kept] == [NAME]
    assert collection.restore_deleted(made, kept[0].folder) == NAME
    assert collection.load(made, NAME).dialogues == ROWS


def test_listing_shows_every_file_broken_ones_too(made: Paths) -> None:
    (made.datasets / "loose.jsonl").write_text(ROWS[0].model_dump_json() + "\n\n", "utf-8")
    (made.datasets / "Not A Slug.jsonl").write_text("{}\n", "utf-8")
    card_path(made, "magnus").parent.mkdir(exist_ok=True)
    card_path(made, "magnus").write_text("rows: many\n", "utf-8")
    listed = {item.name: item for item in collection.listing(made)}
    assert (listed[NAME].rows, listed[NAME].profile, listed[NAME].has_card) == (7, "ayane", True)
    assert (listed["ayane"].profile, listed["ayane"].has_card) == ("ayane", False)
    assert listed["loose"].rows == 1 and listed["loose"].problem is None
    assert listed["Not A Slug"].problem and listed["magnus"].problem


@pytest.mark.parametrize("insisted", [True, False])
def test_the_card_says_for_ever_how_the_rows_were_chosen(paths: Paths, insisted: bool) -> None:
    filtered = Filtered(
        run="run-1",
        judge="gpt-x",
        rubric="personality",
        version="1",
        threshold=5.0,
        kept=6,
        dropped=1,
        quality={"share": 0.5, "passed": False, "insisted": insisted},
    )
    card = DatasetCard(name=NAME, kind="filtered", filtered=filtered, licence="CC BY-NC 2.0")
    collection.create(paths, NAME, ROWS, card)
    collection.set_steps(paths, NAME, [step("end-mark")])
    collection.copy_dataset(paths, NAME, "again")
    text = as_markdown(collection.load(paths, "again").card, "en")
    front, body = text.removeprefix("---\n").split("---\n", 1)
    (paths.root / "front.yaml").write_text(front, "utf-8")
    data = load_yaml(paths.root / "front.yaml")
    assert (data["license"], data["license_name"]) == ("other", "CC BY-NC 2.0")
    assert data["language"] == ["ja"] and data["size_categories"] == ["n<1K"]
    assert "has not passed its quality check" in body and "end-mark" in body
    assert ("insisted" in body) is insisted
    assert "合格していません" in as_markdown(card, "ja")


def test_copy_rename_delete_and_back(made: Paths) -> None:
    collection.set_steps(made, NAME, [step("end-mark")])
    collection.edit_row(made, NAME, "a1", messages("手で直しましたわ。"))
    before = rows_file(made)
    collection.copy_dataset(made, NAME, "copy")
    assert dataset_path(made, "copy").read_bytes() == before
    assert collection.load(made, "copy").card.parents == (NAME,)
    collection.rename_dataset(made, "copy", "renamed")
    assert not dataset_path(made, "copy").exists()
    assert collection.undo_edit(made, "renamed").dialogues[0].reply == "本を読みますわ。"

    folder = collection.delete_dataset(made, NAME)
    assert NAME not in [item.name for item in collection.listing(made)]
    with pytest.raises(UserError):
        collection.load(made, NAME)
    assert collection.restore_deleted(made, folder) == NAME
    assert rows_file(made) == before
    assert collection.load(made, NAME).card.steps[0].kind == "end-mark"
    with pytest.raises(UserError, match="exists"):
        collection.restore_deleted(made, folder)
    with pytest.raises(UserError, match="no deleted"):
        collection.restore_deleted(made, "../profiles")


def test_a_file_without_a_card_gets_one_with_its_first_change(paths: Paths) -> None:
    before = dataset_path(paths, "ayane").read_bytes()
    assert not collection.load(paths, "ayane").has_card
    changed = collection.set_steps(paths, "ayane", [step("set-system", text="お嬢様です。")])
    assert changed.has_card and changed.card.profile == "ayane"
    assert all(row.messages[0].role == "system" for row in changed.dialogues)
    collection.set_steps(paths, "ayane", [])
    assert dataset_path(paths, "ayane").read_bytes() == before


def test_a_users_own_way_of_writing_json_comes_back(paths: Paths) -> None:
    text = '{"messages":[{"content":"本ですわ","role":"assistant"}],"id":"x"}\n'
    dataset_path(paths, NAME).write_text(text, "utf-8")
    assert collection.set_steps(paths, NAME, [step("end-mark")]).dialogues[0].reply == "本ですわ。"
    collection.set_steps(paths, NAME, [])
    assert dataset_path(paths, NAME).read_text("utf-8") == text


def test_describing_changes_the_card_only(made: Paths) -> None:
    before = rows_file(made)
    card = collection.describe(made, NAME, licence=" CC0-1.0 ", notes="手作り").card
    assert (card.licence, card.notes, card.profile) == ("CC0-1.0", "手作り", "ayane")
    assert rows_file(made) == before
    with pytest.raises(UserError):
        collection.describe(made, NAME, profile="nobody")


# Steps


def test_end_marks() -> None:
    for text, mark in (
        ("本ですわ", "本ですわ。"),
        ("そうですわー ", "そうですわー。"),
        ("今年で18", "今年で18。"),
        ("I do", "I do."),
        ("YouTubeを観ますわ", "YouTubeを観ますわ。"),
        ("我々", "我々。"),
    ):
        assert with_end_mark(text) == mark and lacks_end_mark(text)
        assert with_end_mark(mark) == mark
    left = "本ですわ。|本！|え？|ええ…|「本」|本♪|本〜|本～|本☆|本🌸|本👩‍🎓|本❤️|(笑)"
    left += "|（照）|すごいｗ|42|I do!|Why?|“Aye”|詳しくは https://example.com/a| |"
    for text in left.split("|"):
        assert with_end_mark(text) == text


def test_widths_and_spaces() -> None:
    assert normal_widths("ＡＢｃ１２ ｱｲｶﾞﾊﾟｰ｡｢ｵ｣､･") == "ABc12 アイガパー。「オ」、・"
    assert normal_widths("か\u3099カﾞあﾞ") == "がガあ゛"
    for text in ("！？～「」（）：％＆", "①㈱Ⅲ℃", "神", "ｗ〜♪…", "Ｅ"):
        kept = text.replace("ｗ", "w").replace("Ｅ", "E")
        assert normal_widths(text) == kept
    assert (
        stripped(" \u200b本  を\t読む！　ええ\u3000\r\n\r\n\r\n\r\n次 ")
        == "本 を 読む！　ええ\n\n次"
    )
    assert stripped("👩\u200d🎓") == "👩\u200d🎓"


def test_each_step_does_what_it_says(made: Paths) -> None:
    def after(kind: str, **options: object) -> tuple[dict[str, Dialogue], Step]:
        dataset = collection.set_steps(made, NAME, [step(kind, **options)])
        return {row.id: row for row in dataset.dialogues}, dataset.card.steps[0]

    rows, done = after("end-mark")
    assert (done.changed, done.ids) == (4, ("a1", "b1", "c1", "f1"))
    assert rows["a1"].reply == "本を読みますわ。" and rows["f1"].reply == "A little, I do."
    assert [m.content for m in rows["c1"].messages][1::2] == [
        "ごきげんよう。",
        "ええ、とても。",
        "お茶ですわ♪",
    ]
    rows, done = after("normalise-widths")
    assert done.ids == ("b1",) and rows["b1"].question == "テレビは見る？ "
    rows, done = after("strip-spaces")
    assert rows["b1"].reply == "ＮＨＫを２時間ほど　観ますの！　楽しいですわ"
    rows, done = after("drop-system")
    assert done.ids == ("b1",) and rows["b1"].messages[0].role == "user"
    rows, done = after("set-system")
    prompt = load_profile(made, "ayane").system_prompt(rag=False)
    assert done.changed == 7 and {row.messages[0].content for row in rows.values()} == {prompt}
    rows, done = after("drop-duplicates")
    assert done.ids == ("a2",) and "a1" in rows
    rows, done = after("drop-leaks")
    assert done.ids == ("d1",), "ours asks what a query set asks"
    rows, done = after("max-length")
    assert done.ids == ("e1",) and done.inputs == {"characters": 120}
    rows, done = after("max-length", characters=13)
    assert done.ids == ("b1", "e1", "f1")
    rows, done = after("split-turns", history=1)
    assert done.ids == ("c1",)
    assert [len(rows[f"c1-{n}"].messages) for n in (1, 2, 3)] == [2, 4, 4]
    assert rows["c1-3"].messages == ROWS[3].messages[2:] and rows["c1-3"].meta["turn"] == 3
    rows, done = after("profile-rows")
    assert done.changed == len(rows) - 7 > 4
    added = [row for row in rows.values() if "added" in row.meta]
    assert any("小野寺絢音" in row.reply and row.facts == ("名前は小野寺絢音。",) for row in added)
    assert any("18歳" in row.reply for row in added)


def test_a_step_keeps_what_it_took_from_the_profile_and_the_queries(made: Paths) -> None:
    collection.set_steps(made, NAME, [step("profile-rows"), step("drop-leaks"), step("max-length")])
    before = rows_file(made)
    profile = load_profile(made, "ayane")
    save_profile(made, profile.model_copy(update={"facts": (), "reply_length": 5}))
    (made.queries / "new.jsonl").write_text(
        json.dumps({"id": "n", "text": "休みの日は何を？", "split": "search"}) + "\n", "utf-8"
    )
    dataset_state._memory.clear()
    steps = collection.load(made, NAME).card.steps
    collection.set_steps(made, NAME, [])
    collection.set_steps(made, NAME, steps)
    assert rows_file(made) == before
    fresh = collection.set_steps(made, NAME, [step("drop-leaks")])
    assert fresh.card.steps[0].ids == ("a1", "a2", "d1"), "chosen anew, it sees the new query"


def test_profile_rows_use_examples_and_avoid_the_query_sets(paths: Paths) -> None:
    profile = Profile(
        slug="z",
        name="ずん",
        speech=Speech(first_person="ボク", endings=("のだ", "なのだ")),
        examples=(Example(user="君は何歳なの？", reply="18歳くらいなのだ！"),),
        facts=("年齢は18歳。", "父の名前は太郎。", "誕生日は4月1日です。", "仙台に住んでいる。"),
    )
    rows = {row["id"]: row for row in rows_from(profile, ["お誕生日はいつですか？"], 4)}
    assert rows["profile-name-1"]["reply"] == "ボクの名前はずんなのだ。"
    assert rows["profile-age-1"]["reply"] == "18歳くらいなのだ！"
    assert rows["profile-age-1"]["from"] == "example"
    assert rows["profile-birthday-1"]["reply"] == "ボクの誕生日は4月1日なのだ。"
    assert rows["profile-home-1"]["reply"] == "ボクの住まいは仙台なのだ。"
    birthdays = {row["user"] for row in rows.values() if row["topic"] == "birthday"}
    assert "誕生日はいつですか？" not in birthdays and birthdays
    queries = [query for _, query in collection.all_queries(paths)]
    for slug in ("ayane", "magnus"):
        made = rows_from(load_profile(paths, slug), queries, 4)
        assert made and not {row["user"] for row in made} & set(queries)


def test_steps_that_cannot_be_are_refused_and_change_nothing(made: Paths) -> None:
    before = rows_file(made), card_path(made, NAME).read_bytes()
    for wrong, told in (
        (step("polish"), "end-mark"),
        (step("max-length", characters=-1), "characters"),
        (step("max-length", letters=3), "letters"),
        (step("max-length", characters=1), "No row"),
    ):
        with pytest.raises(UserError, match=told):
            collection.set_steps(made, NAME, [wrong])
    collection.describe(made, NAME, profile="")
    with pytest.raises(UserError, match="profile first"):
        collection.set_steps(made, NAME, [step("profile-rows")])
    assert rows_file(made) == before[0]


def test_a_preview_writes_nothing(made: Paths) -> None:
    before = rows_file(made), card_path(made, NAME).read_bytes()
    seen = collection.preview_steps(made, NAME, [step("end-mark"), step("drop-duplicates")])
    assert [(s.kind, s.changed) for s in seen.steps] == [("end-mark", 4), ("drop-duplicates", 1)]
    assert (rows_file(made), card_path(made, NAME).read_bytes()) == before


def some_steps(rng: random.Random, most: int) -> list[Step]:
    options = {"split-turns": {"history": rng.randrange(3)}, "max-length": {"characters": 100}}
    kinds = rng.choices(list(STEPS), k=rng.randrange(1, most + 1))
    return [Step(kind=kind, options=options.get(kind, {})) for kind in kinds]


@pytest.mark.parametrize("kind", STEPS)
def test_taking_one_step_back_gives_the_same_bytes(made: Paths, kind: str) -> None:
    untouched = rows_file(made)
    other = step("end-mark" if kind != "end-mark" else "strip-spaces")
    collection.set_steps(made, NAME, [other])
    before = rows_file(made)
    both = collection.set_steps(made, NAME, [other, step(kind)])
    assert rows_file(made) != before
    collection.set_steps(made, NAME, both.card.steps[:1])
    assert rows_file(made) == before
    collection.set_steps(made, NAME, [])
    assert rows_file(made) == untouched


@pytest.mark.parametrize("seed", range(8))
def test_any_steps_in_any_order_are_taken_back_exactly(made: Paths, seed: int) -> None:
    rng = random.Random(seed)
    known: dict[str, bytes] = {}
    plans: list[tuple[Step, ...]] = [()]
    for _ in range(10):
        if rng.random() < 0.4:
            plan = tuple(rng.choice(plans))
        else:
            plan = (*rng.choice(plans), *some_steps(rng, 2))[-4:]
            plan = tuple(rng.sample(plan, len(plan)))
        if rng.random() < 0.5:
            dataset_state._memory.clear()
        dataset = collection.set_steps(made, NAME, plan)
        key = json.dumps([[s.kind, s.options, s.inputs] for s in dataset.card.steps])
        assert known.setdefault(key, rows_file(made)) == rows_file(made)
        assert data_hash(load_dialogues(dataset_path(made, NAME))) == dataset.card.data_hash
        plans.append(dataset.card.steps)
    collection.set_steps(made, NAME, ())
    assert load_dialogues(dataset_path(made, NAME)) == ROWS


def test_a_reply_of_blanks_is_left_for_the_checks() -> None:
    odd = talk("x", "何？", "\u200b\u200b")
    done = prepare([odd], [step("strip-spaces")])
    assert done.dialogues == [odd] and done.steps[0].changed == 0


def test_splitting_keeps_ids_apart() -> None:
    rows = [talk("c", "一", "一ですわ", "二", "二ですわ"), talk("c-1", "三", "三ですわ")]
    around = Surroundings()
    done = prepare(rows, [chosen(step("split-turns", history=0), around)])
    ids = [row.id for row in done.dialogues]
    assert len(set(ids)) == 3 and "c-1" in ids
    assert [len(row.messages) for row in done.dialogues] == [2, 2, 2]


# Hand edits


def test_edits_undo_redo_delete_restore(made: Paths) -> None:
    untouched = rows_file(made)
    collection.edit_row(made, NAME, "a1", messages("一つ目ですわ。"), ROWS[0].messages)
    collection.edit_row(made, NAME, "a1", messages("二つ目ですわ。"))
    collection.edit_row(made, NAME, "d1", None, ROWS[4].messages)
    assert reply_of(made, "a1") == "二つ目ですわ。" and find(made, "d1") is None
    row = find(made, "a1")
    assert row is not None and row.meta == {"topic": "a", "edited": True}
    latest = rows_file(made)
    collection.undo_edit(made, NAME)
    assert find(made, "d1") == ROWS[4]
    collection.undo_edit(made, NAME)
    assert reply_of(made, "a1") == "一つ目ですわ。"
    collection.redo_edit(made, NAME)
    collection.redo_edit(made, NAME)
    assert rows_file(made) == latest
    with pytest.raises(UserError, match="redo"):
        collection.redo_edit(made, NAME)
    assert collection.load(made, NAME).edited == ("a1", "d1")
    collection.restore_row(made, NAME, "a1")
    assert find(made, "a1") == ROWS[0]
    collection.restore_row(made, NAME, "d1")
    assert rows_file(made) == untouched
    collection.undo_edit(made, NAME)
    assert find(made, "d1") is None
    for _ in range(4):
        collection.undo_edit(made, NAME)
    assert rows_file(made) == untouched
    with pytest.raises(UserError, match="undo"):
        collection.undo_edit(made, NAME)


def test_a_second_editor_is_told(made: Paths) -> None:
    collection.edit_row(made, NAME, "a1", messages("先に直しました。"), ROWS[0].messages)
    before = rows_file(made)
    for new in (messages("後から直しました。"), None):
        with pytest.raises(EditConflict):
            collection.edit_row(made, NAME, "a1", new, ROWS[0].messages)
    collection.edit_row(made, NAME, "a2", None)
    with pytest.raises(EditConflict):
        collection.edit_row(made, NAME, "a2", messages("もうありません。"))
    collection.undo_edit(made, NAME)
    assert rows_file(made) == before


def test_edits_that_are_no_dialogue_are_refused(made: Paths) -> None:
    log = dataset_state.edits_path(made, NAME)
    for wrong in ([], messages(" "), messages("はい。", user=" "), messages("はい。")[:1]):
        with pytest.raises(UserError):
            collection.edit_row(made, NAME, "a1", wrong)
    collection.edit_row(made, NAME, "a1", ROWS[0].messages)
    assert not log.exists(), "nothing changed"


def test_the_last_row_stays(paths: Paths) -> None:
    collection.create(paths, NAME, ROWS[:1], DatasetCard(name=NAME))
    with pytest.raises(UserError, match="No row"):
        collection.edit_row(paths, NAME, "a1", None)
    assert len(collection.load(paths, NAME).dialogues) == 1


def test_edits_survive_a_change_of_steps(made: Paths) -> None:
    collection.edit_row(made, NAME, "a2", messages("手で直しましたわ"))
    collection.set_steps(made, NAME, [step("end-mark")])
    assert reply_of(made, "a2") == "手で直しましたわ", "hand edits come last"
    gone = collection.set_steps(made, NAME, [step("drop-duplicates")])
    assert gone.waiting == ("a2",) and find(made, "a2") is None
    collection.edit_row(made, NAME, "a1", messages("もう一つですわ。"))
    back = collection.set_steps(made, NAME, [])
    assert back.waiting == () and reply_of(made, "a2") == "手で直しましたわ"
    collection.set_steps(made, NAME, [step("profile-rows")])
    collection.edit_row(made, NAME, "profile-name-1", messages("絢音ですわ。"))
    assert collection.set_steps(made, NAME, []).waiting == ("profile-name-1",)


def test_many_editors_lose_nothing(paths: Paths) -> None:
    rows = [talk(f"r{n}", f"{n}番は？", f"{n}ですわ。") for n in range(24)]
    collection.create(paths, NAME, rows, DatasetCard(name=NAME))
    failed: list[BaseException] = []

    def work(part: list[Dialogue]) -> None:
        try:
            for row in part:
                new = messages(f"{row.id}を直しました。")
                collection.edit_row(paths, NAME, row.id, new, row.messages)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(rows[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    dataset_state._memory.clear()
    assert not failed
    found = {row.id: row.reply for row in collection.load(paths, NAME).dialogues}
    assert found == {row.id: f"{row.id}を直しました。" for row in rows}


# Crashes, and other programs


def states(paths: Paths) -> dict[Path, bytes | None]:
    files = dataset_state.files_of(paths, NAME)
    return {file: file.read_bytes() if file.is_file() else None for file in files}


def put(state: dict[Path, bytes | None]) -> None:
    for file, data in state.items():
        if data is None:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(data)
    dataset_state._memory.clear()


@pytest.mark.parametrize("change", ["steps", "edit", "undo", "both"])
def test_a_crash_between_two_writes_is_mended(made: Paths, change: str) -> None:
    """Every state that a kill can leave becomes the state after the change."""
    collection.set_steps(made, NAME, [step("end-mark")])
    collection.edit_row(made, NAME, "d1", messages("前からの編集ですわ。"))
    before = states(made)
    if change in ("steps", "both"):
        collection.set_steps(made, NAME, [step("drop-duplicates"), step("profile-rows")])
    if change in ("edit", "both"):
        collection.edit_row(made, NAME, "a1", messages("直しましたわ。"))
    if change == "undo":
        collection.undo_edit(made, NAME)
    after = states(made)
    rows, card, _, log, _ = dataset_state.files_of(made, NAME)
    decided = {**before, log: after[log]}
    if change in ("steps", "both"):
        old = DatasetCard.load(card)
        put(before)
        first = DatasetCard.load(card).model_copy(update={"steps": old.steps})
        decided[card] = first.to_yaml().encode()
    for crashed in (decided, {**decided, rows: after[rows]}):
        put(crashed)
        dataset = collection.load(made, NAME)
        assert not dataset.outside and not dataset.stale
        assert states(made) == after
        assert collection.load(made, NAME).dialogues == load_dialogues(rows)


def test_a_torn_line_of_the_edit_log_is_no_edit(made: Paths) -> None:
    collection.edit_row(made, NAME, "a1", messages("直しましたわ。"))
    before = rows_file(made)
    log = dataset_state.edits_path(made, NAME)
    whole = log.read_bytes()
    for cut in (1, len(whole) // 2):
        log.write_bytes(whole + whole[:-cut])
        dataset_state._memory.clear()
        assert not collection.load(made, NAME).outside and rows_file(made) == before
    collection.edit_row(made, NAME, "a2", messages("次も直しましたわ。"))
    assert [json.loads(line)["id"] for line in log.read_text("utf-8").splitlines()] == ["a1", "a2"]


def test_a_crash_while_making_leaves_nothing_or_all(made: Paths) -> None:
    whole = states(made)
    rows, card, originals, *_ = dataset_state.files_of(made, NAME)
    unfinished = DatasetCard.load(card).model_copy(update={"data_hash": "", "made_from": ""})
    first = {**dict.fromkeys(whole), originals: whole[originals]}
    second = {**first, card: unfinished.to_yaml().encode()}
    for state in (first, second):
        put(state)
        with pytest.raises(UserError):
            collection.load(made, NAME)
        collection.create(made, NAME, ROWS[:1], DatasetCard(name=NAME))
    put({**second, rows: whole[rows]})
    assert collection.load(made, NAME).card.data_hash == data_hash(ROWS)
    # The first change of a file without a card: its originals are there, the card is not yet.
    put({**first, rows: whole[rows]})
    assert collection.set_steps(made, NAME, [step("end-mark")]).dialogues[0].reply[-1] == "。"


def test_rows_changed_by_another_program_are_never_overwritten(made: Paths) -> None:
    collection.set_steps(made, NAME, [step("end-mark")])
    ours = rows_file(made)
    theirs = ours.replace("本を読みますわ。".encode(), "ほかで直しましたわ。".encode(), 1)
    dataset_path(made, NAME).write_bytes(theirs)
    dataset = collection.load(made, NAME)
    assert dataset.outside and dataset.dialogues[0].reply == "ほかで直しましたわ。"
    for change in (
        lambda: collection.edit_row(made, NAME, "a2", None),
        lambda: collection.set_steps(made, NAME, []),
        lambda: collection.undo_edit(made, NAME),
        lambda: collection.describe(made, NAME, notes="x"),
        lambda: collection.copy_dataset(made, NAME, "copy"),
    ):
        with pytest.raises(collection.ChangedOutside):
            change()
    assert rows_file(made) == theirs
    collection.discard(made, NAME)
    assert rows_file(made) == ours
    assert (
        made.datasets / collection.list_deleted(made)[0].folder / f"{NAME}.jsonl"
    ).read_bytes() == theirs

    dataset_path(made, NAME).write_bytes(theirs)
    adopted = collection.adopt(made, NAME)
    assert not adopted.outside and adopted.card.steps == () and rows_file(made) == theirs
    assert collection.edit_row(made, NAME, "a2", None).dialogues[0].reply == "ほかで直しましたわ。"
    collection.undo_edit(made, NAME)
    assert rows_file(made) == theirs


def test_a_broken_file_says_where_and_can_be_dropped(made: Paths) -> None:
    ours = rows_file(made)
    dataset_path(made, NAME).write_bytes(ours + b'{"id": \n')
    with pytest.raises(UserError, match="line 8"):
        collection.load(made, NAME)
    assert [item.rows for item in collection.listing(made) if item.name == NAME] == [8]
    collection.discard(made, NAME)
    assert rows_file(made) == ours


@pytest.mark.parametrize("meta", ['{"k": 1}', '{"k": "\\ud800"}', '{"k": NaN}', '{"k": [null]}'])
def test_odd_values_are_kept_or_told(paths: Paths, meta: str) -> None:
    line = '{"id": "x", "messages": [{"role": "assistant", "content": "はい"}], "meta": %s}\n'
    dataset_path(paths, NAME).write_text(line % meta, "utf-8")
    if "ud800" in meta:
        with pytest.raises(UserError, match="half of a character"):
            collection.load(paths, NAME)
        return
    collection.set_steps(paths, NAME, [step("end-mark")])
    assert reply_of(paths, "x") == "はい。" and not collection.load(paths, NAME).outside
    with pytest.raises(UserError, match="half of a character"):
        collection.edit_row(paths, NAME, "x", messages("\ud83d"))


def test_lost_originals_are_told_and_can_be_replaced(made: Paths) -> None:
    collection.set_steps(made, NAME, [step("end-mark")])
    dataset_state.originals_path(made, NAME).unlink()
    assert collection.load(made, NAME).outside
    with pytest.raises(UserError):
        collection.discard(made, NAME)
    assert collection.adopt(made, NAME).originals[0].reply == "本を読みますわ。"
    assert not collection.load(made, NAME).outside


# Real data


def test_the_real_dialogues_are_prepared_and_come_back(paths: Paths, shared: Path) -> None:
    file = shared / "data" / "ojousama" / "ojousamatalkscript200_gpt-3.5-1106ver.jsonl"
    data = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [Dialogue.from_data({"id": f"o{i}", **d}, "file") for i, d in enumerate(data)]
    collection.create(paths, NAME, rows, DatasetCard(name=NAME, profile="ayane"))
    untouched = rows_file(paths)
    steps = [step(kind) for kind in STEPS if kind != "set-system"]
    dataset = collection.set_steps(paths, NAME, steps)
    changed = {s.kind: s.changed for s in dataset.card.steps}
    assert changed["drop-system"] == 202 and changed["end-mark"] > 150 and changed["drop-leaks"]
    assert not any(lacks_end_mark(row.reply) for row in dataset.dialogues)
    queries = {q.text for q in load_queries(paths.queries / "ayane.jsonl")}
    assert not queries & {row.question for row in dataset.dialogues}
    collection.set_steps(paths, NAME, [])
    assert rows_file(paths) == untouched


EDITING = """
import sys
from pathlib import Path
from charllm.data import collection
from charllm.data.config import Paths
from charllm.data.dialogue import Message
paths = Paths(Path(sys.argv[1]), Path(sys.argv[2]))
for number in range(100_000):
    new = [Message(role="user", content="?"), Message(role="assistant", content=f"{number}。")]
    collection.edit_row(paths, "mine", "a1", new)
    print(number, flush=True)
"""


@pytest.mark.parametrize("number", range(3))
def test_a_killed_editor_has_lost_nothing_it_was_told_of(made: Paths, number: int) -> None:
    command = [sys.executable, "-c", EDITING, str(made.root), str(made.workspace)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(20 + 7 * number)]
    process.kill()
    told += [int(line) for line in process.stdout.read().splitlines()]
    process.wait()
    row = find(made, "a1")
    assert row is not None and int(row.reply.rstrip("。")) in (told[-1], told[-1] + 1)
    collection.edit_row(made, NAME, "a1", messages("鍵は空いていますわ。"), row.messages)
    assert reply_of(made, "a1") == "鍵は空いていますわ。"


def test_replies_that_are_not_to_be_learnt_stay_so_when_talks_are_split(paths: Paths) -> None:
    talk = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    talk += [("user", "e"), ("assistant", "f")]
    row = Dialogue.from_data(
        {
            "id": "w",
            "messages": [{"role": role, "content": text} for role, text in talk],
            "meta": {"weights": [1, 0, 1]},
        },
        "test",
    )
    found = prepare([row], [Step(kind="split-turns", options={"history": 0})])
    assert [part.reply for part in found.dialogues] == ["b", "f"]
