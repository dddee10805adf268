"""What a dense engine works out once about its parents, so that a candidate is a single pass:
angles for slerp, thresholds for TIES, draws and norms for DARE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from charllm.core.merging.coefficients import Coefficients
from charllm.core.merging.layout import Layout, Place, Store, view
from charllm.core.merging.methods import cosine, slerp_factors
from charllm.core.merging.written import DRAW_STEPS, TRIM_STEPS

_PIECE = 2**24
_BITS = 12  # dropped of a float32's 31: bins of 1/2048 of the value


class Tables:
    """Made lazily, by method; numbers come as float32 [parents, blocks of a group, 1]."""

    def __init__(
        self, layout: Layout, stores: Mapping[str, Store], parents: Sequence[str], base: str
    ) -> None:
        self._layout = layout
        self._stores = stores
        self._parents = parents
        self._base = base
        self._device = next(iter(stores.values())).device
        self._counts = {
            group: torch.tensor([p.blocks for p in layout.within(group)]).to(self._device)
            for group in layout.groups
        }
        self._cosines: dict[str, list[float]] = {}
        self._least: dict[str, Tensor] = {}
        self._norms: dict[str, Tensor] = {}
        self._draws: dict[str, list[Tensor]] = {}
        self._seed: int | None = None

    def prepare(self, genome: Coefficients) -> None:
        """Make what the method needs, where it is not there yet."""
        if genome.method == "slerp" and not self._cosines:
            self._cosines = {g: self._angles(g) for g in self._layout.groups}
        if genome.method == "ties" and not self._least:
            self._least = {g: self._thresholds(g) for g in self._layout.groups}
        seed = round(genome.number("seed", 0))
        if genome.method.startswith("dare") and self._seed != seed:
            self._draw(seed)
            self._norms = {g: self._kept_norms(g) for g in self._layout.groups}
            self._seed = seed

    def slerp(self, group: str, t: float) -> Tensor:
        """The two factors of every block."""
        factors = [slerp_factors(t, cos) for cos in self._cosines[group]]
        return self._by_block(group, torch.tensor(factors).t())

    def least(self, group: str, densities: Sequence[float]) -> Tensor:
        """The smallest delta of each block's tensor that is kept at these densities."""
        table = self._least[group]
        steps = [round(density * TRIM_STEPS) for density in densities]
        return self._by_block(group, torch.stack([table[k, :, s] for k, s in enumerate(steps)]))

    def kept(self, group: str, densities: Sequence[float]) -> dict[str, tuple[int, ...]]:
        """How many deltas of each tensor and parent TIES keeps at these densities.

        A few more than asked for where several are exactly as large as the smallest kept one.
        """
        table = self._least[group]
        steps = [round(density * TRIM_STEPS) for density in densities]
        return {
            place.name: tuple(
                self._count(k, place, table[k, number, step]) for k, step in enumerate(steps)
            )
            for number, place in enumerate(self._layout.within(group))
        }

    def _count(self, k: int, place: Place, least: Tensor) -> int:
        base, tuned = self._pair(k, place)
        total = 0
        for start in range(0, place.size, _PIECE):
            part = slice(start, start + _PIECE)
            total += int(((tuned[part].float() - base[part].float()).abs() >= least).sum())
        return total

    def thinning(self, group: str, densities: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Below which draw a delta is kept [parents, 1, 1], and what it is then multiplied by."""
        steps = [round(density * DRAW_STEPS) for density in densities]
        norms = self._norms[group]
        kept = torch.stack([norms[k, :, s] for k, s in enumerate(steps)])
        whole = norms[:, :, -1]
        scale = torch.where((whole < 1e-7) | (kept < 1e-7), 1.0, whole / kept.clamp(min=1e-30))
        below = torch.tensor(steps, dtype=torch.float32, device=self._device).view(-1, 1, 1)
        return below, self._by_block(group, scale.float())

    def draws(self, group: str) -> list[Tensor]:
        """A byte for each weight of each parent."""
        return self._draws[group]

    def _by_block(self, group: str, numbers: Tensor) -> Tensor:
        """[parents, tensors] → [parents, blocks, 1]."""
        spread = numbers.to(self._device, torch.float32)
        return spread.repeat_interleave(self._counts[group], 1)[..., None].contiguous()

    def _angles(self, group: str) -> list[float]:
        one, two = (self._stores[name] for name in self._parents)
        return [cosine(one.tensor(p), two.tensor(p)) for p in self._layout.within(group)]

    def _thresholds(self, group: str) -> Tensor:
        """[parents, tensors, TRIM_STEPS + 1]; step 0 is never asked for."""
        return torch.stack(
            [
                torch.stack([self._threshold(k, place) for place in self._layout.within(group)])
                for k in range(len(self._parents))
            ]
        )

    def _threshold(self, k: int, place: Place) -> Tensor:
        """For every density the size that the last kept delta has, to within 1/2048.

        Counted over the leading bits of the sizes, which sort like the sizes themselves: no sort
        of 168 million elements. Differences of 16-bit weights have few bits; these are exact.
        """
        counts = torch.zeros(2 ** (31 - _BITS), dtype=torch.int64, device=self._device)
        base, tuned = self._pair(k, place)
        for start in range(0, place.size, _PIECE):
            part = slice(start, start + _PIECE)
            size = (tuned[part].float() - base[part].float()).abs()
            bins = size.view(torch.int32) >> _BITS
            counts += torch.bincount(bins, minlength=counts.numel())
        above = counts.flip(0).cumsum(0)  # how many are in the largest bin, the two largest …
        steps = torch.arange(TRIM_STEPS + 1, device=self._device, dtype=torch.int64)
        wanted = (steps * place.size // TRIM_STEPS).clamp(min=1)
        bins = counts.numel() - 1 - torch.searchsorted(above, wanted)
        least = (bins.to(torch.int32) << _BITS).view(torch.float32)
        least[-1] = 0.0
        return least

    def _pair(self, k: int, place: Place) -> tuple[Tensor, Tensor]:
        parent = self._stores[self._parents[k]]
        return self._stores[self._base].tensor(place), parent.tensor(place)

    def _draw(self, seed: int) -> None:
        """mergekit's uniform numbers in its order (see ``sources.Draws``), as bytes.

        u < n/256 is the same as ⌊256·u⌋ < n. They stay on the device where the parents do.
        """
        layout = self._layout
        stores = list(self._stores.values())
        resident = stores[0].where == "device"
        place = self._device if resident else torch.device("cpu")
        self._draws = {
            group: [
                layout.buffer(group, torch.uint8, place, pinned=stores[0].where == "pinned")
                for _ in self._parents
            ]
            for group in layout.groups
        }
        generator = torch.Generator().manual_seed(seed)
        for at in sorted(layout.places.values(), key=lambda p: p.name):
            for k in range(len(self._parents)):
                target = view(self._draws[at.group][k], at).view(-1)
                for start in range(0, at.size, _PIECE):
                    part = target[start : start + _PIECE]
                    drawn = torch.rand(part.numel(), generator=generator).to(part.device)
                    part.copy_(drawn.mul_(DRAW_STEPS).to(torch.uint8))

    def _kept_norms(self, group: str) -> Tensor:
        """[parents, tensors, DRAW_STEPS + 1]: the L1 norm of what is kept below each draw."""
        rows = []
        for k in range(len(self._parents)):
            rows.append(
                torch.stack([self._kept_norm(k, group, p) for p in self._layout.within(group)])
            )
        return torch.stack(rows)

    def _kept_norm(self, k: int, group: str, place: Place) -> Tensor:
        base, tuned = self._pair(k, place)
        draws = view(self._draws[group][k], place).view(-1)
        by_draw = torch.zeros(DRAW_STEPS, dtype=torch.float64, device=self._device)
        for start in range(0, place.size, _PIECE):
            part = slice(start, start + _PIECE)
            size = (tuned[part].float() - base[part].float()).abs().double()
            drawn = draws[part].to(self._device).int()
            by_draw += torch.bincount(drawn, weights=size, minlength=DRAW_STEPS)
        return torch.cat((by_draw.new_zeros(1), by_draw.cumsum(0)))
