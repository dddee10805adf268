"""Training with bad input and bad luck: a clear message in both languages, and nothing lost."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small_models import byte_tokenizer, save_model

from charllm.core.models import load_model, load_tokenizer
from charllm.core.training import make_trainer, run_train
from charllm.core.training_config import TrainConfig
from charllm.core.training_data import prepare
from charllm.core.training_disk import full_disk_in_words
from charllm.core.training_start import check_start
from charllm.core.training_watch import newest_checkpoint
from charllm.data.config import Paths
from charllm.data.dialogue import Dialogue, Message, save_dialogues
from charllm.data.errors import Text, UserError
from charllm.data.files import read_json, write_json
from charllm.data.profile import Profile, save_profile
from charllm.data.progress import Silent, Stopped, StopRequest
from charllm.services import jobs
from charllm.services.reporter import run_stage
from charllm.services.runs import Run

LONG = 256
"""Tokens that the tiny base takes at most."""
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
WRITES_BEGINNING_TWICE = (
    "<s>{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
)


class Disturbed(Silent):
    """A reporter that does something at a step, or asks to stop there."""

    def __init__(self, step: int, do: Callable[[], object] = lambda: None, stop: bool = False):
        self.step, self.do, self.stop, self.at = step, do, stop, 0.0

    def progress(self, done: float, total: float, message: Text) -> None:
        if total > 1 and done >= self.step > self.at:
            self.do()
        self.at = done

    def stop_requested(self) -> StopRequest:
        return "save" if self.stop and self.at >= self.step else ""


def dialogue(number: int, question: str = "") -> Dialogue:
    asked = Message(role="user", content=question or f"{number}番目の質問はなあに？")
    reply = Message(role="assistant", content=f"{number * 7919 % 997}と申しますわ。")
    return Dialogue(id=f"d-{number}", messages=(asked, reply))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with a small byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("made") / "tiny"
    tokenizer = byte_tokenizer(**NAMED)
    tokenizer.save_pretrained(folder)
    save_model(folder, "llama", len(tokenizer), (5, 2), max_position_embeddings=LONG)
    return folder


@pytest.fixture
def base(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to break."""
    return Path(shutil.copytree(made, tmp_path / "tiny"))


@pytest.fixture
def home(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path / "root", tmp_path / "workspace")
    save_profile(paths, Profile(slug="hana", name="花"))
    save_dialogues(paths.datasets / "hana.jsonl", [dialogue(n) for n in range(16)])
    return paths


def config(base: Path, **changes: Any) -> TrainConfig:
    fields = {
        **{"name": "hana-one", "profile": "hana", "dataset": "hana", "base": str(base)},
        **{"template": "plain-ja", "held_out": 0.0, "epochs": 2.0, "batch_size": 4, "r": 4},
        **{"save_steps": 3, "dropout": 0.1, "samples": [{"text": "お名前は？"}]},
        **changes,
    }
    return TrainConfig.model_validate(fields)


@contextmanager
def refused(en: str, ja: str) -> Iterator[None]:
    with pytest.raises(UserError) as caught:
        yield
    assert caught.value.text == Text(en, ja)


def adapter(home: Paths, name: str = "hana-one") -> bytes:
    return (home.checkpoints / name / "adapter_model.safetensors").read_bytes()


def change_json(file: Path, **values: Any) -> None:
    write_json(file, {**read_json(file), **values})


# ── data ──────────────────────────────────────────────────────────────────────────────────────────


def test_an_empty_dataset(home: Paths, base: Path) -> None:
    file = home.datasets / "hana.jsonl"
    file.write_text("\n")
    with refused(
        f"{file} holds no dialogues. Import some in the Data tab, or name another dataset.",
        f"{file} に会話がありません。「データ」タブで読み込むか、別のデータセットを選んで"
        "ください。",
    ):
        run_train(config(base), Silent(), home.workspace / "run", home)


