"""One tensor of a merge from its sources, as its rule says: the numbers that mergekit computes,
in float32 with one rounding at the end.

This is the reference, for files; the engines do the same over whole models (``kernels``) and are
tested against it. It works through large tensors in pieces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from charllm.core.merging.kernels import mixed
from charllm.core.merging.parameters import TensorRule, divided
from charllm.data.errors import UserError

PIECE = 2**22
SLERP_LIMIT = 0.9995
"""Above this cosine two tensors count as parallel, and slerp is a plain mixture (mergekit's)."""


def blend_tensor(
    rule: TensorRule,
    sources: Sequence[Tensor],
    dtype: torch.dtype,
    draws: torch.Generator | None = None,
) -> Tensor:
    """The output tensor; ``sources`` in the order of ``rule.entries``, all of one shape.

    ``draws`` gives DARE's uniform numbers, one an element and source, in that order.
    """
    first = sources[0]
    if not first.is_floating_point():
        return first.clone()
    out = torch.empty(first.shape, dtype=dtype)
    flat = [source.contiguous().view(-1) for source in sources]
    if rule.method in ("linear", "slerp", "passthrough"):
        _write_sum(out.view(-1), flat, *_factors(rule, flat))
    else:
        _write_deltas(out.view(-1), rule, flat, draws)
    return out


def _factors(rule: TensorRule, flat: Sequence[Tensor]) -> tuple[Sequence[float], float]:
    """A factor for each source, and what their sum is divided by."""
    if rule.method == "passthrough":
        if len(flat) != 1:
            raise UserError(
                "passthrough takes one source for each slice.",
                "passthrough では、slice ごとに親を1つだけ指定してください。",
            )
        return [1.0 if rule.entries[0].scale is None else rule.entries[0].scale], 1.0
    if rule.method == "linear":
        weights = [entry.weight for entry in rule.entries]
        if rule.normalize:
            divided(weights, rule.entries[0].tensor)  # refuses a sum of zero
        return weights, sum(weights) if rule.normalize else 1.0
    if rule.base is None or len(flat) != 2:
        raise UserError(
            "slerp needs exactly two models, one of them named as base_model.",
            "slerp には2つのモデルが必要で、その片方を base_model に指定します。",
        )
    pair = slerp_factors(rule.t, cosine(flat[0], flat[1]))
    return pair if rule.base == 0 else pair[::-1], 1.0


def cosine(a: Tensor, b: Tensor) -> float:
    """The cosine of the angle between two flat tensors in [-1, 1], 0 where one is zero.

    Summed in float64: over 168 million elements a float32 sum was seen to give 1.03.
    """
    dots = torch.zeros(3, dtype=torch.float64, device=a.device)
    for start in range(0, a.numel(), PIECE):
        x, y = (v[start : start + PIECE].double() for v in (a, b))
        dots += torch.stack((x @ y, x @ x, y @ y))
    both, one, two = dots.tolist()
    size = math.sqrt(one) * math.sqrt(two)
    return max(-1.0, min(1.0, both / size)) if size > 0 else 0.0


def slerp_factors(t: float, cos: float) -> tuple[float, float]:
    """What slerp multiplies its two tensors with; Shoemake's formula, SIGGRAPH 1985."""
    if abs(cos) > SLERP_LIMIT:
        return 1 - t, t
    angle = math.acos(cos)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def _write_sum(
    out: Tensor, flat: Sequence[Tensor], factors: Sequence[float], divisor: float
) -> None:
    for start in range(0, out.numel(), PIECE):
        part = slice(start, start + PIECE)
        total = torch.zeros_like(out[part], dtype=torch.float32)
        for source, factor in zip(flat, factors, strict=True):
            total.add_(source[part].float(), alpha=factor)
        out[part] = total.div_(divisor) if divisor != 1 else total


def _write_deltas(
    out: Tensor, rule: TensorRule, flat: Sequence[Tensor], draws: torch.Generator | None
) -> None:
    if rule.base is None:
        raise UserError(
            f"{rule.method} needs a base_model, to which the differences are added.",
            f"{rule.method} には、差分を足す先の base_model が必要です。",
        )
    base = flat[rule.base]
    others = [source for k, source in enumerate(flat) if k != rule.base]
    masks = [_mask(rule, k, source, base, draws) for k, source in enumerate(others)]
    scales = [_rescale(rule, x, base, m) for x, m in zip(others, masks, strict=True)]
    weights = [torch.tensor(entry.weight) for entry in rule.tuned]
    agreeing = rule.method in ("ties", "dare_ties")
    for start in range(0, out.numel(), PIECE):
        part = slice(start, start + PIECE)
        origin = base[part].float()
        deltas = []
        for source, mask, scale in zip(others, masks, scales, strict=True):
            delta = source[part].float() - origin
            if mask is not None:
                delta = delta * mask[part] * scale
            deltas.append(delta)
        out[part] = origin + rule.lam * mixed(deltas, weights, rule.normalize, agreeing)


def _mask(
    rule: TensorRule, k: int, source: Tensor, base: Tensor, draws: torch.Generator | None
) -> Tensor | None:
    density = rule.tuned[k].density
    if rule.method == "task_arithmetic" or density >= 1:
        return None
    if rule.method == "ties":
        return largest(source, base, density)
    assert draws is not None, "DARE needs its random numbers"
    kept = torch.empty(base.shape, dtype=torch.bool)
    for start in range(0, base.numel(), PIECE):
        part = slice(start, start + PIECE)
        kept[part] = torch.rand(kept[part].shape, generator=draws) < density
    return kept


def largest(source: Tensor, base: Tensor, density: float) -> Tensor:
    """Which deltas are among the ``density`` · n largest (bool, like ``source``).

    Of equal ones at the border the first are taken; which of them mergekit takes is not defined.
    """
    if density <= 0 or source.numel() == 0:
        return torch.zeros(source.shape, dtype=torch.bool)
    wanted = max(1, int(density * source.numel()))
    size = (source.float() - base.float()).abs()
    least = size.kthvalue(size.numel() - wanted + 1).values
    kept = size > least
    border = (size == least).nonzero().view(-1)
    kept[border[: wanted - int(kept.sum())]] = True
    return kept


def _rescale(rule: TensorRule, source: Tensor, base: Tensor, mask: Tensor | None) -> float:
    """What keeps a thinned delta's L1 norm."""
    if mask is None or not rule.rescale:
        return 1.0
    whole = kept = 0.0
    for start in range(0, base.numel(), PIECE):
        part = slice(start, start + PIECE)
        size = (source[part].float() - base[part].float()).abs().double()
        whole += float(size.sum())
        kept += float(size[mask[part]].sum())
    return whole / kept if whole >= 1e-7 and kept >= 1e-7 else 1.0
