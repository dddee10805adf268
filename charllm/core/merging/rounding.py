"""How far rounding let the weights move: the effective share beside the one asked for.

16-bit weights hold about three digits. Where two parents differ by less than that, a mixture
rounds back to the nearer parent: with a difference of .3 % of the weights, .37 in bfloat16 acts
like .20. Measured on a sample of each group, as the part of the asked displacement that arrived.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from charllm.core.merging.coefficients import Coefficients

_SAMPLED = 64  # blocks a group: 65,536 weights


class Rounding:
    """``live`` and ``samples`` by group: the live buffers, and the sampled blocks of the parents
    (the base first, where there is one)."""

    def __init__(
        self,
        groups: Sequence[str],
        live: Mapping[str, Tensor],
        samples: dict[str, list[Tensor]],
    ) -> None:
        self._groups = groups
        self._live = live
        self.samples = samples

    @staticmethod
    def rows(blocks: int) -> slice:
        """The sampled blocks of so many, evenly spread."""
        return slice(0, None, max(1, blocks // _SAMPLED))

    def measure(
        self,
        genome: Coefficients,
        parents: Sequence[str],
        exact: Mapping[str, Tensor],
        from_base: bool,
    ) -> tuple[dict[str, float], dict[str, float]]:
        """``(asked, effective)`` by group, see ``engines.Effect``; ``exact``: the sampled blocks
        before rounding."""
        arrived = []
        for group in self._groups:
            origin = self.samples[group][self._origin(genome, group, from_base)].float()
            wanted = exact[group] - origin
            live = self._live[group][self.rows(self._live[group].shape[0])].float()
            moved = ((live - origin) * wanted).sum()
            arrived.append(torch.stack((moved, (wanted * wanted).sum())))
        parts = torch.stack(arrived).tolist()
        asked, effective = {}, {}
        for group, (moved, wanted) in zip(self._groups, parts, strict=True):
            part = moved / wanted if wanted > 0 else 1.0
            asked[group], effective[group] = self._shares(genome, group, part, from_base)
        return asked, effective

    def _origin(self, genome: Coefficients, group: str, from_base: bool) -> int:
        weights = genome.weights[group]
        return 0 if from_base else max(range(len(weights)), key=weights.__getitem__)

    def _shares(
        self, genome: Coefficients, group: str, part: float, from_base: bool
    ) -> tuple[float, float]:
        if from_base:
            return 1.0, part
        shares = genome.shares(group)
        if len(shares) == 2:
            t = shares[1]
            return t, t * part if shares[0] >= shares[1] else 1 - (1 - t) * part
        away = 1 - max(shares)
        return away, away * part
