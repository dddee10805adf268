"""The command line: ``python -m charllm VERB …``. How it is read, and how a verb ends.

0: it did what was asked; 2: the user's mistake, one clear line on stderr; 1: ours. With ``--json``
stdout holds one JSON value and nothing else; progress goes to stderr. Which verbs there are is in
``verb_table.py``; nothing heavy is imported before a verb needs it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from charllm.data.config import Paths
from charllm.data.errors import Text, UserError, current_language
from charllm.services.argument_words import in_japanese
from charllm.services.following import Ended
from charllm.services.redaction import redact
from charllm.services.verb_table import GROUPS, VERBS

OK, OURS, USERS = 0, 1, 2


ABOUT = Text(
    "Build, compare and judge role-play character language models.",
    "キャラクターを演じる言語モデルを作り、比べ、採点します。",
)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other mistake is said."""

    def error(self, message: str) -> NoReturn:
        known = in_japanese(message)
        raise UserError(
            f"{message}. See `{self.prog} --help`.",
            f"引数が正しくありません{known and f': {known}'}。"
            f"`{self.prog} --help` を見てください。",
        )


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs in ``VERBS``, helped in the current language."""
    language = current_language()
    parser = Parser(prog="charllm", description=ABOUT.in_(language))
    top = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    groups: dict[str, Any] = {}
    for verb in VERBS:
        group, _, word = verb.name.rpartition(" ")
        where = top
        if group:
            if group not in groups:
                help_ = GROUPS[group].in_(language)
                made = top.add_parser(group, help=help_, description=help_)
                groups[group] = made.add_subparsers(dest="word", metavar="VERB", required=True)
            where = groups[group]
        help_ = verb.help.in_(language)
        shown: dict[str, Any] = {} if verb.hidden else {"help": help_}
        one = where.add_parser(word, description=help_, **shown)
        for argument in verb.arguments:
            one.add_argument(*argument.names, **argument.options)
        one.add_argument("--json", action="store_true", help="print JSON")
        one.set_defaults(handler=verb.handler)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the process' exit status."""
    try:
        options = build_parser().parse_args(arguments)
        outcome = options.handler(Paths.default(), options)
    except UserError as error:
        return _complain(error)
    except KeyboardInterrupt:
        return 130
    except Exception:  # the last place before the user: ours, with all that helps to mend it
        print(redact(traceback.format_exc()), file=sys.stderr, end="")
        return OURS
    value, status = outcome if isinstance(outcome, Ended) else (outcome, OK)
    try:
        _print(value, options.json)
        sys.stdout.flush()
    except UserError as error:  # a wrong row, found while rows are printed
        return _complain(error)
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _complain(error: UserError) -> int:
    line = " ".join(error.in_(current_language()).split())
    print(f"charllm: {redact(line)}", file=sys.stderr)
    return USERS


def _print(value: Any, as_json: bool) -> None:
    if value is None:
        return
    if isinstance(value, Iterator):  # rows as they come: one JSON value a line
        for row in value:
            _print(row if as_json else [row], as_json)
        return
    if as_json:
        print(json.dumps(value, ensure_ascii=False))
        return
    for row in value if isinstance(value, list) else [value]:
        if not isinstance(row, dict):
            print(row)
        elif isinstance(value, list):
            print("  ".join(_cell(item) for item in row.values()))
        else:
            print("\n".join(f"{key}: {_cell(item)}" for key, item in row.items()))


def _cell(item: Any) -> str:
    if isinstance(item, float):
        return f"{item:.3f}"
    return item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
