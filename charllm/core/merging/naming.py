"""What a candidate of a search is called where people read it."""

from __future__ import annotations

from charllm.core.merging.genome import Candidate
from charllm.data.errors import Text

_BY_ROLE = {
    "uniform": Text("the plain average", "単純平均"),
    "start": Text("the method's own average", "この手法での均等な混合"),
    "mean": Text("the search's mean", "探索の平均"),
}


def name_of(candidate: Candidate) -> Text:
    """Its name in a sentence; the id of a single candidate says generation and number."""
    if candidate.role == "parent" and candidate.parent is not None:
        number = candidate.parent + 1
        return Text(f"parent {number}", f"親 {number}")
    if candidate.role == "global":
        _, parent, part = candidate.id.split("-")
        share = f"{float(part):.0%}"
        return Text(
            f"all layers moved {share} of the way to parent {parent}",
            f"全層を親 {parent} へ {share} 寄せた混合",
        )
    if candidate.role == "shrunk":
        share = f"{float(candidate.id.rpartition('-')[2]):.0%}"
        return Text(
            f"the search's mean, taken {share} of the way from the average",
            f"単純平均から探索の平均へ {share} 進めた混合",
        )
    return _BY_ROLE.get(candidate.role, Text(f"candidate {candidate.id}", f"候補 {candidate.id}"))
