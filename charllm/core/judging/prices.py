"""What a judge's tokens cost, for quotes and budgets.

US dollars per million tokens, as published or reported between September and November 2026; check
the provider's page before a large run, and overrule them in ``JudgeConfig`` where they differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens: prompt, prompt read from the server's cache, answer."""

    tokens_in: float | None
    tokens_cached: float | None
    tokens_out: float | None

    def cost(self, tokens_in: int, tokens_cached: int, tokens_out: int) -> float | None:
        """In US dollars; None where a price is not known. ``tokens_in`` includes the cached."""
        if self.tokens_in is None or self.tokens_out is None:
            return None
        cached = self.tokens_in if self.tokens_cached is None else self.tokens_cached
        fresh = max(0, tokens_in - tokens_cached)
        total = fresh * self.tokens_in + tokens_cached * cached + tokens_out * self.tokens_out
        return total / 1e6


FREE = Price(0.0, 0.0, 0.0)
UNKNOWN = Price(None, None, None)
KNOWN: dict[str, Price] = {
    "gpt-4o-mini": Price(0.15, 0.075, 0.60),
    "gpt-6-luna": Price(0.10, 0.01, 0.50),
    "gpt-5.6-luna": Price(0.20, 0.02, 1.20),
    "gpt-5.4-mini": Price(0.75, 0.075, 4.50),
}
WITHDRAWN = {
    "gpt-4o-mini": "2027-01-14",
    "gpt-4o": "2027-01-14",
    "gpt-4.1": "2027-01-14",
    "gpt-4.1-mini": "2027-01-14",
}
"""When OpenAI withdraws a model (its SDK's notes, November 2026)."""


def price_of(model: str, base_url: str) -> Price:
    """A server on this machine costs nothing; a dated snapshot costs what its model does.

    ``base_url`` is resolved: "" means OpenAI itself.
    """
    if base_url:
        return FREE if _on_this_machine(base_url) else UNKNOWN
    names = sorted(KNOWN, key=len, reverse=True)
    return next(
        (KNOWN[name] for name in names if model == name or model.startswith(f"{name}-2")), UNKNOWN
    )


def tokens_about(text: str) -> int:
    """An estimate: a token for each Japanese sign, one for four signs of other writing."""
    wide = sum(ord(sign) > 0x2E7F for sign in text)
    return wide + (len(text) - wide) // 4 + 4


def _on_this_machine(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
