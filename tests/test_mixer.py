"""Mixing by hand: sliders, the live model, recipes, a search's next generation; and forks."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import until
from merge_home import evolve_config, small_home
from search_world import World, lines, search
from toy_stage import ToyConfig

from charllm.core.merging.coefficients import layer_groups
from charllm.core.merging.evaluating import request_pause
from charllm.core.merging.evolve_config import EvolveConfig
from charllm.core.merging.genome import Space
from charllm.core.merging.injecting import WAITING, inject
from charllm.core.merging.journal import JOURNAL, Journal, State
from charllm.core.merging.resuming import fork
from charllm.core.merging.search_config import SearchConfig
from charllm.core.merging.search_report import explain
from charllm.core.merging.strategies import Cma
from charllm.core.replying import Resident
from charllm.core.variants import Variant, load_checkpoint
from charllm.data.config import ROOT, Paths
from charllm.data.errors import UserError
from charllm.data.files import write_json
from charllm.data.progress import Paused
from charllm.data.settings import settings_of
from charllm.services import cli, jobs, lease
from charllm.services.chat import ChatService
from charllm.services.merge_fork import fork_run, forkable
from charllm.services.merge_view import SEARCH, columns_beside, config_of
from charllm.services.mixer import open_board, publish, regrouped, save_recipe, send, takers
from charllm.services.mixer_asked import Asked
from charllm.services.mixer_live import MixerDesk
from charllm.services.mixer_rows import load_parents, row_of
from charllm.services.runs import Run, create_run, find_run
from charllm.ui.form_values import read

# --- into a search's next generation ------------------------------------------------------------


def paused(world: World, folder: Path, after: int, **settings: Any) -> None:
    """A search that pauses after so many evaluations."""
    calls = 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == after:
            request_pause(folder)
        return world(*arguments)

    with pytest.raises(Paused):
        search(world, folder, evaluate=counted, **settings)


def row(world: World, first: float) -> dict[str, tuple[float, float]]:
    return {group: (first, 1 - first) for group in world.space.groups}


def given(folder: Path) -> dict[str, str]:
    found = Journal(folder).candidates()
    return {one.id: one.origin for one in found if one.origin}


def test_a_mixture_enters_the_next_generation_as_it_is(tmp_path: Path) -> None:
    world = World(noise=0.1)
    paused(world, tmp_path, 17)
    mixed = {
        group: (w, 1 - w) for group, w in zip(world.space.groups, (1, 0.9, 0.2, 0), strict=True)
    }
    inject(tmp_path, mixed, "mixer")
    result = search(world, tmp_path)
    assert given(tmp_path) == {"g002c00": "mixer"} == dict.fromkeys(result.given, "mixer")
    one = next(one for one in Journal(tmp_path).candidates() if one.origin)
    for group, weights in one.coefficients.weights.items():
        assert weights == pytest.approx(mixed[group], abs=1e-9)
    assert one.role == "candidate" and len(lines(tmp_path)) == len(search_lines(world, tmp_path))


def search_lines(world: World, folder: Path) -> dict[str, Any]:
    """The journal after another look at a search that has ended: nothing is evaluated again."""
    before = lines(folder)
    search(world, folder)
    assert lines(folder) == before
    return before


@pytest.mark.parametrize("at", range(1, 9))
@pytest.mark.parametrize("population", [4, 5, 8])
def test_cma_takes_a_mixture_in_any_generation(at: int, population: int) -> None:
    """pycma has directions of its own that it tries first where a generation is small."""
    space = Space(("a", "b"), 2)
    strategy = Cma(space, 0, population, 0.25, 0.01)
    for number in range(1, at + 1):
        given = [(0.5656, 0.0), space.bounds[1]] if number == at else []
        asked = strategy.ask(given)
        assert len(asked) == population
        for vector in given:
            assert any(vector == pytest.approx(one, abs=1e-7) for one in asked)
        strategy.tell(asked, [sum(x * x for x in vector) for vector in asked])


@pytest.mark.parametrize("part", [0.35, 0.5, 0.8])
@pytest.mark.parametrize("strategy", ["cma", "random"])
def test_a_search_with_mixtures_resumes_to_the_same(
    tmp_path: Path, part: float, strategy: str
) -> None:
    world, whole, cut = World(noise=0.1), tmp_path / "whole", tmp_path / "cut"
    paused(world, whole, 17, strategy=strategy)
    for first in (0.8, 0.3, 0.6):
        inject(whole, row(world, first), "mixer")
    result = search(world, whole, strategy=strategy)
    assert len(given(whole)) == 3
    cut.mkdir()
    for name in ("search.json", WAITING):
        (cut / name).write_bytes((whole / name).read_bytes())
    data = (whole / JOURNAL).read_bytes()
    (cut / JOURNAL).write_bytes(data[: int(part * len(data))])
    again = search(world, cut, strategy=strategy)
    assert lines(cut) == lines(whole) and again.as_json() == result.as_json()


def test_a_generation_is_never_more_than_half_given(tmp_path: Path) -> None:
    world = World()
    paused(world, tmp_path, 17)
    for n in range(6):
        inject(tmp_path, row(world, 0.1 * n), "mixer")
    with (tmp_path / WAITING).open("a") as file:  # somebody's own lines, and one still written
        file.write('{"id": "x"}\nno json\n{"id": "half')
    search(world, tmp_path)
    assert list(given(tmp_path)) == [f"g002c0{n}" for n in range(4)] + ["g003c00", "g003c01"]


def test_the_best_mixture_is_shown_and_never_chosen_for_it(tmp_path: Path) -> None:
    """The true optimum given by hand: it may be the best seen, and only its pull on the mean
    counts for the choice."""
    world = World(noise=0.3)
    paused(world, tmp_path, 5)
    best = {
        group: (0.5 + away, 0.5 - away)
        for group, away in zip(world.space.groups, world.optimum, strict=True)
    }
    inject(tmp_path, best, "mixer")
    result = search(world, tmp_path)
    assert result.chosen.role in ("parent", "uniform", "mean", "shrunk")
    assert result.given == ("g001c00",)
    assert any("by hand" in text.en for text in explain(result))


def test_a_fork_keeps_what_its_beginning_was_given(tmp_path: Path) -> None:
    world = World(noise=0.1)
    paused(world, tmp_path / "a", 17)
    inject(tmp_path / "a", row(world, 0.8), "mixer")
    search(world, tmp_path / "a")
    fork(tmp_path / "a", tmp_path / "b", generation=2, seed=3)
    search(world, tmp_path / "b", seed=3)
    assert given(tmp_path / "b") == given(tmp_path / "a")
    fork(tmp_path / "a", tmp_path / "c", generation=1, seed=3)
    search(world, tmp_path / "c", seed=3)
    assert given(tmp_path / "c") == {}
    assert State.load(tmp_path / "c").given == []  # type: ignore[union-attr]


def test_what_a_search_cannot_take_is_refused(tmp_path: Path) -> None:
    world = World()
    with pytest.raises(UserError, match="not begun"):
        inject(tmp_path, row(world, 0.5), "mixer")
    paused(world, tmp_path, 17)
    with pytest.raises(UserError, match="groups"):
        inject(tmp_path, {"layers 0": (0.5, 0.5)}, "mixer")
    with pytest.raises(UserError, match="2 finite weights"):
        inject(tmp_path, {group: (1.0,) for group in world.space.groups}, "mixer")
    with pytest.raises(UserError, match="zero"):
        inject(tmp_path, {group: (0.0, 0.0) for group in world.space.groups}, "mixer")
    with pytest.raises(UserError, match="negative"):
        inject(tmp_path, {group: (2.0, -1.0) for group in world.space.groups}, "mixer")
    assert not (tmp_path / WAITING).exists()
    search(world, tmp_path)
    with pytest.raises(UserError, match="no further generation"):
        inject(tmp_path, row(world, 0.5), "mixer")
    paused(world, tmp_path / "grid", 12, strategy="grid", grid_steps=1)
    with pytest.raises(UserError, match="grid"):
        inject(tmp_path / "grid", row(world, 0.5), "mixer")
    json.dumps(State.load(tmp_path).given)  # type: ignore[union-attr]


# --- sliders ------------------------------------------------------------------------------------

PARENTS = [f"workspace/models/tiny+checkpoints/{name}" for name in ("one", "two")]
UNEVEN = {"layers 0-0": (0.9, 0.3), "layers 1-1": (0.2, 0.2)}


@pytest.fixture
def home(paths: Paths) -> Paths:
    return small_home(paths)


def test_sliders_are_shares_and_keep_the_mixture_in_other_groups(home: Paths) -> None:
    board = open_board(home, PARENTS, 1)
    assert board.live and board.groups == ("layers 0-0", "layers 1-1")
    mixed = board.coefficients(UNEVEN).weights
    assert mixed["layers 0-0"] == pytest.approx((0.75, 0.25)) and mixed["layers 1-1"] == (0.5, 0.5)
    one = open_board(home, PARENTS, 2)
    together = regrouped(UNEVEN, board, one.layers)
    assert together["layers 0-1"] == pytest.approx((0.625, 0.375))
    back = regrouped(together, one, board.layers)
    assert back["layers 1-1"] == pytest.approx((0.625, 0.375))
    assert board.only(1)["layers 0-0"] == (0.0, 1.0)
    for weights in ({"layers 0-0": (0, 0), "layers 1-1": (1, 1)}, {"layers 0-0": (1, 1)}):
        with pytest.raises(UserError):
            board.coefficients(weights)
    with pytest.raises(UserError, match="negative"):
        board.coefficients({**UNEVEN, "layers 1-1": (2, -1)})
    with pytest.raises(UserError, match="1 to 1,000"):
        open_board(home, PARENTS, 0)


def test_whole_models_have_groups_for_embeddings_and_head(home: Paths) -> None:
    board = open_board(home, ["workspace/models/tiny", write_second(home)], 1)
    assert not board.live and board.plan.engine == "dense"
    assert board.groups == ("embeddings", "layers 0-0", "layers 1-1", "head")
    weights = board.only(0) | {"embeddings": (0.2, 0.8)}
    together = regrouped(weights, board, dict(layer_groups(2, 2)))
    assert together == {"embeddings": (0.2, 0.8), "layers 0-1": (1, 0), "head": (1, 0)}


def write_second(home: Paths) -> str:
    """Another whole model of the same family: the first with one adapter merged in."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = home.models / "second"
    folder.mkdir()
    for file in (home.models / "tiny").iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(home.models / "tiny" / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    for name, tensor in tensors.items():
        if "o_proj" in name:
            noise = torch.randn(tensor.shape, generator=generator)
            tensors[name] = (tensor.float() + 0.2 * noise).to(tensor.dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return "workspace/models/second"


# --- the live model -----------------------------------------------------------------------------


def settled(asked: Asked) -> Asked:
    assert until(lambda: asked.settled), asked
    for side in asked.sides.values():
        assert side.error is None and side.state == "done" and side.score is not None
    return asked


def test_what_answers_is_what_is_saved(home: Paths) -> None:
    """The live row and the published checkpoint, as the chat blends it, are the same weights."""
    board = open_board(home, PARENTS, 1)
    publish(home, board, UNEVEN, "by-hand")
    resident = Resident(home, "tiny")
    names = load_parents(home, resident, board)
    live = row_of(resident, board, names, board.coefficients(UNEVEN))
    saved = resident.row(Variant(name="x", label_en="", label_ja="", checkpoint="by-hand"))
    assert dict(live.weights).keys() == dict(saved.weights).keys() == {"one", "two"}
    for name, layers in live.weights:
        assert layers == pytest.approx(dict(saved.weights)[name], abs=1e-8)
    assert load_checkpoint(home, "by-hand").profile == "ayane"
    assert columns_beside(home, "ayane", "by-hand", PARENTS) == ["one", "two", "by-hand"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MixerDesk]:
    """A mixer beside a chat, whose judge has little to learn from."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("profiles", "datasets", "checkpoints"):
        shutil.copytree(ROOT / name, folder / "root" / name)
    home = small_home(Paths(folder / "root", folder / "workspace"))
    (home.datasets / "ayane.jsonl").unlink()  # nothing to fit a judge on: only the gate is quick
    made = MixerDesk(home, ChatService(home))
    yield made
    made.close()
    made.chat.close()
    assert lease.holder(home) is None, "whoever leaves gives the accelerator back"


def test_a_question_is_answered_by_the_mixture_and_the_plain_average(desk: MixerDesk) -> None:
    board = open_board(desk.paths, PARENTS, 1)
    ask = {"preset": "balanced", "rag": False}
    asked = settled(desk.ask("page", "ayane", board, UNEVEN, " お名前は？ ", **ask))
    assert asked.question == "お名前は？" and desk.look("page") is asked
    assert "gate" in [part["key"] for part in asked.sides["mix"].score["parts"]]  # type: ignore[index]
    again = settled(desk.ask("page", "ayane", board, board.uniform(), "お名前は？", **ask))
    known = asked.sides["uniform"]
    assert again.sides["uniform"] == known, "the plain average's reply is not made again"
    assert again.sides["mix"].text == known.text, "the same weights say the same"
    alone = desk.ask("page", "ayane", board, board.only(0), "お名前は？", **ask)
    later = settled(desk.ask("page", "ayane", board, board.only(1), "お名前は？", **ask))
    assert alone.cancelled and desk.look("page") is later
    with pytest.raises(UserError, match="question"):
        desk.ask("page", "ayane", board, UNEVEN, "  ", **ask)
    with pytest.raises(UserError, match="zero"):
        desk.ask("page", "ayane", board, UNEVEN | {"layers 0-0": (0, 0)}, "?", **ask)


def test_whole_models_are_blended_for_each_reply(desk: MixerDesk) -> None:
    """The chat gives way to them, and they give way to it."""
    board = open_board(desk.paths, ["workspace/models/tiny", write_second(desk.paths)], 1)
    asked = settled(desk.ask("page", "ayane", board, board.only(0), "お名前は？"))
    assert asked.sides["mix"].text and asked.sides["mix"].tokens
    same = settled(desk.ask("page", "ayane", board, board.uniform(), "お名前は？"))
    assert same.sides["mix"].text == same.sides["uniform"].text == asked.sides["uniform"].text
    adapters = open_board(desk.paths, PARENTS, 1)
    settled(desk.ask("page", "ayane", adapters, adapters.only(1), "ご趣味は？"))


# --- saved --------------------------------------------------------------------------------------


def test_a_mixture_is_saved_once_under_a_good_name(home: Paths) -> None:
    board = open_board(home, PARENTS, 1)
    path = save_recipe(home, board, UNEVEN, "by-hand")
    assert path == home.root / "recipes" / "by-hand.yaml"
    assert board.plan.parents[0].written in path.read_text(encoding="utf-8")
    publish(home, board, UNEVEN, "by-hand")
    assert not list((home.workspace / "mixer").iterdir())
    for write in (save_recipe, publish):
        with pytest.raises(UserError, match="already"):
            write(home, board, UNEVEN, "by-hand")
        with pytest.raises(UserError):
            write(home, board, UNEVEN, "../up")
    whole = open_board(home, ["workspace/models/tiny", write_second(home)], 1)
    save_recipe(home, whole, whole.only(1), "whole")
    with pytest.raises(UserError, match="adapters"):
        publish(home, whole, whole.only(1), "whole")


# --- into a run, and forks of one ---------------------------------------------------------------


def begun(home: Paths, after: int, **changes: Any) -> tuple[Run, World]:
    """An evolution whose search has paused after so many evaluations of a small world."""
    world = World(groups=2)
    method = str(changes.get("method", "linear"))
    genes: Any = "simplex" if method == "linear" else "free"
    world.space = Space(("layers 0-0", "layers 1-1"), 2, genes, method)
    search_ = {"max_candidates": 32, "population": 8, "parametrisation": genes}
    run = jobs.submit(home, "evolve", "bred", evolve_config(search=search_, lines="", **changes))
    paused(world, run.folder / SEARCH, after, **search_)
    status = run.stored_status().model_copy(update={"state": "paused"})
    write_json(run.folder / "status.json", status.model_dump(mode="json"))
    return run, world


def test_a_mixture_is_sent_into_a_paused_run(home: Paths) -> None:
    run, world = begun(home, 17)
    turned = open_board(home, PARENTS[::-1], 1)
    assert takers(home, PARENTS) == takers(home, PARENTS[::-1]) == [run]
    assert takers(home, PARENTS[:1]) == []
    assert send(run, turned, UNEVEN)
    coarse = open_board(home, PARENTS, 2)
    assert send(run, coarse, {"layers 0-1": (0.9, 0.1)})
    search(world, run.folder / SEARCH, max_candidates=32, population=8)
    first, second = (c for c in Journal(run.folder / SEARCH).candidates() if c.origin)
    assert first.coefficients.weights["layers 0-0"] == pytest.approx((0.25, 0.75), abs=1e-9)
    assert second.coefficients.weights["layers 1-1"] == pytest.approx((0.9, 0.1), abs=1e-9)
    assert takers(home, PARENTS) == [], "its search has ended"
    with pytest.raises(UserError, match="other parents"):
        send(run, open_board(home, ["workspace/models/tiny", PARENTS[0]], 1), UNEVEN)


def test_a_search_over_free_weights_of_differences_takes_a_mixture(home: Paths) -> None:
    """As the demo's does: shares of the parents' differences are shares of the parents."""
    run, world = begun(home, 17, method="task_arithmetic", base="workspace/models/tiny")
    assert takers(home, PARENTS) == [run]
    assert send(run, open_board(home, PARENTS, 1), UNEVEN)
    search(world, run.folder / SEARCH, max_candidates=32, population=8, parametrisation="free")
    (given,) = (c for c in Journal(run.folder / SEARCH).candidates() if c.origin)
    assert given.coefficients.method == "task_arithmetic"
    assert given.coefficients.weights["layers 0-0"] == pytest.approx((0.75, 0.25))
    other, _ = begun(home, 17, method="ties", base="workspace/models/tiny", name="other")
    with pytest.raises(UserError, match="mixes by ties"):
        send(other, open_board(home, PARENTS, 1), UNEVEN)


def test_a_run_is_forked_into_one_of_its_own(home: Paths) -> None:
    run, world = begun(home, 24)
    known = forkable(run)
    assert known is not None
    assert (known.generations, known.population, known.opened, known.seed) == (2, 8, 0, 1)
    with pytest.raises(UserError, match="at least 24"):
        fork_run(home, run, 2, 5, 16)
    with pytest.raises(UserError, match="0 to 2"):
        fork_run(home, run, 3, 5, 80)
    assert len(jobs.list_runs(home)) == 1, "a fork that cannot be leaves nothing"
    forked = fork_run(home, run, 1, 5, 40)
    config = forked.manifest().load_config(forked.folder)
    assert (config.name, config.search.seed, config.search.max_candidates) == ("bred-fork-1", 5, 40)  # type: ignore[attr-defined]
    result = search(world, forked.folder / SEARCH, seed=5, max_candidates=40, population=8)
    assert len(result.generations) == 5
    kept = {k: v for k, v in lines(run.folder / SEARCH).items() if v["generation"] <= 1}
    assert kept.items() <= lines(forked.folder / SEARCH).items()
    again = fork_run(home, forked, 1, 6, 40)
    assert again.manifest().load_config(again.folder).name == "bred-fork-2"  # type: ignore[attr-defined]
    assert forkable(forked).opened == 1  # type: ignore[union-attr]


def test_a_run_that_has_not_begun_is_not_forked(home: Paths) -> None:
    run = jobs.submit(home, "evolve", "bred", evolve_config())
    assert forkable(run) is None and takers(home, PARENTS) == []
    with pytest.raises(UserError, match="nothing to fork"):
        fork_run(home, run, 0, 1, 8)


def test_the_command_line_forks_too(
    home: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHARLLM_ROOT", str(home.root))
    monkeypatch.setenv("CHARLLM_HOME", str(home.workspace))
    run, _ = begun(home, 24)
    busy = create_run(home, "toy", "busy", ToyConfig(), accelerator=True)  # so that nothing starts
    alive = {"state": "running", "pid": os.getpid()}
    busy.write_status(busy.stored_status().model_copy(update=alive))

    def fork_(*arguments: str, language: str = "en") -> Any:
        monkeypatch.setenv("CHARLLM_LANG", language)
        status = cli.main(["fork", *arguments, "--detach", "--json"])
        out, err = capsys.readouterr()
        return json.loads(out) if status == 0 else (status, err)

    made = fork_(
        run.id, "--generation", "1", "--set", "search.max_calls=900", "--set", "name=again"
    )
    assert (made["forked"], made["generation"], made["opened"]) == (run.id, 1, 0)
    config = config_of(find_run(home, made["run"]))
    assert (config.name, config.search.seed, config.search.max_calls) == ("again", 1, 900)
    assert config.search.max_candidates == 32 and config.parents == config_of(run).parents
    kept = Journal(home.runs / made["run"] / SEARCH).candidates()
    assert {one.generation for one in kept} == {0, 1}
    for arguments, words in (
        (("nothing", "--generation", "1"), "There is no run 'nothing'"),
        ((busy.id, "--generation", "1"), "is no evolution"),
        ((run.id, "--generation", "3"), "0 to 2"),
        ((run.id, "--generation", "-1"), "0 to 2"),
        ((run.id, "--generation", "2", "--set", "search.max_candidates=16"), "at least 24"),
        ((run.id, "--generation", "1", "--set", "search.objective=loss"), "search.max_hours"),
        ((run.id, "--generation", "1", "--set", "search.seed"), "NAME=VALUE"),
        ((run.id, "--generation", "1", "--set", "search.seed=-1"), "search.seed"),
    ):
        status, told = fork_(*arguments)
        assert status == 2 and words in told, told
    assert "ではありません" in fork_(busy.id, "--generation", "1", language="ja")[1]
    assert len(jobs.list_runs(home)) == 3 and not list(home.runs.glob(".fork-*"))


# --- words --------------------------------------------------------------------------------------


def test_a_race_for_more_than_all_queries_is_told_in_both_languages() -> None:
    fields = {one.name: one.default for one in settings_of(SearchConfig)}
    found = read(SearchConfig, {**fields, "race_first": 0.8, "race_more": 0.4}, {})
    assert "must not exceed 1" in found.errors[""].en and "1 以下" in found.errors[""].ja


def test_a_loss_without_lines_is_told_in_both_languages() -> None:
    fields = {one.name: one.default for one in settings_of(EvolveConfig)}
    start = {"parents": PARENTS, "search": {"objective": "loss=1"}}
    found = read(EvolveConfig, {**fields, "name": "x", "profile": "ayane"}, start)
    assert "loss needs lines" in found.errors[""].en and "評価用のせりふ" in found.errors[""].ja
