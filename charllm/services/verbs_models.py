"""Verbs about models: exporting what was trained or merged."""

from __future__ import annotations

import argparse
from typing import Any

from charllm.data.config import Paths
from charllm.services.following import run_kind


def export(paths: Paths, options: argparse.Namespace) -> Any:
    """``export SOURCE --to merged|adapter|gguf``: ``{"run", "status", "result"}``."""
    data = {
        "source": options.source,
        "to": options.to,
        "out": options.out,
        "quantization": options.quantization,
        "replace": options.replace,
    }
    return run_kind(paths, "export", data, name=options.out or options.source)
