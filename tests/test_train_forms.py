"""What the Train tab is made of, without a browser: forms, YAML, commands, looks, folded events."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
from small_models import byte_tokenizer, save_model

from charllm.core.training_config import GROUPS, PRESETS, TrainConfig
from charllm.core.training_data import prepare
from charllm.core.variants import find_variant, load_endpoints
from charllm.data.config import Paths
from charllm.data.dialogue import load_dialogues
from charllm.data.errors import Text, UserError
from charllm.data.files import read_json, write_json
from charllm.data.profile import load_profile
from charllm.data.queries import load_queries
from charllm.data.settings import apply_texts, settings_of
from charllm.services import train_look as looks
from charllm.services.cli import build_parser
from charllm.services.comparing import compare_columns
from charllm.services.runs import Run, Status, create_run, list_runs
from charllm.services.train_forms import (
    file_command,
    free_name,
    set_command,
    start_training,
    start_values,
    value_text,
    values_of_yaml,
    yaml_of,
)
from charllm.services.train_look import look
from charllm.services.train_rows import LONGEST, PAGE, row_parts, rows_page, token_texts
from charllm.services.train_view import Seen, TrainView, queue_of
from charllm.ui.form_values import Read, packed, read, shown_values, unpacked
from charllm.ui.train_live import Has

NAMED = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
SETTINGS = settings_of(TrainConfig)
ASKED = [{"text": "お名前は？", "facts": ["名前は小野寺絢音。"]}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with a small byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("made") / "tiny"
    tokenizer = byte_tokenizer(**NAMED)
    tokenizer.save_pretrained(folder)
    save_model(folder, "llama", len(tokenizer), (5, 2), max_position_embeddings=4096)
    return folder


def config(base: Path, **changes: Any) -> TrainConfig:
    fields = {
        **{"name": "ayane-x", "profile": "ayane", "dataset": "ayane", "base": str(base)},
        **{"template": "plain-ja", "limit": 20, "max_length": 2048, **changes},
    }
    return TrainConfig.model_validate(fields)


def told(**fields: Any) -> Read[TrainConfig]:
    """What the form says that starts from the study's preset, with some fields changed."""
    start = PRESETS["study"] | {"name": "a", "profile": "b", "dataset": "c", "samples": ASKED}
    return read(TrainConfig, shown_values(SETTINGS, start) | fields, start)


# --- the form -----------------------------------------------------------------------------------


def test_a_form_reads_back_what_it_shows_and_keeps_what_it_does_not_show() -> None:
    same = told()
    assert same.changed == [] and same.errors == {}
    config = same.require()
    assert config == TrainConfig(
        name="a", profile="b", dataset="c", samples=ASKED, **PRESETS["study"]
    )
    other = told(epochs=5, keep="best", name="z", gradient_checkpointing=True)
    assert other.changed == ["epochs", "gradient_checkpointing", "keep"]
    assert (other.require().epochs, other.require().name) == (5.0, "z")


def test_each_wrong_field_is_told_in_both_languages() -> None:
    wrong = told(epochs=0, held_out=0.7, batch_size=2.5, r=None, name="Ä", dataset=" ")
    assert wrong.config is None
    assert wrong.errors["epochs"] == Text("More than 0.", "0 より大きい値にしてください。")
    assert wrong.errors["held_out"] == Text("0.5 or less.", "0.5 以下にしてください。")
    assert wrong.errors["batch_size"] == Text("A whole number.", "整数で入力してください。")
    assert wrong.errors["r"] == wrong.errors["dataset"]
    assert wrong.errors["r"] == Text("Fill this in.", "入力してください。")
    assert "cannot be a name" in wrong.errors["name"].en and "名前" in wrong.errors["name"].ja
    with pytest.raises(UserError, match="epochs: More than 0"):
        wrong.require()
    together = told(keep="best", held_out=0.0)
    assert together.config is None and list(together.errors) == [""]


def test_a_field_that_is_not_offered_is_an_error_of_that_field() -> None:
    assert list(told(scheduler="steep").errors) == ["scheduler"]


