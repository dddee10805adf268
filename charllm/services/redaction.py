"""Keeps keys and passwords out of everything that is written.

A secret is the value of an environment variable whose name says so, or text in the form of a
well-known kind of key. It does not know where texts go.
"""

from __future__ import annotations

import os
import re
from typing import IO, Any

HIDDEN = "[hidden]"
_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_FORM = re.compile(
    r"\b(?:sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,})"
    r"|(?<=Bearer )[A-Za-z0-9._~+/-]{8,}=*"
)
MIN_LENGTH = 8
"""Shorter values are words such as "none" that servers without keys are given."""


def secrets() -> list[str]:
    """The values that must not be written, longest first."""
    found = {
        value.strip()
        for name, value in os.environ.items()
        if _NAME.search(name) and len(value.strip()) >= MIN_LENGTH
    }
    return sorted(found, key=len, reverse=True)


def redact(text: str) -> str:
    """``text`` with every secret replaced by ``HIDDEN``."""
    for secret in secrets():
        text = text.replace(secret, HIDDEN)
    return _FORM.sub(HIDDEN, text)


def has_secret(text: str) -> bool:
    return redact(text) != text


class RedactingStream:
    """A text stream in front of another one; lines leave it redacted, as soon as they end."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._pending = ""

    def write(self, text: str) -> int:
        # A secret may arrive in pieces, so nothing leaves before its line is complete. A progress
        # bar ends its "lines" in a carriage return.
        self._pending += text
        cut = max(self._pending.rfind("\n"), self._pending.rfind("\r")) + 1
        if cut:
            whole, self._pending = self._pending[:cut], self._pending[cut:]
            self._stream.write(redact(whole))
            self._stream.flush()
        return len(text)

    def finish(self) -> None:
        """Write what is left without a line end."""
        self._stream.write(redact(self._pending))
        self._pending = ""
        self._stream.flush()

    def flush(self) -> None:
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
