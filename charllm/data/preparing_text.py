"""What preparation does to the text of one message. Pure functions from text to text."""

from __future__ import annotations

import re
import unicodedata

from charllm.data.text import script_shares

_WIDE = re.compile(r"[Ａ-Ｚａ-ｚ０-９]+")
_HALF_KANA = re.compile(r"[\u3041-\u30ff]?[\uff61-\uff9f]+")
_KANA = re.compile(r"[\u3041-\u30ff]")
_SPLIT_KANA = re.compile(r"[\u3041-\u30ff][\u3099\u309a]")
_INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad]")
_BLANKS = re.compile(r"[ \t\u00a0]+")
_MANY_LINES = re.compile(r"\n{3,}")
_LAUGHTER = re.compile(r"(?<=[^\x00-\x7f])[wｗ]+$")
_ADDRESS = re.compile(r"(?:https?://|www\.)\S+$|\S+@\S+\.\w+$")


def lacks_end_mark(text: str) -> bool:
    """Whether ``text`` ends in a letter or digit, where a sentence would end in a mark.

    。！？…」♪〜, brackets, emoji and laughter (ｗ) are ends; so is the end of an address.
    """
    end = text.rstrip()
    if not end or unicodedata.category(end[-1])[0] not in "LN":
        return False
    return not (_LAUGHTER.search(end) or _ADDRESS.search(end))


def with_end_mark(text: str) -> str:
    """``text`` with 。 (Japanese) or . (Latin letters) where it has no end mark.

    Text with kana is Japanese, however many Latin names it has. Text without letters of either
    script stays as it is: nothing tells which mark it wants.
    """
    if not lacks_end_mark(text):
        return text
    shares = script_shares(text)
    if not any(shares.values()):
        return text
    japanese = _KANA.search(text) or shares["ja"] >= shares["en"]
    return text.rstrip() + ("。" if japanese else ".")


def normal_widths(text: str) -> str:
    """Ａ-Ｚ, ａ-ｚ and ０-９ become narrow, ｱｲｳ and ｡｢｣､･ wide; か + ゙ becomes が.

    All other signs stay, above all the wide ！？～（）：％ of Japanese writing, and ①, ㈱ or Ⅲ.
    """
    text = _WIDE.sub(lambda m: unicodedata.normalize("NFKC", m.group()), text)
    text = _HALF_KANA.sub(lambda m: _wide_kana(m.group()), text)
    return _SPLIT_KANA.sub(lambda m: unicodedata.normalize("NFC", m.group()), text)


def _wide_kana(run: str) -> str:
    whole = unicodedata.normalize("NFKC", run)
    # A voicing mark that no kana can take stays a sign of its own: あ゛.
    return whole.replace("\u3099", "゛").replace("\u309a", "゜")


def stripped(text: str) -> str:
    """Without outer blanks, ends of lines, invisible signs and more than one blank in a row.

    One wide space stays where it stands: after ！ and ？ it is Japanese writing. At most one empty
    line in a row stays. The joiner of emoji (U+200D) is no blank.
    """
    text = _INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    lines = [_BLANKS.sub(" ", line).strip() for line in text.split("\n")]
    return _MANY_LINES.sub("\n\n", "\n".join(lines)).strip()
