"""One vocabulary for parents whose tokenizers differ only by added tokens: mergekit's
``tokenizer_source``, worked out from tokenizer.json and config.json before weights are read.

``union`` has the base's tokens and after them what the others have added; ``base`` the base's
alone; a folder its own. A parent that lacks a token gets the row of the only parent that has it,
else the base's, else the mean of those that have it; a token that nobody has is zero. It knows
tokens and rows, nothing of methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.merging.coefficients import METHODS
from charllm.core.merging.headers import text_config
from charllm.core.merging.tokenizer_words import no_holes, only_added, read_words
from charllm.data.errors import Text, UserError
from charllm.data.files import new_folder, read_json, write_json

if TYPE_CHECKING:
    import torch

    from charllm.core.merging.parents import Parent
    from charllm.core.merging.recipe import MergeRecipe
    from charllm.core.merging.sources import Tensors

UNION, BASE = "union", "base"
BLENDED = tuple(method for method in METHODS if method != "passthrough")
_BY_TOKEN = ("embed_tokens.weight", "lm_head.weight")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a merge, and where each parent has them.

    ``ids``: the output's tokens. ``rows[parent][id]``: the row of that token in the parent's
    embeddings, -1 where it has none. ``base``: the parent whose rows stand in first. ``folder``:
    whose tokenizer files the output gets, with ``extra`` tokens after its own.
    """

    source: str
    base: str
    folder: Path
    ids: Mapping[str, int]
    rows: Mapping[str, tuple[int, ...]]
    extra: tuple[Mapping[str, Any], ...] = ()

    @property
    def size(self) -> int:
        return len(self.ids)

    def shape(self, tensor: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The output's shape of a tensor."""
        return (self.size, *shape[1:]) if has_rows(tensor) else shape

    def on(self, recipe: MergeRecipe) -> MergeRecipe:
        """The recipe with the tokenizer's source written down, and the base it depends on."""
        return recipe.model_copy(
            update={"tokenizer_source": self.source, "base_model": recipe.base_model or self.base}
        )

    def aligned(self, parents: Sequence[str], tensors: Sequence[torch.Tensor]) -> list[Any]:
        """Embeddings or heads [rows, …] of these parents, as [size, …] in the output's order."""
        import torch

        where = torch.tensor([self.rows[parent] for parent in parents])
        there = where >= 0
        own = [
            tensor[row.clamp(min=0)] * has.view(-1, *[1] * (tensor.ndim - 1))
            for tensor, row, has in zip(tensors, where, there, strict=True)
        ]
        lacking = (~there.all(dim=0)).nonzero().view(-1)
        had = there[:, lacking]
        count = had.sum(dim=0)
        stand_in = torch.stack([one[lacking].float() for one in own]).sum(dim=0)
        stand_in /= count.clamp(min=1).view(-1, *[1] * (stand_in.ndim - 1))
        if self.base in parents:
            first = parents.index(self.base)
            known = had[first] & (count > 1)
            stand_in[known] = own[first][lacking][known].float()
        for one, has in zip(own, had, strict=True):
            one[lacking[~has]] = stand_in[~has].to(one.dtype)
        return own

    def over(self, sources: Mapping[str, Tensors]) -> dict[str, Tensors]:
        """The parents' tensors with their rows in the output's order."""
        return {name: AlignedTensors(name, sources, self) for name in sources}

    def saved(self, home: Path) -> Path:
        """``home``, with the tokenizer in it."""
        if not home.is_dir():
            with new_folder(home) as work:
                self.write(work)
        return home

    def write(self, work: Path) -> None:
        """The output's tokenizer files into ``work``."""
        import shutil

        for name in TOKENIZER_FILES:
            (work / name).unlink(missing_ok=True)
            if (self.folder / name).is_file():
                shutil.copy(self.folder / name, work / name)
        data = read_json(work / "tokenizer.json")
        kept = [one for one in data.get("added_tokens") or [] if one["content"] in self.ids]
        data["added_tokens"] = [*kept, *self.extra]
        write_json(work / "tokenizer.json", data)

    def told(self) -> Text:
        """What happens to the tokens, for a plan."""
        names = ", ".join(repr(one["content"]) for one in self.extra[:5])
        more = f" ({len(self.extra)}: {names}{', …' if len(self.extra) > 5 else ''})"
        return Text(
            f"The vocabularies differ by added tokens; tokenizer_source {self.source}: the merge "
            f"has the tokens of {self.folder.name}"
            + (f" and what the others add{more}" if self.extra else "")
            + f", {self.size} in all.",
            f"語彙は追加トークンだけが異なります。tokenizer_source は {self.source} で、マージ後は"
            f" {self.folder.name} の語彙"
            + (f"に他の親の追加トークン{more}を加えた" if self.extra else "の")
            + f"計 {self.size} トークンになります。",
        )


@dataclass(frozen=True)
class AlignedTensors:
    """One parent's tensors; those with a row for each token take the others into account."""

    parent: str
    sources: Mapping[str, Tensors]
    vocabulary: Vocabulary

    def get(self, name: str) -> torch.Tensor:
        if not has_rows(name):
            return self.sources[self.parent].get(name)
        names = list(self.sources)
        found = self.vocabulary.aligned(names, [self.sources[one].get(name) for one in names])
        aligned: torch.Tensor = found[names.index(self.parent)]
        return aligned


def has_rows(tensor: str) -> bool:
    """Whether a tensor has a row for each token."""
    return tensor.endswith(_BY_TOKEN)


def plan_vocabulary(source: str, base: str, folders: Mapping[str, Path]) -> Vocabulary:
    """The vocabulary for parents by their names as written, each with its tokenizer's folder.

    ``source``: union, base, a parent's name or an absolute folder. ``base`` is one of the
    parents. ``UserError`` where the tokenizers differ by more than added tokens.
    """
    words = {name: read_words(folder) for name, folder in folders.items()}
    first = words[base]
    for name, other in words.items():
        only_added(first, other, base, name)
    if source in (UNION, BASE):
        out = first
    else:
        out = words[source] if source in words else read_words(_folder(source))
        only_added(first, out, base, source)
        if out.unused:
            raise UserError(
                f"tokenizer_source: {source} has a token without a row ({out.unused[0]!r}); "
                "choose union or base.",
                f"tokenizer_source: {source} には行のないトークン（「{out.unused[0]}」）が"
                "あります。union か base を選んでください。",
            )
    ids = dict(out.ids)
    no_holes(out)
    extra = []
    for other in words.values() if source == UNION else ():
        for one in other.added:
            if one["content"] not in ids:
                ids[one["content"]] = len(ids)
                extra.append({**one, "id": ids[one["content"]]})
    order = sorted(ids, key=lambda token: ids[token])
    rows = {name: tuple(one.ids.get(token, -1) for token in order) for name, one in words.items()}
    return Vocabulary(source, base, out.folder, ids, rows, tuple(extra))


def vocabulary_of(recipe: MergeRecipe, parents: Sequence[Parent]) -> Vocabulary | None:
    """The vocabulary that a recipe asks for; None where it says nothing of it.

    ``UserError`` where it asks for more than a source, or depends on what it does not say.
    """
    source = recipe.vocabulary_source
    if not source:
        return None
    odd = sorted(set(recipe.tokenizer or {}) - {"source"})
    if odd:
        raise UserError(
            f"tokenizer.{odd[0]}: only tokenizer.source is read here; run mergekit-yaml itself.",
            f"tokenizer.{odd[0]}: ここで読めるのは tokenizer.source だけです。mergekit-yaml で"
            "直接実行してください。",
        )
    folders = _folders(parents)
    if recipe.base_model not in folders:
        raise UserError(
            "base_model: tokenizer_source needs one of the parents here, whose tokens come first. "
            "Without it mergekit's own result changes from run to run.",
            "base_model: tokenizer_source を使うには、語彙の基準にする親をここに書いてください。"
            "ないと mergekit の結果が実行のたびに変わります。",
        )
    return plan_vocabulary(source, recipe.base_model, folders)


def searched_vocabulary(
    source: str, parents: Sequence[Parent], base: Parent | None, method: str
) -> Vocabulary | None:
    """The vocabulary of a search over ``parents``; None where all have the same already.

    The base of the differences stands in first where there is one, else the first parent.
    """
    everyone = [*([base] if base else []), *parents]
    if not source or len({parent.base for parent in everyone}) == 1:
        return None
    folders = _folders(everyone)
    found = plan_vocabulary(source, everyone[0].written, folders)
    sizes = {text_config(folder)["vocab_size"] for folder in folders.values()}
    if len(sizes) == 1 and all(row == tuple(range(found.size)) for row in found.rows.values()):
        return None
    if method == "passthrough":
        raise UserError(
            "tokenizer_source: layers in sequence keep each parent's own embeddings; their "
            "vocabularies must be the same.",
            "tokenizer_source: 層を並べる方法（passthrough）では埋め込みを親からそのまま使うため、"
            "語彙が同じでなければなりません。",
        )
    if method not in METHODS and base is None:
        raise UserError(
            f"tokenizer_source: mergekit reads {method} differently where one of the parents is "
            f"named as its base, as tokenizer_source needs. Choose one of {', '.join(BLENDED)}.",
            f"tokenizer_source: 親の1つを基準に指定する必要がありますが、mergekit の {method} では"
            f"意味が変わってしまいます。{'、'.join(BLENDED)} から選んでください。",
        )
    return found


def _folders(parents: Sequence[Parent]) -> dict[str, Path]:
    for parent in parents:
        if parent.recipe is not None and parent.recipe.recipe.vocabulary_source:
            raise UserError(
                f"{parent.written} is a recipe with a tokenizer_source of its own; write it as a "
                "model first.",
                f"{parent.written} は tokenizer_source を含むレシピです。先にモデルとして"
                "書き出してください。",
            )
    return {parent.written: parent.base for parent in parents}


def _folder(source: str) -> Path:
    path = Path(source)
    if not path.is_absolute() or not path.is_dir():
        raise UserError(
            f"tokenizer_source: {source!r} is neither union nor base, nor a parent of the recipe, "
            "nor an absolute path to a folder.",
            f"tokenizer_source: 「{source}」は union・base・レシピの親・絶対パスのフォルダーの"
            "いずれでもありません。",
        )
    return path
