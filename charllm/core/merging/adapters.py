"""Several LoRA adapters on one base model, mixed anew for every row of a batch.

``y = W0 x + B diag(s) A x`` with the adapters' A and B side by side and ``s`` a row's coefficients
times the adapters' own scales: the base, a fine-tuned model and any linear merge of fine-tuned
models run in one forward pass, and the base is in memory once (in 4 bits if it was loaded so).
The sum over adapters is exact; a row without adapters gives the base's numbers bit by bit.

It does not know how tokens are chosen. One worker thread a base model: the rows of the current
batch are state of the engine.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from charllm.core.decoding_prompts import PromptMemory, on_device
from charllm.core.merging.adapter_layers import READS, Input, Span, Target
from charllm.core.merging.lora_files import Lora, read_lora
from charllm.data.errors import UserError

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")

# Which field of a model's configuration decides a size; hidden_size where nothing is said.
_FIELDS = {
    ("q_proj", "out_features"): "num_attention_heads * head_dim",
    ("o_proj", "in_features"): "num_attention_heads * head_dim",
    ("k_proj", "out_features"): "num_key_value_heads * head_dim",
    ("v_proj", "out_features"): "num_key_value_heads * head_dim",
    ("gate_proj", "out_features"): "intermediate_size",
    ("up_proj", "out_features"): "intermediate_size",
    ("down_proj", "in_features"): "intermediate_size",
}


@dataclass(frozen=True)
class Row:
    """What one row of a batch runs: a coefficient for each adapter and decoder layer."""

    engine: AdapterModel = field(repr=False)
    weights: tuple[tuple[str, tuple[float, ...]], ...]


class AdapterModel:
    """``model``, a transformers causal LM in memory once, and adapters to choose from by row."""

    def __init__(self, model: Any, base_hash: str = "", remember_tokens: int = 0) -> None:
        """``base_hash`` names the base's weights in fingerprints (``models.weights_hash``).

        ``remember_tokens`` prompt tokens are kept encoded for prompts that begin alike, which
        makes the first token of a chat faster. It is 0 where replies must not depend on what was
        asked before: with 16-bit weights a beginning encoded apart differs in the last bits.
        """
        self.model = model.eval()
        self.layers: int = model.config.get_text_config().num_hidden_layers
        self.memory = PromptMemory(remember_tokens) if remember_tokens else None
        self._base_hash = base_hash
        self._modules = dict(model.named_modules())
        self._targets: dict[str, Target] = {}
        self._inputs: dict[str, Input] = {}
        self._adapters: dict[str, Lora] = {}
        self._active: tuple[str, ...] = ()
        self._groups: list[tuple[tuple[str, int, float], ...]] = []
        self._rows: list[Row | None] = []
        self._scales: list[Tensor] = []
        self._span = Span(0, 0, 0, 0)
        self._laid = 0  # counts how often the adapters were laid side by side, in new tensors

    @property
    def names(self) -> list[str]:
        """The loaded adapters, in the order of loading."""
        return list(self._adapters)

    def __contains__(self, name: object) -> bool:
        return name in self._adapters

    def folder(self, name: str) -> Path:
        """Where a loaded adapter came from."""
        return self._adapters[name].folder

    def load(self, name: str, folder: Path) -> None:
        """Load a peft LoRA folder as ``name``, replacing an adapter of that name.

        ``UserError`` where a file is missing or damaged, where the adapter is more than plain
        LoRA on linear layers, or where it was made for another base.
        """
        lora = read_lora(folder)
        targets = {path: self._target(path, pair, folder) for path, pair in lora.pairs.items()}
        self.unload(name)
        for path, (layer, down, up, scale) in targets.items():
            if path not in self._targets:
                self._targets[path] = self._hook(path, layer)
            self._targets[path].parts[name] = (down, up, scale)
        self._adapters[name] = Lora(lora.folder, lora.digest, {})

    def unload(self, name: str) -> None:
        """Forget an adapter; nothing happens where it is not loaded."""
        self.clear()
        self._adapters.pop(name, None)
        for target in self._targets.values():
            target.parts.pop(name, None)
        self._activate(())

    def row(self, weights: Mapping[str, float | Sequence[float]]) -> Row:
        """A row of coefficients: one number an adapter, or one for each decoder layer.

        1.0 is the adapter as it was trained; .5 and .5 of two adapters is their plain average.
        """
        unknown = [name for name in weights if name not in self._adapters]
        if unknown:
            known = ", ".join(self.names) or "-"
            raise UserError(
                f"The adapter {unknown[0]!r} is not loaded. Loaded: {known}.",
                f"アダプター「{unknown[0]}」は読み込まれていません。読み込み済み: {known}。",
            )
        spread = {name: self._by_layer(name, value) for name, value in sorted(weights.items())}
        return Row(self, tuple((name, value) for name, value in spread.items() if any(value)))

    def fingerprint(self, row: Row | None) -> str:
        """A hash of what a row runs: the base, the adapters' files and their coefficients."""
        weights = row.weights if row else ()
        parts = [(self._adapters[name].digest, list(value)) for name, value in weights]
        text = json.dumps([self._base_hash, sorted(parts)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def select(self, rows: Sequence[Row | None], lengths: Sequence[int] | None = None) -> None:
        """The rows of the coming batches, in order; None is the base.

        With ``lengths`` the batch is one sequence, whose first ``lengths[0]`` tokens run
        ``rows[0]``, the next ``rows[1]``, and so on.
        """
        names = {name for row in rows if row for name, _ in row.weights}
        assert names <= set(self._adapters), f"rows of unloaded adapters: {names}"
        active = tuple(name for name in self._adapters if name in names)
        if active != self._active:
            self._activate(active)
        self._place(list(rows), lengths)

    def keep(self, indices: Sequence[int]) -> None:
        """The batch now consists of these of its rows, in this order (repeats allowed)."""
        rows = [self._rows[i] for i in indices]
        if rows != self._rows:  # beams that change places run the same weights
            self._place(rows, None)

    def placed(self) -> tuple[Hashable, list[Tensor]]:
        """What a recorded pass over the selected rows depends on, and their scales."""
        shapes = tuple(tuple(one.shape) for one in self._scales)
        return (self._laid, self._span, shapes), self._scales

    def place(self, scales: list[Tensor]) -> None:
        """Read the selected rows' scales from these tensors, of the same shapes."""
        self._scales = scales

    def clear(self) -> None:
        """The base for all that follows."""
        self._rows, self._scales = [], []
        for source in self._inputs.values():
            source.forget()

    @contextmanager
    def selected(self, rows: Sequence[Row | None]) -> Iterator[Any]:
        """The model with ``rows`` chosen, for a plain forward pass."""
        self.select(rows)
        try:
            yield self.model
        finally:
            self.clear()

    def _by_layer(self, name: str, value: float | Sequence[float]) -> tuple[float, ...]:
        if isinstance(value, int | float):
            return (float(value),) * self.layers
        if len(value) != self.layers:
            raise UserError(
                f"{len(value)} weights for the adapter {name!r}, but the model has {self.layers} "
                "layers: give one number, or one for each layer.",
                f"アダプター「{name}」の重みが {len(value)} 個ありますが、モデルは {self.layers} 層"
                "です。数を1つ、または層ごとに1つ指定してください。",
            )
        return tuple(map(float, value))

    def _target(
        self, path: str, pair: tuple[Tensor, Tensor, float], folder: Path
    ) -> tuple[int, Tensor, Tensor, float]:
        """The pair on the base's device and in its dtype, after checking that it fits there."""
        down, up, scale = pair
        module, found = self._modules.get(path), _LAYER.search(path)
        if found and int(found[1]) >= self.layers:
            _refuse(folder, "num_hidden_layers", f">= {int(found[1]) + 1}", str(self.layers))
        if module is None or not found:
            _refuse(folder, "target_modules", path, "-")
        if not isinstance(module, nn.Linear):
            _refuse(folder, "target_modules", f"{path} (Linear)", type(module).__name__)
        for what, has, wants in (
            ("in_features", down.shape[1], module.in_features),
            ("out_features", up.shape[0], module.out_features),
        ):
            if has != wants:
                field_name = _FIELDS.get((path.rpartition(".")[2], what), "hidden_size")
                _refuse(folder, f"{field_name} ({path}.{what})", str(has), str(wants))
        place = {"device": module.weight.device, "dtype": self.model.dtype}
        return int(found[1]), down.to(**place), up.to(**place), scale

    def _hook(self, path: str, layer: int) -> Target:
        parent, _, name = path.rpartition(".")
        source = self._inputs.setdefault(f"{parent}.{READS.get(name, name)}", Input(layer))
        target = Target(self._modules[path], source)
        source.targets.append(target)

        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if self._scales and target.up is not None:
                scales = self._scales[source.group][source.layer]
                inner = source.inner(args[0], scales, self._span)[:, slice(*target.columns)]
                part = output.narrow(self._span.axis, self._span.start, self._span.size)
                part.view(-1, part.shape[-1]).addmm_(inner.to(part.dtype), target.up)

        target.module.register_forward_hook(hook)
        return target

    def _activate(self, names: tuple[str, ...]) -> None:
        """Lay the adapters ``names`` side by side in every target."""
        self._active = names
        self._laid += 1
        groups: dict[tuple[tuple[str, int, float], ...], int] = {}
        for source in self._inputs.values():
            key: list[tuple[str, int, float]] = []
            downs: list[Tensor] = []
            for target in source.targets:
                parts = [(name, *target.parts[name]) for name in names if name in target.parts]
                start = sum(rank for _, rank, _ in key)
                key += [(name, down.shape[0], scale) for name, down, _, scale in parts]
                downs += [down for _, down, _, _ in parts]
                target.columns = (start, sum(rank for _, rank, _ in key))
                target.up = torch.cat([up for _, _, up, _ in parts], 1).t() if parts else None
            source.down = torch.cat(downs).t() if downs else None
            source.group = groups.setdefault(tuple(key), len(groups)) if key else -1
        self._groups = list(groups)

    def _place(self, rows: list[Row | None], lengths: Sequence[int] | None) -> None:
        """Work out the scales of the rows, or of the tokens of one sequence."""
        self.clear()
        self._rows = rows
        used = [at for at, row in enumerate(rows) if row and row.weights]
        if not used:
            return
        first, last = used[0], used[-1] + 1
        self._scales = self._batch_scales(rows[first:last])
        self._span = Span(0, first, last - first, len(rows))
        if lengths is not None:
            start, stop = sum(lengths[:first]), sum(lengths[:last])
            counts = on_device(lengths[first:last], self._scales[0].device)
            self._scales = [
                s.repeat_interleave(counts, 1, output_size=stop - start).transpose(1, 2)
                for s in self._scales
            ]
            self._span = Span(1, start, stop - start, sum(lengths))

    def _batch_scales(self, rows: Sequence[Row | None]) -> list[Tensor]:
        """For each group of targets, float32 [decoder layers, rows, 1, R]."""
        device = self.model.get_input_embeddings().weight.device
        zero = (0.0,) * self.layers
        tables = [dict(row.weights) if row else {} for row in rows]
        coefficients = {
            name: torch.tensor([table.get(name, zero) for table in tables]) for name in self._active
        }  # each [rows, layers]
        scales = []
        for group in self._groups:
            columns = [
                (coefficients[name] * scale).t()[:, :, None, None].expand(-1, -1, 1, rank)
                for name, rank, scale in group
            ]
            scales.append(on_device(torch.cat(columns, -1), device))
        return scales


def _refuse(folder: Path, what: str, adapter: str, base: str) -> NoReturn:
    raise UserError(
        f"The adapter {folder} does not fit this base: {what} is {adapter} in the adapter and "
        f"{base} in the base. Use the base it was trained on.",
        f"アダプター {folder} はこのベースに合いません。{what} がアダプターでは {adapter}、"
        f"ベースでは {base} です。学習に使ったベースを選んでください。",
    )
