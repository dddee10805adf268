"""What is to be exported: found, checked to fit together, and readable tensor by tensor.

An adapter on its base, a linear recipe over adapters, or a model's folder. Weights are read only
when a tensor is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.merging.compatibility import check_parents
from charllm.core.merging.headers import read_header, shard_files
from charllm.core.merging.parents import Parent, Plan, plan_merge
from charllm.core.models import model_folder, weights_hash
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.files import read_json

if TYPE_CHECKING:
    import torch

    from charllm.core.merging.lora_files import Lora
    from charllm.core.merging.sources import Tensors

_FLOATS = {"BF16": 2, "F16": 2, "F32": 4}


@dataclass
class Arrived:
    """How much of what an adapter adds is left after rounding to 16 bits, over all weights.

    ``share`` is Σ moved·wanted / Σ wanted²: 1 where every weight moved as far as it should.
    """

    moved: float = 0.0
    wanted: float = 0.0

    def add(self, base: torch.Tensor, exact: torch.Tensor, rounded: torch.Tensor) -> None:
        wanted = exact - base.float()
        self.moved += float(((rounded.float() - base.float()) * wanted).sum())
        self.wanted += float((wanted * wanted).sum())

    @property
    def share(self) -> float | None:
        return round(self.moved / self.wanted, 4) if self.wanted else None


@dataclass
class Source:
    """``base`` gives tokenizer and config; ``adapter`` and ``plan`` say what changes its weights.

    ``card`` is the checkpoint's, {} for a model. ``shapes`` are all tensors' in the base's order,
    by the base's files in ``files``.
    """

    name: str
    base: Path
    files: dict[str, list[str]]
    shapes: dict[str, tuple[int, ...]]
    card: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    adapter: Lora | None = None
    plan: Plan | None = None
    arrived: Arrived = field(default_factory=Arrived)
    _tensors: Tensors | None = None
    _base_tensors: Tensors | None = None

    @property
    def template(self) -> str:
        """The template that the adapter was taught with; "" where none is noted."""
        return str(self.card.get("template", ""))

    @property
    def config(self) -> dict[str, Any]:
        """The base's config.json."""
        found: dict[str, Any] = read_json(self.base / "config.json")
        return found

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor as bfloat16: what the adapter adds is added in float32, rounded once."""
        import torch

        found = self._open().get(name)
        if self.adapter is None or name.removesuffix(".weight") not in self.adapter.pairs:
            return found.to(torch.bfloat16)
        assert self._base_tensors is not None
        rounded = found.to(torch.bfloat16)
        self.arrived.add(self._base_tensors.get(name), found, rounded)
        return rounded

    def _open(self) -> Tensors:
        from charllm.core.merging.sources import Adapted, Blended, ModelFiles

        if self._tensors is None:
            self._base_tensors = ModelFiles(self.base)
            if self.plan is not None:
                self._tensors = Blended(self.plan)
            elif self.adapter is not None:
                self._tensors = Adapted(self._base_tensors, self.adapter)
            else:
                self._tensors = self._base_tensors
        return self._tensors


def find_source(written: str, paths: Paths) -> Source:
    """A checkpoint's name or folder, a recipe's file, or a model (a name, a folder, a hub id).

    ``UserError`` where it is not there, does not fit its base, or the base has no 16-bit weights.
    """
    place = paths.checkpoints / written
    if not (place / "card.json").is_file():
        place = _path(written, paths)
    if place.suffix in (".yaml", ".yml") and place.is_file():
        return _from_recipe(place, {}, place.stem, paths)
    card = _card(place)
    if card.get("kind") == "endpoint":
        raise UserError(
            f"The weights of {written} are kept by the service that trained them, so they cannot "
            "be exported.",
            f"{written} の重みは学習したサービス側にあるため、書き出せません。",
        )
    if (place / "recipe.yaml").is_file():
        return _from_recipe(place / "recipe.yaml", card, place.name, paths)
    if (place / "adapter_config.json").is_file():
        return _from_adapter(place, card, paths)
    folder = model_folder(paths, written)
    return _source(folder.name, folder, folder=folder)


def _path(written: str, paths: Paths) -> Path:
    """A path as it is, or from the project's root."""
    given = Path(written).expanduser()
    return given if given.exists() else paths.root / given


def _card(folder: Path) -> dict[str, Any]:
    file = folder / "card.json"
    found = read_json(file) if file.is_file() else {}
    return found if isinstance(found, dict) else {}


def _from_adapter(folder: Path, card: Mapping[str, Any], paths: Paths) -> Source:
    noted = read_json(folder / "adapter_config.json").get("base_model_name_or_path") or ""
    base = model_folder(paths, str(card.get("base") or noted))
    source = _source(folder.name, base, card=card, folder=folder)
    _check_base(source)
    parent = Parent(folder.name, base, folder)
    source.adapter = check_parents([parent])[folder]
    return source


def _from_recipe(file: Path, card: Mapping[str, Any], name: str, paths: Paths) -> Source:
    plan = plan_merge(file, paths)
    if not plan.rules.in_place or any(parent.recipe is not None for parent in plan.parents):
        raise UserError(
            f"{file} moves layers or has another recipe as its parent. Make a model of it first "
            "(merge … --form model), then export that folder.",
            f"{file} は層を動かすか、別のレシピを親にしています。先にモデルとして作成し"
            "（merge … --form model）、そのフォルダーを書き出してください。",
        )
    cards = [_card(parent.adapter) for parent in plan.parents if parent.adapter is not None]
    templates = {str(known.get("template", "")) for known in cards}
    template = templates.pop() if len(templates) == 1 else ""
    source = _source(name, plan.base, card={"template": template, **card}, folder=file.parent)
    source.plan = plan
    return source


def _source(name: str, base: Path, **more: Any) -> Source:
    """The base's tensors by file; ``UserError`` where they are not plain 16- or 32-bit numbers."""
    stored = read_json(base / "config.json").get("quantization_config")
    method = stored.get("quant_method", "quantised") if isinstance(stored, dict) else ""
    headers = {file.name: read_header(file) for file in shard_files(base)}
    odd = {kind for header in headers.values() for kind, _ in header.values()} - _FLOATS.keys()
    if method or odd:
        what = method or ", ".join(sorted(odd))
        raise UserError(
            f"{base.name} is quantised ({what}). What is added to rounded weights is rounded away "
            "or changes them; use the 16-bit weights of the same model as the base.",
            f"{base.name} は量子化されています（{what}）。丸められた重みに足すと、変化が消えたり"
            "重みが変わったりします。同じモデルの16ビットの重みをベースにしてください。",
        )
    files = {file: list(header) for file, header in headers.items()}
    shapes = {name: shape for header in headers.values() for name, (_, shape) in header.items()}
    return Source(name, base, files, shapes, **more)


def _check_base(source: Source) -> None:
    """The adapter's card names the weights it was trained on: others would give something else."""
    wanted = source.card.get("base_hash")
    if wanted and weights_hash(source.base) != wanted:
        raise UserError(
            f"{source.name} was trained on other weights than those now in {source.base}. Restore "
            "the base, or train again.",
            f"{source.name} は、現在 {source.base} にある重みとは別の重みで学習されています。"
            "ベースを元に戻すか、学習し直してください。",
        )