def test_one_row_is_trained_on_or_the_setting_that_needs_more_is_named(
    home: Paths, base: Path
) -> None:
    save_dialogues(home.datasets / "hana.jsonl", [dialogue(1)])
    result = run_train(config(base, held_out=0.5), Silent(), home.workspace / "run", home)
    assert (result["dialogues"], result["held_out_loss"]) == (1, None)
    with refused(
        "A held_out share of 0.5 leaves no dialogue to measure by (there are 1), so the best epoch "
        "cannot be told: set keep to last, raise held_out, or add dialogues.",
        "会話が 1 件で held_out が 0.5 では評価用の会話が残らず、最良のエポックを選べません。"
        "keep を last にするか、held_out を大きくするか、会話を増やしてください。",
    ):
        prepare(config(base, held_out=0.5, keep="best"), home)
    with refused(
        "The dialogues are too few (1): none is left to train on.",
        "会話が 1 件では足りず、学習に使うものが残りません。",
    ):
        prepare(config(base, half="b"), home)


def test_rows_longer_than_the_models_context(home: Paths, base: Path) -> None:
    save_dialogues(home.datasets / "hana.jsonl", [dialogue(1), dialogue(2, "あ" * 200)])
    with refused(
        "1 of 2 dialogues are longer than the 256 tokens that the base model takes: d-2 (436). "
        "Shorten them or the system prompt, or choose a base with a longer context; max_length "
        "cannot help.",
        "2 件中 1 件の会話が、ベースモデルの上限 256 トークンを超えています: d-2 (436)。"
        "会話かシステムプロンプトを短くするか、より長い文脈を扱えるベースを選んでください"
        "（max_length では解決しません）。",
    ):
        prepare(config(base, max_length=1024), home)
    with refused(
        "1 of 2 dialogues are longer than max_length = 128 tokens: d-2 (436). Cut, they would lose "
        "their end token: raise max_length (this base takes 256 at most) or shorten them.",
        "2 件中 1 件の会話が max_length = 128 トークンを超えています: d-2 (436)。途中で切ると"
        "終了トークンが失われるため、max_length を大きくするか（このベースの上限は 256）、"
        "会話を短くしてください。",
    ):
        prepare(config(base, max_length=128), home)


# ── tokenizers ────────────────────────────────────────────────────────────────────────────────────


def give_tokenizer(base: Path, template: str = "", **named: str) -> None:
    (base / "tokenizer_config.json").unlink()
    tokenizer = byte_tokenizer(**named)
    tokenizer.chat_template = template or None
    tokenizer.save_pretrained(base)


def test_a_tokenizer_without_an_end_token(home: Paths, base: Path) -> None:
    give_tokenizer(base, "{% for m in messages %}{{ m['content'] }}{% endfor %}", bos_token="<s>")
    with refused(
        "This tokenizer has no end token, so no reply could ever be learnt to stop.",
        "このトークナイザーには終了トークンがないため、返答の終わりを学習できません。",
    ):
        run_train(config(base), Silent(), home.workspace / "run", home)
    with refused(
        "The model's chat template writes no end token behind a reply.",
        "モデルのチャットテンプレートは返答の後に終了トークンを置きません。",
    ):
        run_train(config(base, template="tokenizer"), Silent(), home.workspace / "run", home)


def test_a_tokenizer_of_another_model(home: Paths, base: Path) -> None:
    change_json(base / "config.json", vocab_size=200)
    with refused(
        "The tokenizer gives '回答' the id 281, but the base model knows only ids below 200: "
        "tokenizer and model do not belong together. Put the model's own tokenizer into its "
        "folder.",
        "トークナイザーは「回答」に ID 281 を割り当てますが、"
        "ベースモデルが扱えるのは 200 未満です。"
        "トークナイザーとモデルの組み合わせが正しくありません。モデル本来のトークナイザーを"
        "フォルダーに入れてください。",
    ):
        prepare(config(base), home)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("pad", ["</s>", "", "<pad>"])