def test_every_setting_has_a_place_in_the_form() -> None:
    assert {one.group for one in SETTINGS} == set(GROUPS)
    assert set(PRESETS["demo"]) <= {one.name for one in SETTINGS}


def test_what_a_page_keeps_of_a_form_is_its_own_or_nothing() -> None:
    assert unpacked(packed("demo", {"r": 4})) == ("demo", {"r": 4})
    for text in ("", "[]", "{}", '{"start": "demo", "values": 3}', "null"):
        assert unpacked(text) == ("", {})


# --- starts, YAML and the command ---------------------------------------------------------------


def test_a_preset_is_completed_for_the_character(paths: Paths) -> None:
    values = start_values(paths, "study", "magnus")
    assert values.items() >= {"profile": "magnus", "dataset": "magnus", "name": "magnus-1"}.items()
    assert values.items() >= PRESETS["study"].items()
    (paths.checkpoints / "magnus-1").mkdir()
    assert free_name(paths, "magnus") == "magnus-2"
    with pytest.raises(UserError):
        start_values(paths, "last", "magnus")


def test_the_last_run_is_a_start_under_a_free_name(paths: Paths) -> None:
    first = TrainConfig(name="hana-1", profile="ayane", dataset="ayane", epochs=7, samples=ASKED)
    create_run(paths, "train", "hana-1", first)
    assert start_values(paths, "last", "magnus")["name"] == "hana-1"
    (paths.checkpoints / "hana-1").mkdir()
    values = start_values(paths, "last", "magnus")
    assert TrainConfig.model_validate(values) == first.model_copy(update={"name": "hana-2"})


def test_a_second_run_of_one_name_is_refused_while_the_first_waits(paths: Paths) -> None:
    one = TrainConfig(name="twin", profile="ayane", dataset="ayane")
    first = create_run(paths, "train", "twin", one)
    with pytest.raises(UserError, match="waits or runs already"):
        start_training(paths, one)
    assert [run.id for run in list_runs(paths)] == [first.id]


def test_yaml_makes_the_same_run_again() -> None:
    one = told(label_ja="絢音：一", samples=ASKED).require()
    again = TrainConfig.model_validate(values_of_yaml(yaml_of(one), "YAML"))
    assert again == one
    for text in ("epochs: [", "- 1", "", "name: x", "epochs: 0"):
        with pytest.raises(UserError, match="YAML"):
            values_of_yaml(text, "YAML")
    with pytest.raises(UserError) as caught:
        values_of_yaml("name: a\nepochs: [\n", "x.yaml")
    assert "3 行目" in caught.value.text.ja


@pytest.mark.parametrize("start", [*PRESETS, "last", "file"])
def test_the_command_makes_the_same_run(start: str) -> None:
    one = told(
        label_en="it's $HOME; a `b`", learning_rate=0.00012345678, replace=True, limit=0, r=3
    ).require()
    assert set_command(one, start) is None  # its questions are for files only
    one = one.model_copy(update={"samples": ()})
    command = set_command(one, start)
    assert command is not None
    python, dash, module, *words = shlex.split(command)
    assert (python, dash, module) == ("python", "-m", "charllm")
    options = build_parser().parse_args(words)
    values = apply_texts(TrainConfig, dict(PRESETS[options.preset]), options.set)
    assert TrainConfig.model_validate(values) == one


def test_the_command_with_a_file_names_it() -> None:
    words = shlex.split(file_command(told(name="a_b-1").require()))
    assert words == ["python", "-m", "charllm", "train", "recipes/a_b-1.yaml"]


def test_a_value_as_text_is_read_as_that_value() -> None:
    for one in SETTINGS:
        if not one.required:
            assert one.parse(value_text(one, one.default)) == one.default, one.name


