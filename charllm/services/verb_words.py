"""What a verb of the command line is, and the arguments that several of them take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from charllm.data.config import Paths
from charllm.data.errors import Text


class Argument(NamedTuple):
    """One argument, as argparse takes it."""

    names: tuple[str, ...]
    options: dict[str, Any]


def arg(*names: str, **options: Any) -> Argument:
    return Argument(names, options)


@dataclass(frozen=True)
class Verb:
    """``name`` is one word, or two for a verb of a group (``profile import``)."""

    name: str
    help: Text
    arguments: tuple[Argument, ...]
    handler: Callable[[Paths, argparse.Namespace], Any]
    hidden: bool = False


SLUG = arg("slug", metavar="SLUG")
EMBEDDER = (
    arg("--embedder", default="e5", choices=("e5", "openai", "sentence-transformers")),
    arg("--embedding-model", default="", help="for openai and sentence-transformers"),
    arg("--base-url", default="", help="an endpoint of OpenAI's protocol"),
)

DATASET = arg("name", metavar="NAME")
PROFILE = arg("--profile", required=True, metavar="SLUG")
JUDGE = (
    arg("--judge", default="", metavar="FILE", help="a YAML file with the judge's settings"),
    arg("--rubric", default="", help="a name in rubrics/"),
    arg("--model", default="", help="the judge's model"),
    arg("--base-url", default="", help="an endpoint of OpenAI's protocol"),
    arg("--local", action="store_true", help="--model is a model of this machine"),
    arg("--samples", type=int, default=0),
)

RECIPE = "a YAML file, or a name in recipes/"
VALUES = "over the file's, in YAML; parents='[/a, /b]', search.seed=1"
FORKED = "over the run's, in YAML; search.seed=5, search.max_candidates=200"
