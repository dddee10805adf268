"""The parts' values in words, both languages. It does not know how a value comes about."""

from __future__ import annotations

from charllm.data.errors import Text


def style_words(name: str, value: float, marks: list[str]) -> Text:
    en, ja = next(
        words
        for least, *words in (
            (0.75, "strongly in character", f"{name}らしい口調です"),
            (0.5, "mostly in character", f"おおむね{name}らしい口調です"),
            (0.25, "only partly in character", f"{name}らしさが少し足りない口調です"),
            (0.0, f"does not sound like {name}", f"{name}らしい口調ではありません"),
        )
        if value >= least
    )
    # Marks are evidence for the character: with a low score there is none worth quoting.
    if not marks or value < 0.25:
        return Text(en, ja)
    return Text(f"{en} ({', '.join(marks)})", f"{ja}（{'、'.join(marks)}）")


def relevance_words(value: float) -> Text:
    if value >= 0.6:
        return Text("answers the question", "質問に答えています")
    if value >= 0.2:
        return Text("unclear whether it answers the question", "質問への答えかどうか微妙です")
    return Text("seems off the point", "質問とずれているようです")


def length_words(value: float, said: int, asked: int) -> Text:
    if value >= 0.7:
        return Text(f"a fitting length (about {asked})", f"ちょうどよい長さです（目安{asked}文字）")
    if said > asked:
        return Text(f"rather long (about {asked})", f"長めです（目安{asked}文字）")
    return Text(f"rather short (about {asked})", f"短めです（目安{asked}文字）")