def test_a_trained_checkpoint_is_compared_with_its_own_base(paths: Paths, base: Path) -> None:
    one = TrainConfig(name="ayane-a", profile="ayane", dataset="ayane")
    assert compare_columns(paths, one) == ["base", "ayane-a"]
    card = read_json(paths.checkpoints / "ayane-a" / "card.json")
    write_json(paths.checkpoints / "ayane-a" / "card.json", {**card, "base": str(base)})
    other = one.model_copy(update={"base": str(base)})
    columns = compare_columns(paths, other)
    assert columns == compare_columns(paths, other), "its column is made once"
    assert find_variant(paths, "ayane", columns[0]).model == str(base)
    assert len(load_endpoints(paths)) == 1
    with pytest.raises(UserError):
        compare_columns(paths, one.model_copy(update={"name": "gone"}))


# --- looking ------------------------------------------------------------------------------------


def test_a_look_counts_what_the_run_would_train_on(paths: Paths, base: Path) -> None:
    one = config(base)
    found, material = look(one, paths), prepare(one, paths)
    assert not found.blocks and found.problem is None and found.seconds is None
    assert found.rows == (len(material.rows), len(material.held_out_rows)) == (20, 22)
    assert found.totals["tokens"] == sum(len(row.input_ids) for row in material.rows)
    assert found.totals["learnt"] == material.learnt
    assert found.totals["over"] == 0 and found.totals["queries"] == []
    parts = found.memory["parts"]
    assert found.memory["total_gb"] == pytest.approx(sum(parts.values()), abs=0.01)


def test_rows_are_shown_token_by_token(paths: Paths, base: Path) -> None:
    one = config(base)
    material = prepare(one, paths)
    page = rows_page(one, paths, False, 1)
    assert (page["page"], page["pages"], len(page["rows"])) == (1, 3, PAGE)
    assert rows_page(one, paths, False, 99)["page"] == 2
    assert rows_page(one, paths, False, -1)["page"] == 0
    replies = {dialogue.id: dialogue.reply for dialogue in material.dialogues}
    for place, row in enumerate(page["rows"], PAGE):
        by_kind = {part["kind"]: part["tokens"] for part in row["parts"]}
        ids = [token for part in row["parts"] for _, token in part["tokens"]]
        labels = material.rows[place].labels
        assert ids == material.rows[place].input_ids
        learnt = [*by_kind["learnt"], *by_kind["end"]]
        assert [token for _, token in learnt] == [label for label in labels if label != -100]
        assert "".join(text for text, _ in by_kind["learnt"]).strip() == replies[row["id"]]
        assert by_kind["end"][0][0] == "</s>" and row["learnt"] == len(learnt)
    held = rows_page(one, paths, True, 0)
    assert {row["id"] for row in held["rows"]} <= {dialogue.id for dialogue in material.held_out}


def test_the_shared_beginning_is_marked_in_every_row(paths: Paths, base: Path) -> None:
    one = config(base)
    material, shared = prepare(one, paths), look(one, paths).totals["prefix"]
    assert shared > 10
    for row in material.rows:
        first = row_parts(row, material, shared)[0]
        assert first["kind"] == "shared" and len(first["tokens"]) == shared


def test_a_character_of_several_tokens_stands_with_its_last_one() -> None:
    tokenizer = byte_tokenizer(**NAMED)
    ids = tokenizer("嬢様", add_special_tokens=False)["input_ids"]
    texts = token_texts(tokenizer, ids)
    assert len(ids) > 2 and "".join(texts) == "嬢様"
    assert [text for text in texts if text] == ["嬢", "様"]


def test_rows_that_are_too_long_are_refused_and_still_shown(paths: Paths, base: Path) -> None:
    one = config(base, max_length=200)
    found = look(one, paths)
    assert (
        found.blocks and found.problem is not None and "max_length = 200" in found.problem.text.en
    )
    both = [False, True]
    rows = [
        row
        for held in both
        for number in range(rows_page(one, paths, held, 0)["pages"])
        for row in rows_page(one, paths, held, number)["rows"]
    ]
    assert found.totals["over"] == sum(row["over"] for row in rows) > 0
    assert all(row["over"] == (row["tokens"] > 200) for row in rows)
    assert max(row["tokens"] for row in rows) < LONGEST