def test_padding_with_the_end_token_hides_no_label(
    home: Paths, base: Path, pad: str, shared: bool
) -> None:
    """As a batch reaches the model: every row's last learnt label is its one end token."""
    give_tokenizer(base, bos_token="<s>", eos_token="</s>", **({"pad_token": pad} if pad else {}))
    one = config(base, share_prefix=shared)
    material = prepare(one, home)
    assert material.tokenizer.pad_token == (pad or "</s>")
    trainer, _ = make_trainer(one, material, Silent(), home.workspace / "run", home, lambda _: [])
    seen = 0
    for batch in trainer.get_train_dataloader():
        for labels in rows_of(batch):
            learnt = [label for label in labels if label != -100]
            assert learnt[-1] == 2 and learnt.count(2) == 1
            seen += 1
    assert seen == 16


def rows_of(batch: dict[str, Any]) -> list[list[int]]:
    """The labels of each row of a batch, plain or with a shared beginning."""
    if "segments" not in batch:
        return [row.tolist() for row in batch["labels"]]
    labels, segments = batch["labels"][0], batch["segments"][0]
    rows = [labels[segments == number].tolist() for number in segments.unique().tolist()]
    return [row for row in rows if any(label != -100 for label in row)]


def test_a_template_that_adds_a_second_beginning(home: Paths, base: Path) -> None:
    """The template writes it twice and the tokenizer would add one more: rows have one."""
    from tokenizers import Tokenizer, processors

    give_tokenizer(base, WRITES_BEGINNING_TWICE, **NAMED)
    inner = Tokenizer.from_file(str(base / "tokenizer.json"))
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    inner.save(str(base / "tokenizer.json"))
    assert load_tokenizer(base)("<s>")["input_ids"] == [1, 1]
    for template in ("tokenizer", "plain-ja"):
        material = prepare(config(base, template=template), home)
        assert all(row.input_ids.count(1) == 1 for row in material.rows), template
        assert all(row.input_ids[0] == 1 for row in material.rows), template


# ── bases ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_a_base_that_is_stored_quantised(home: Paths, base: Path, method: str) -> None:
    change_json(base / "config.json", quantization_config={"quant_method": method, "bits": 4})
    with refused(*packed("tiny", method.upper())):
        check_start(config(base), home)


def test_a_quantised_model_of_the_catalog_is_refused_before_it_is_fetched(home: Paths) -> None:
    started = time.monotonic()
    with refused(*packed("Llama-3-ELYZA-JP-8B (AWQ)", "AWQ")):
        check_start(config(Path("Llama-3-ELYZA-JP-8B-AWQ")), home)
    assert time.monotonic() - started < 5, "the hub was asked"


def packed(name: str, how: str) -> Text:
    return Text(
        f"{name} is stored quantised ({how}), a form for inference: training on it is not exact, "
        "and an adapter merged into it would be rounded again. Train on the 16-bit form; "
        "quantization nf4 makes that small while it is trained.",
        f"{name} は量子化された形式（{how}）で、推論用です。正確に学習できず、"
        "アダプターをマージすると丸め直されてしまいます。16ビット版をベースにしてください。"
        "学習中のメモリーは quantization を nf4 にすると減らせます。",
    )


