"""Fine-tuning a base on a character's dialogues: LoRA with trl, published as a small adapter.

``run_train`` is the stage; its settings are training_config's, how rows are built is
training_data's, what is published is training_card's. It does
not know who started the run: it reports, asks whether to stop, and resumes from its folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.claims import claimed
from charllm.core.training_config import TrainConfig
from charllm.core.training_data import Material, leaks, prepare
from charllm.core.training_disk import full_disk_in_words
from charllm.core.training_memory import explained_memory, limit_memory, quote
from charllm.core.training_samples import sample_replies
from charllm.core.training_start import check_start
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import read_json, write_json
from charllm.data.progress import Reporter, Stopped

if TYPE_CHECKING:
    from charllm.data.prompts import Row


def run_train(
    config: TrainConfig, reporter: Reporter, folder: Path, paths: Paths
) -> dict[str, Any]:
    """Train, sample, publish to ``checkpoints/<name>``; returns the card's numbers.

    A stop request ends the run with ``Stopped`` and nothing published: "save" leaves a checkpoint
    in ``folder`` from which the next call goes on to the same weights; "cancel" leaves none.
    """
    with claimed(paths, config.name, folder):
        return _run(config, reporter, folder, paths)


def _run(config: TrainConfig, reporter: Reporter, folder: Path, paths: Paths) -> dict[str, Any]:
    check_start(config, paths)
    if config.backend == "openai":
        from charllm.core.training_remote import run_remote

        return run_remote(config, reporter, folder, paths)
    _set_threads(config.threads)
    reporter.progress(0, 1, Text("preparing the data", "データを準備しています"))
    material = prepare(config, paths)
    _tell(material, reporter)
    estimate = quote(config, paths, material)
    reporter.event("memory", device=estimate.device, parts=estimate.parts, tokens=estimate.tokens)
    with full_disk_in_words(folder, paths.checkpoints), explained_memory(config, paths, material):
        return _train(config, material, reporter, folder, paths)


def _train(
    config: TrainConfig, material: Material, reporter: Reporter, folder: Path, paths: Paths
) -> dict[str, Any]:
    from charllm.core.judging.score import style_scorer
    from charllm.core.training_card import publish
    from charllm.core.training_watch import tell_samples

    scorer = style_scorer(paths, material.profile)

    def sample(model: Any) -> list[dict[str, Any]]:
        return sample_replies(model, material, scorer)

    reporter.progress(0, 1, Text("loading the base model", "ベースモデルを読み込んでいます"))
    trainer, watch = make_trainer(config, material, reporter, folder, paths, sample)
    with _compact_head(trainer, reporter):
        watch.run(trainer, _resume_from(config, material, folder))
    watch.settle(trainer.model)
    reporter.progress(1, 1, Text("asking sample questions", "サンプルの質問をしています"))
    samples = sample(trainer.model)
    tell_samples(reporter, config.epochs, samples)
    if reporter.stop_requested() == "cancel":
        raise Stopped
    return publish(config, material, trainer, watch, samples, paths)


def _set_threads(threads: int) -> None:
    """Two threads on one free core burn four times the CPU: never more than physical cores."""
    import torch

    if not threads and not os.environ.get("OMP_NUM_THREADS"):
        import psutil

        threads = psutil.cpu_count(logical=False) or 1
    if threads:
        torch.set_num_threads(threads)


def _tell(material: Material, reporter: Reporter) -> None:
    """What was found about the data, for the page and the log."""
    leaked = leaks(material.dialogues, material.held_out)
    reporter.event(
        "data",
        dialogues=len(material.dialogues),
        held_out=len(material.held_out),
        with_facts=sum(bool(d.facts) for d in material.dialogues),
        longest=material.longest,
        learnt_tokens=material.learnt,
        template=material.template.name,
        leaks=leaked,
    )
    for held, trained in leaked:
        reporter.log(f"held-out dialogue {held} reads almost like training dialogue {trained}")


def make_trainer(
    config: TrainConfig,
    material: Material,
    reporter: Reporter,
    folder: Path,
    paths: Paths,
    sample: Callable[[Any], list[dict[str, Any]]],
) -> tuple[Any, Any]:
    """trl's trainer over the token rows as they are, and the watch that reports and stops."""
    from datasets import Dataset  # type: ignore[attr-defined]  # our folder of that name hides it
    from peft import LoraConfig
    from transformers import PrinterCallback, set_seed
    from trl import SFTTrainer

    from charllm.core.models import load_model, model_folder
    from charllm.core.training_shared import SharedCollator, can_share, shared_trainer
    from charllm.core.training_watch import Watch

    set_seed(config.seed)
    limit_memory(config.memory_gb)
    model = load_model(model_folder(paths, config.base), quantization=config.quantization)
    row_tokens = sum(len(row.input_ids) for row in material.rows) / len(material.rows)
    watch = Watch(config, reporter, folder, sample, row_tokens)
    modules = config.target_modules
    train, held_out = (
        Dataset.from_list([_columns(row) for row in rows]) if rows else None
        for rows in (material.rows, material.held_out_rows)
    )
    shares = config.share_prefix and can_share(model)
    reporter.event("batches", shared_prefix=shares)
    trainer = (shared_trainer() if shares else SFTTrainer)(
        model=model,
        args=_arguments(config, folder, bool(material.held_out), str(model.device), paths),
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=material.tokenizer,
        peft_config=LoraConfig(
            r=config.r,
            lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft divides it by r
            lora_dropout=config.dropout,
            target_modules=modules if modules == "all-linear" else modules.split(","),
            task_type="CAUSAL_LM",
        ),
        callbacks=[watch],
        data_collator=SharedCollator(material.tokenizer.pad_token_id or 0) if shares else None,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, watch


def _columns(row: Row) -> dict[str, list[int]]:
    return {"input_ids": list(row.input_ids), "labels": list(row.labels)}


def _arguments(
    config: TrainConfig, folder: Path, evaluates: bool, device: str, paths: Paths
) -> Any:
    """Every default of trl that matters is named: it would checkpoint, cut at 1,024, use bf16."""
    from trl import SFTConfig

    if config.report_to == "trackio":
        os.environ.setdefault("TRACKIO_DIR", str(paths.workspace / "trackio"))
    if config.report_to == "wandb":
        os.environ.setdefault("WANDB_PROJECT", "charllm")
        os.environ.setdefault("WANDB_DIR", str(folder))

    cuda = device.startswith("cuda")
    return SFTConfig(
        output_dir=str(folder / "trainer"),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.scheduler,
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        optim="adamw_torch",
        seed=config.seed,
        data_seed=config.seed,
        train_sampling_strategy="random",  # by length, transformers 5.23 resumes in another order
        gradient_checkpointing=config.gradient_checkpointing,
        bf16=cuda,
        fp16=False,
        use_cpu=not cuda,
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        eval_strategy="epoch" if evaluates else "no",
        eval_on_start=False,
        logging_steps=1,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=2,
        report_to=[] if config.report_to == "none" else [config.report_to],
        run_name=folder.name,
        project="charllm",
        trackio_static_space_id=False,  # its curves stay on this machine
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=cuda,
    )


def _resume_from(config: TrainConfig, material: Material, folder: Path) -> Path | None:
    """The newest whole checkpoint of this very run; ``UserError`` if the run's inputs changed."""
    from charllm.core.training_watch import newest_checkpoint

    manifest = folder / "trainer" / "manifest.json"
    inputs = {
        "config": config.model_dump(mode="json", exclude={"threads", "replace"}),
        "rows": material.rows_hash,
        "base": material.base_hash,
    }
    checkpoint = newest_checkpoint(folder / "trainer")
    if checkpoint and manifest.is_file() and read_json(manifest) != inputs:
        raise UserError(
            "The configuration, the data or the base changed since this run was stopped, so it "
            "cannot go on. Start a new run.",
            "停止したあとに設定、データ、またはベースが変わったため、この実行は再開できません。"
            "新しく開始してください。",
        )
    write_json(manifest, inputs)
    return checkpoint


@contextmanager
def _compact_head(trainer: Any, reporter: Reporter) -> Iterator[None]:
    """On a CPU, let trl score only the learnt positions over the vocabulary, as it does on a GPU.

    Halves the time of a step with a 262k vocabulary; the same losses and weights, bit by bit. It
    reaches into trl, so it is done only for the versions it was checked with.
    """
    import trl
    from trl.trainer import utils

    known = trl.__version__.startswith("1.16.") and hasattr(utils, "_use_triton")
    on_cpu = trainer.args.device.type == "cpu"
    if not known or not on_cpu:
        if on_cpu:
            reporter.log(f"trl {trl.__version__}: the compact head is not known; steps are slower")
        yield
        return
    before = utils._use_triton
    utils._use_triton = lambda device: True
    try:
        yield
    finally:
        utils._use_triton = before
