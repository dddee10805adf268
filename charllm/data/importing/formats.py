"""The formats that are known. A further format is a further entry of ``FORMATS``."""

from __future__ import annotations

from charllm.data.errors import Text
from charllm.data.importing import chat_formats as chats
from charllm.data.importing import scripts
from charllm.data.importing.chatml import chatml, chatml_rows, fits_chatml
from charllm.data.importing.table_formats import fits_table, table
from charllm.data.importing.talks import Format, has
from charllm.data.importing.tavern import fits_tavern, tavern, tavern_rows

FORMATS: dict[str, Format] = {
    "charllm": Format(
        Text("charllm", "charllm"),
        ("json",),
        chats.fits_own,
        chats.own,
        why=Text("rows have id, messages and source", "id・messages・source があります"),
    ),
    "openai": Format(
        Text("OpenAI messages", "OpenAI の messages"),
        ("json",),
        lambda row: 2 if has("messages")(row) else 0,
        chats.openai,
        why=Text("rows have messages with roles", "messages（role と content）があります"),
    ),
    "openai-completion": Format(
        Text("OpenAI completion (prompt ->)", "OpenAI の旧形式（prompt ->）"),
        ("json",),
        chats.fits_completion,
        chats.completion,
        why=Text("prompts end in ->", "prompt が「->」で終わっています"),
    ),
    "trl": Format(
        Text("TRL prompt and completion, or preference", "TRL の prompt/completion・選好"),
        ("json",),
        chats.fits_trl,
        chats.trl,
        why=Text(
            "rows have prompt and completion or chosen",
            "prompt と completion、または chosen があります",
        ),
    ),
    "sharegpt": Format(
        Text("ShareGPT", "ShareGPT"),
        ("json",),
        chats.fits_sharegpt,
        chats.sharegpt,
        why=Text(
            "rows have conversations with from and value",
            "conversations（from と value）があります",
        ),
    ),
    "alpaca": Format(
        Text("Alpaca", "Alpaca"),
        ("json",),
        has("instruction", "output"),
        chats.alpaca,
        why=Text("rows have instruction and output", "instruction と output があります"),
    ),
    "chatml": Format(
        Text("ChatML text", "ChatML"),
        ("json", "text"),
        fits_chatml,
        chatml,
        why=Text("the text has <|im_start|> marks", "<|im_start|> の印があります"),
        rows=chatml_rows,
    ),
    "haruhi-chat": Format(
        Text("ChatHaruhi chats", "ChatHaruhi の会話"),
        ("json",),
        scripts.fits_haruhi_chat,
        scripts.haruhi_chat,
        why=Text("rows have query and response", "query と response があります"),
    ),
    "haruhi-role": Format(
        Text("ChatHaruhi role file", "ChatHaruhi のロールファイル"),
        ("json",),
        scripts.fits_role,
        scripts.role,
        why=Text("rows have embeddings and a scene", "埋め込みと場面のテキストがあります"),
        guess=scripts.guess_role,
    ),
    "haruhi-novel": Format(
        Text("ChatHaruhi novel", "ChatHaruhi の小説形式"),
        ("json",),
        scripts.fits_novel,
        scripts.novel,
        why=Text("rows are lists of role and text", "role と text の列です"),
        guess=scripts.guess_novel,
    ),
    "scene": Format(
        Text("Script (name: line)", "台本（名前：「台詞」）"),
        ("text",),
        scripts.fits_script,
        scripts.script,
        why=Text("lines are name: line", "「名前：台詞」の行です"),
        rows=scripts.script_rows,
        guess=scripts.guess_script,
    ),
    "sillytavern": Format(
        Text("SillyTavern chat", "SillyTavern のチャット"),
        ("json",),
        fits_tavern,
        tavern,
        why=Text("rows have mes and is_user", "mes と is_user があります"),
        rows=tavern_rows,
    ),
    "table": Format(
        Text("Table with columns", "表（列を選ぶ）"),
        ("table", "json"),
        fits_table,
        table,
        why=Text("a table with columns", "列のある表です"),
        mappable=True,
    ),
}