def give_code(base: Path) -> Path:
    """Make the base need code of its own; the file that appears when that code is run."""
    ran = base.parent / "ran"
    (base / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own-kind'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    kinds = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    change_json(base / "config.json", model_type="own-kind", auto_map=kinds)
    return ran


def code_needed(base: Path) -> Text:
    return Text(
        f"{base} can only be read with program code from its own folder, which could do anything "
        "on this machine. Choose another model; or read that code and, if you trust it, start "
        f"charllm with CHARLLM_ALLOW_CODE={base}",
        f"{base} を読み込むには、モデルのフォルダーにあるプログラムを実行する必要があります"
        "（このマシンで何でもできてしまいます）。別のモデルを選ぶか、内容を確かめて信頼できる"
        f"場合に限り CHARLLM_ALLOW_CODE={base} を設定して charllm を起動してください。",
    )


def test_a_base_that_needs_code_of_its_own(
    home: Paths, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    ran = give_code(base)
    monkeypatch.setenv("CHARLLM_ALLOW_CODE", f"{base}-other:somebody/model")
    with refused(*code_needed(base)):
        run_train(config(base), Silent(), home.workspace / "run", home)
    with refused(*code_needed(base)):
        load_model(base)
    assert not ran.exists(), "the model's code was run"
    monkeypatch.setenv("CHARLLM_ALLOW_CODE", f"somebody/model:{base}")
    check_start(config(base), home)
    assert type(load_model(base)).__name__ == "OwnModel" and ran.exists()


def test_a_tokenizer_that_needs_code_of_its_own(base: Path) -> None:
    own = {"AutoTokenizer": ["own.OwnTokenizer", None]}
    change_json(base / "tokenizer_config.json", auto_map=own, tokenizer_class="OwnTokenizer")
    with refused(*code_needed(base)):
        load_tokenizer(base)


def test_code_that_is_not_needed_is_not_run(home: Paths, base: Path) -> None:
    ran = give_code(base)
    change_json(base / "config.json", model_type="llama")
    check_start(config(base), home)
    assert type(load_model(base)).__name__ == "LlamaForCausalLM" and not ran.exists()


def test_a_kind_of_model_that_nobody_knows(home: Paths, base: Path) -> None:
    change_json(base / "config.json", model_type="llama-9")
    with refused(
        "tiny is a model of the kind 'llama-9', which the installed transformers does not know. "
        "Update transformers, or choose another model.",
        "tiny は「llama-9」という種類のモデルで、インストール済みの transformers では扱えません。"
        "transformers を更新するか、別のモデルを選んでください。",
    ):
        check_start(config(base), home)


def test_a_base_deleted_between_stop_and_resume(home: Paths, base: Path) -> None:
    """Nothing of the run is lost: put back, it ends in the very bytes of an undisturbed one."""
    run_train(config(base, name="whole"), Silent(), home.workspace / "whole", home)
    folder = home.workspace / "run"
    with pytest.raises(Stopped):
        run_train(config(base), Disturbed(3, stop=True), folder, home)
    base.rename(base.parent / "away")
    with refused(
        f"The base model {base} is gone. Put it back where it was and resume; nothing of the run "
        "is lost. To train on another base, start a new run.",
        f"ベースモデル {base} が見つかりません。元の場所に戻してから再開してください"
        "（途中までの学習は失われていません）。別のベースで学習するには、新しく開始してください。",
    ):
        run_train(config(base), Silent(), folder, home)
    assert newest_checkpoint(folder / "trainer") == folder / "trainer" / "checkpoint-3"
    (base.parent / "away").rename(base)
    run_train(config(base), Silent(), folder, home)
    assert adapter(home) == adapter(home, "whole")


# ── the machine ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def undisturbed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, int]:
    """The adapter of a run that nothing happens to, and the bytes of its last checkpoint."""
    where = tmp_path_factory.mktemp("undisturbed")
    paths = Paths(where / "root", where / "workspace")
    save_profile(paths, Profile(slug="hana", name="花"))
    save_dialogues(paths.datasets / "hana.jsonl", [dialogue(n) for n in range(16)])
    run_train(config(made), Silent(), where / "run", paths)
    files = (where / "run" / "trainer" / "checkpoint-8").iterdir()
    return adapter(paths), sum(-(-file.stat().st_size // 4096) * 4096 for file in files)


def full(disk: Path, free: str) -> Text:
    return Text(
        f"There is no room left on the disk {disk} ({free} MB free). Free some space or raise the "
        "quota, then resume: the run goes on from step 3.",
        f"ディスク {disk} に空きがありません（残り {free} MB）。空きを作るか割り当てを増やしてから"
        "再開してください。3 ステップ目から続きます。",
    )


@pytest.mark.parametrize("limit", [2_000, 10_000, 30_000])
def test_a_file_that_cannot_grow_in_the_middle_of_a_checkpoint(
    home: Paths, base: Path, undisturbed: tuple[bytes, int], limit: int
) -> None:
    """The first file that is too large is a text, the adapter, or the optimizer's state."""
    resource = pytest.importorskip("resource", reason="this system limits no file's size")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    folder = home.workspace / "run"

    def narrow() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

    try:
        with pytest.raises(UserError) as caught:
            run_train(config(base), Disturbed(4, narrow), folder, home)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    shown = caught.value.text.en
    disk, free = shown.split("disk ")[1].split(" (")[0], shown.split(" (")[1].split(" MB")[0]
    assert Path(disk).is_mount() and caught.value.text == full(Path(disk), free)
    assert [f.name for f in (folder / "trainer").glob("checkpoint-*")] == ["checkpoint-3"]
    run_train(config(base), Silent(), folder, home)
    assert adapter(home) == undisturbed[0] and not (folder / ".reserve").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty disk of its own, whose size a test sets by mounting it again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not shutil.which("mount"):
        pytest.skip("this system mounts no small disk")
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_in_the_middle_of_a_checkpoint(
    home: Paths, base: Path, small_disk: Path, undisturbed: tuple[bytes, int]
) -> None:
    """The run says so, as a run does; when there is room again it goes on and loses nothing."""

    def resize(size: int) -> None:
        order = ["mount", "-o", f"remount,size={size}", str(small_disk)]
        subprocess.run(order, check=True)

    paths = Paths(home.root, small_disk / "workspace")
    run = jobs.submit(paths, "train", "hana-one", config(base))
    resize(used(small_disk) + (1 << 17) + undisturbed[1] * 3 // 2)
    assert in_its_own_words(run, paths) == 2
    status = run.status()
    assert status.state == "failed" and status.error is not None
    assert Text(status.error.en, status.error.ja) == full(
        small_disk, status.error.en.split("(")[1].split(" MB")[0]
    )
    assert [f.name for f in (run.folder / "trainer").glob("checkpoint-*")] == ["checkpoint-3"]
    resize(1 << 26)
    jobs.resume(paths, run)
    assert in_its_own_words(run, paths) == 0
    assert adapter(paths) == undisturbed[0]


def in_its_own_words(run: Run, paths: Paths) -> int:
    """The run as its process runs it, here; the process's own handler of SIGTERM is put back."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        return run_stage(run.folder, paths)
    finally:
        signal.signal(signal.SIGTERM, before)


def used(disk: Path) -> int:
    return shutil.disk_usage(disk).used


def test_a_disk_that_others_fill_to_the_brim_still_takes_the_message(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    folder = small_disk / "run"
    with (
        refused(
            f"There is no room left on the disk {small_disk} (0.1 MB free). Free some space or "
            "raise the quota, then resume: the run begins again.",
            f"ディスク {small_disk} に空きがありません（残り 0.1 MB）。空きを作るか割り当てを"
            "増やしてから再開してください。最初からやり直します。",
        ),
        full_disk_in_words(folder),
        (small_disk / "others").open("wb", buffering=0) as others,
    ):
        while True:
            others.write(bytes(4096))
    write_json(folder / "status.json", {"error": "x" * 10_000})


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not the disk"), full_disk_in_words(tmp_path / "run"):
        raise RuntimeError("not the disk")


def test_two_runs_at_once(home: Paths, base: Path) -> None:
    """The second waits for the first; of the same name, it is refused and the first's stays."""
    runs = [jobs.submit(home, "train", "hana-one", config(base)) for _ in range(2)]
    deadline = time.monotonic() + 120
    waited = False
    while not all(run.status().ended_ for run in runs):
        assert time.monotonic() < deadline, [run.log_tail() for run in runs]
        jobs.tick(home)
        states = [run.status().state for run in runs]
        waited = waited or states == ["running", "queued"]
        assert states.count("running") <= 1
        time.sleep(0.1)
    assert waited and [run.status().state for run in runs] == ["done", "failed"]
    error = runs[1].status().error
    assert error is not None and Text(error.en, error.ja) == Text(
        "There is a checkpoint 'hana-one' already. Choose another name, or set replace.",
        "チェックポイント「hana-one」はすでにあります。別の名前にするか、replace を指定して"
        "ください。",
    )
    card = json.loads((home.checkpoints / "hana-one" / "card.json").read_text("utf-8"))
    assert card["dialogues"] == 16 and len(adapter(home)) > 1000