def test_what_a_start_refuses_blocks_it(paths: Paths, base: Path, tmp_path: Path) -> None:
    taken = look(config(base, name="ayane-a"), paths)
    assert taken.blocks and taken.problem is not None and "already" in taken.problem.text.en
    assert not look(config(base, name="ayane-a", replace=True), paths).blocks
    gone = look(config(tmp_path / "nowhere"), paths)
    assert gone.blocks and gone.problem is not None and "nowhere" in gone.problem.text.en


def test_a_base_that_is_not_here_is_not_fetched_for_a_look(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = look(TrainConfig(name="x", profile="ayane", dataset="ayane"), paths)
    assert embedded.blocks and embedded.problem is not None
    assert "「モデル」タブ" in embedded.problem.text.ja
    hub = "elyza/ELYZA-japanese-Llama-2-7b-instruct"
    away = look(TrainConfig(name="x", profile="ayane", dataset="ayane", base=hub), paths)
    assert not away.blocks and away.problem is not None  # the run itself would fetch it
    assert f"hf download {hub}" in away.problem.text.en
    assert away.totals == {} and away.memory["parts"]["weights"] > 10


def test_questions_of_a_query_set_among_the_rows_are_found(paths: Paths, base: Path) -> None:
    file = paths.datasets / "ayane.jsonl"
    query = load_queries(paths.queries / "ayane.jsonl")[0]
    row = json.loads(file.read_text().splitlines()[0])
    row["id"] = "leaky"
    row["messages"] = [{"role": "user", "content": query.text}, row["messages"][-1]]
    file.write_text(file.read_text() + json.dumps(row, ensure_ascii=False) + "\n")
    found = look(config(base, limit=0, held_out=0.0), paths)
    assert ("leaky", f"ayane/{query.id}") in found.totals["queries"]
    assert not found.blocks and len(load_dialogues(file)) == found.totals["dialogues"]


def test_a_changed_file_is_read_anew(paths: Paths, base: Path) -> None:
    one = config(base, limit=0)
    before = look(one, paths).totals["rows"]
    file = paths.datasets / "ayane.jsonl"
    file.write_text("".join(f"{line}\n" for line in file.read_text().splitlines()[:100]))
    assert look(one, paths).totals["rows"] == 90 < before
    profile = paths.profiles / "ayane" / "profile.yaml"
    tokens = look(one, paths).totals["tokens"]
    said = load_profile(paths, "ayane").system_prompt(rag=False, language="ja")
    assert said.splitlines()[0] in profile.read_text()
    profile.write_text(profile.read_text().replace("お嬢様", "とても上品なお嬢様"))
    assert look(one, paths).totals["tokens"] > tokens


def test_time_is_told_from_a_run_on_the_same_base(paths: Paths, base: Path) -> None:
    one = config(base, epochs=3.0)
    run = create_run(paths, "train", "before", one)
    write_events(
        run,
        [("metric", {"step": n, "loss": 1.0, "tokens_per_second": 50.0 * n}) for n in (1, 2, 3)],
    )
    found = look(one, paths)
    assert found.seconds == pytest.approx(found.totals["tokens"] * 3.0 / 100.0)
    assert (
        looks._seconds(one.model_copy(update={"base": "other"}), paths, prepare(one, paths)) is None
    )


# --- events -------------------------------------------------------------------------------------


def write_events(run: Run, events: list[tuple[str, dict[str, Any]]]) -> None:
    """Add events as the run's own process writes them."""
    file = run.folder / "events.jsonl"
    known = file.read_text().count("\n") if file.exists() else 0
    with file.open("a") as out:
        for n, (kind, data) in enumerate(events, known + 1):
            line = {"n": n, "time": time.time(), "kind": kind, "data": data}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


def metric(step: int, **values: Any) -> tuple[str, dict[str, Any]]:
    return "metric", {"step": step, "total": 8, "epoch": step / 4, **values}


def sample(stopped: bool = True, **more: Any) -> dict[str, Any]:
    return {"question": "？", "facts": [], "reply": "ええ。", "stopped": stopped, **more}


@pytest.fixture
def run(paths: Paths) -> Run:
    return create_run(
        paths, "train", "one", TrainConfig(name="one", profile="ayane", dataset="ayane")
    )


def test_events_become_curves_told_bit_by_bit(run: Run) -> None:
    view = TrainView()
    assert view.of(run).curves(0, 0)["steps"] == []
    write_events(run, [metric(0, eval_loss=4.0), metric(1, loss=3.0, lr=0.1), metric(2, loss=None)])
    seen = view.of(run)
    assert [point["loss"] for point in seen.steps] == [3.0] and seen.total == 8
    assert seen.steps[0]["grad_norm"] is None and seen.speed is None
    assert seen.held_out == [{"step": 0, "epoch": 0.0, "loss": 4.0}]
    write_events(run, [metric(2, loss=2.5, tokens_per_second=10.0), metric(2, eval_loss=2.75)])
    more = view.of(run).curves(seen.since, 1)
    assert (more["start"], [point["step"] for point in more["steps"]]) == (1, [2])
    assert [point["loss"] for point in more["held_out"]] == [4.0, 2.75]
    assert view.of(run).curves(seen.since, 9)["start"] == 0  # the page has another run's points
    with (run.folder / "events.jsonl").open("a") as file:
        file.write('{"n": 6, "time": 0, "ki')
    assert len(view.of(run).steps) == 2


def test_a_resumed_run_replaces_what_it_had_not_saved(run: Run) -> None:
    view = TrainView()
    write_events(run, [metric(n, loss=float(n)) for n in (1, 2, 3, 4)])
    write_events(
        run, [metric(4, eval_loss=9.0), ("samples", {"epoch": 1.0, "samples": [sample()]})]
    )
    first = view.of(run)
    write_events(run, [metric(n, loss=10.0 + n) for n in (3, 4)])
    again = view.of(run)
    assert [point["loss"] for point in again.steps] == [1.0, 2.0, 13.0, 14.0]
    assert again.held_out == [] and again.since == first.since + 1
    assert again.curves(first.since, 4)["start"] == 0
    assert len(first.steps) == 4 and first.steps[2]["loss"] == 3.0  # what was handed out stays
    write_events(run, [("samples", {"epoch": 1.0, "samples": [sample(False), sample()]})])
    assert [one.stopped for one in view.of(run).replies] == [1]


def test_replies_are_summed_up() -> None:
    seen = Seen()
    scored = [sample(gate=[], style=0.9), sample(False, gate=["cut"], style=None)]
    for epoch, samples in ((1.0, [sample()]), (2.0, scored)):
        seen._samples({"epoch": epoch, "samples": samples})
    plain, judged = seen.replies
    assert (plain.stopped, plain.clean, plain.style) == (1, None, None)
    assert (judged.stopped, judged.clean, judged.style) == (1, 1, pytest.approx(0.45))


def test_the_queue_is_told(paths: Paths) -> None:
    made = [
        create_run(
            paths,
            "train",
            name,
            TrainConfig(name=name, profile="p", dataset="d"),
            accelerator=name != "light",
        )
        for name in ("held", "first", "light", "mine")
    ]
    for place, one in enumerate(made):
        state = Status(state="queued", created=place, queued=place).model_dump(mode="json")
        write_json(one.folder / "status.json", state)
    assert queue_of(paths, made[3]) == (2, None)
    living = Status(state="running", created=0, queued=0, started=time.time())
    made[0].write_status(living)
    ahead, holder = queue_of(paths, made[3])
    assert ahead == 1 and holder is not None and holder.name == "held"


def test_a_page_is_sent_only_what_it_lacks() -> None:
    first = Has("")
    assert first.new("table", "<b>1</b>") == "<b>1</b>"
    second = Has(first.text())
    assert not second.lacks("table", "<b>1</b>") and second.lacks("table", "<b>2</b>")
    for text in ("[1]", "x", "null"):
        assert Has(text).known == {}
