"""What argparse objects to, in Japanese; it has English words only.

``cli.Parser`` asks. The patterns are argparse's own sentences of Python 3.11 to 3.14; one that is
not known stays out of a Japanese message, which then only points to the help.
"""

from __future__ import annotations

import re

_KINDS = {"int": "整数", "float": "数値"}

_JA = (
    (r"the following arguments are required: (.+)", "{0} を指定してください"),
    (r"unrecognized arguments: (.+)", "{0} という引数はありません"),
    (r"one of the arguments (.+) is required", "{0} のいずれかを指定してください"),
    (
        r"argument (.+?): invalid choice: (.+?)(?:, maybe you meant .+?\?)? \(choose from (.+)\)",
        "{0} に {1} は指定できません。{2} のいずれかにしてください",
    ),
    (r"argument (.+?): invalid (\w+) value: (.+)", "{0} には{1}を指定してください（{2}）"),
    (r"argument (.+?): expected one argument", "{0} に値を 1 つ付けてください"),
    (r"argument (.+?): expected at least one argument", "{0} に値を 1 つ以上付けてください"),
    (r"argument (.+?): expected at most one argument", "{0} に付けられる値は 1 つまでです"),
    (r"argument (.+?): expected (\d+) arguments", "{0} に値を {1} 個付けてください"),
    (r"argument (.+?): not allowed with argument (.+)", "{0} は {1} と一緒に使えません"),
    (r"argument (.+?): ignored explicit argument (.+)", "{0} に値 {1} は付けられません"),
    (r"ambiguous option: (.+?) could match (.+)", "{0} は {1} のどれか区別できません"),
)


def in_japanese(message: str) -> str:
    """argparse's sentence in Japanese, "" where it is not known."""
    for pattern, words in _JA:
        found = re.fullmatch(pattern, message, re.DOTALL)
        if found:
            return words.format(*(_KINDS.get(part, part) for part in found.groups()))
    return ""
