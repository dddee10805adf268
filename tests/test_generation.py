"""The decode loop against transformers' own ``generate``, and what a column does on its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from test_adapters import save_adapter, tiny_model

from charllm.core.decoding_text import TextStream, looped_tokens, text_of
from charllm.core.generation import (
    PRESETS,
    Delta,
    Done,
    GenerationPreset,
    Request,
    generate_all,
    stream,
)
from charllm.core.merging.adapters import AdapterModel
from charllm.data.errors import UserError

FREE = GenerationPreset(max_new_tokens=24, repetition_guard=False)
PROMPTS = [[5, 17, 33], [9, 8, 7, 6, 5, 4, 3, 2, 40, 41, 42], [77, 3, 60, 12, 90, 110]]


def gemma() -> Any:
    """Sliding layers of 8 tokens between full ones."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        initializer_range=0.3,
    )
    return Gemma3ForCausalLM(config).eval()


def mistral() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
        initializer_range=0.3,
    )
    return MistralForCausalLM(config).eval()


MODELS: dict[str, Callable[[], Any]] = {"llama": tiny_model, "gemma": gemma, "mistral": mistral}


def bytes_tokenizer(merges: Sequence[tuple[str, str]] = ()) -> Any:
    """A byte a token (ids 0-255 are the bytes), so that each Japanese character is three."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    letters = {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}
    tokenizer = Tokenizer(models.BPE({letters[b]: b for b in range(256)}, list(merges)))
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


class Scripted(torch.nn.Module):
    """A causal LM that goes on with the bytes of the script its prompt's one byte names."""

    def __init__(self, *scripts: str | bytes) -> None:
        super().__init__()
        self.scripts = [s if isinstance(s, bytes) else s.encode() for s in scripts]
        self.embed = torch.nn.Embedding(257, 4)
        self.config = tiny_model(num_hidden_layers=1).config
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.widths: list[int] = []
        """Prompts or rows of each pass."""

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embed

    def forward(self, input_ids: Any, past_key_values: Any, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import CausalLMOutputWithPast

        first = past_key_values.get_seq_length() == 0
        states = input_ids[:, None, :, None].float()
        seen = past_key_values.update(states, states, 0)[0][:, 0, :, 0].long()
        replies = seen[0, :, None].tolist() if first else seen.tolist()
        self.widths.append(len(replies))
        logits = torch.zeros(len(replies), 257)
        for row, (which, *written) in enumerate(replies):
            script = self.scripts[which - 1]
            at = len(written)
            logits[row, script[at] if at < len(script) else 256] = 9.0
        logits = logits[None] if first else logits[:, None]
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)


def script_request(which: int, **changes: Any) -> Request:
    fields: dict[str, Any] = {
        "column": f"c{which}",
        "prompt_ids": [which],
        "end_ids": frozenset({256}),
        "preset": GenerationPreset(max_new_tokens=400),
    }
    return Request(**{**fields, **changes})


def run_scripts(*scripts: str | bytes, **changes: Any) -> list[Done]:
    requests = [script_request(n, **changes) for n in range(1, len(scripts) + 1)]
    return generate_all(Scripted(*scripts), bytes_tokenizer(), requests)


def reference(model: Any, prompt: list[int], end_ids: Sequence[int] = (), **options: Any) -> Any:
    """transformers' tokens after the prompt, up to and without the first end token."""
    options = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0, **options}
    eos = list(end_ids) or None
    model.generation_config.eos_token_id = eos
    out = model.generate(torch.tensor([prompt]), eos_token_id=eos, **options)
    return list(itertools.takewhile(lambda t: t not in end_ids, out[0, len(prompt) :].tolist()))


def requests_for(prompts: list[list[int]], preset: GenerationPreset, **more: Any) -> list[Request]:
    return [Request(f"c{i}", ids, preset=preset, **more) for i, ids in enumerate(prompts)]


@pytest.mark.parametrize("name", MODELS)
def test_greedy_equals_transformers(name: str) -> None:
    model = MODELS[name]()
    replies = generate_all(model, bytes_tokenizer(), requests_for(PROMPTS, FREE))
    assert [r.token_ids for r in replies] == [reference(model, p) for p in PROMPTS]
    assert {r.reason for r in replies} == {"length"}
    end = {replies[0].token_ids[5], replies[1].token_ids[11]}
    ended = generate_all(
        model, bytes_tokenizer(), requests_for(PROMPTS, FREE, end_ids=frozenset(end))
    )
    assert [r.token_ids for r in ended] == [reference(model, p, sorted(end)) for p in PROMPTS]
    assert ended[0].reason == "end" and len(ended[0].token_ids) <= 5


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("beams", [2, 3])
def test_beams_equal_transformers(name: str, beams: int) -> None:
    model = MODELS[name]()
    torch.manual_seed(3)
    prompts = [torch.randint(1, 128, (n,)).tolist() for n in (3, 4, 6, 9, 12, 15)]
    end = [3, 50, 77, 101, 90, 12]
    preset = FREE.model_copy(update={"num_beams": beams})
    requests = requests_for(prompts, preset, end_ids=frozenset(end))
    replies = generate_all(model, bytes_tokenizer(), requests)
    expected = [reference(model, p, end, num_beams=beams) for p in prompts]
    assert [r.token_ids for r in replies] == expected
    assert len({r.reason for r in replies}) > 0


def test_beams_and_greedy_columns_share_a_batch() -> None:
    model = tiny_model()
    beam = FREE.model_copy(update={"num_beams": 2})
    requests = [
        Request("greedy", PROMPTS[0], preset=FREE),
        Request("beam", PROMPTS[1], preset=beam),
        Request("short", PROMPTS[2], preset=FREE.model_copy(update={"max_new_tokens": 3})),
    ]
    greedy, beams, short = generate_all(model, bytes_tokenizer(), requests)
    assert greedy.token_ids == reference(model, PROMPTS[0])
    assert beams.token_ids == reference(model, PROMPTS[1], num_beams=2)
    assert short.token_ids == reference(model, PROMPTS[2], max_new_tokens=3)


def test_repetition_penalty_equals_transformers() -> None:
    model = tiny_model()
    preset = FREE.model_copy(update={"repetition_penalty": 1.3})
    replies = generate_all(model, bytes_tokenizer(), requests_for(PROMPTS, preset))
    expected = [reference(model, p, repetition_penalty=1.3) for p in PROMPTS]
    assert [r.token_ids for r in replies] == expected
    assert expected != [reference(model, p) for p in PROMPTS]


def test_sampling_does_not_depend_on_the_other_columns() -> None:
    model = tiny_model()
    preset = FREE.model_copy(update={"temperature": 0.9, "top_p": 0.9, "top_k": 40, "seed": 5})
    requests = requests_for(PROMPTS, preset)
    together = generate_all(model, bytes_tokenizer(), requests)
    alone = [generate_all(model, bytes_tokenizer(), [r])[0] for r in reversed(requests)]
    assert [r.token_ids for r in together] == [r.token_ids for r in reversed(alone)]
    assert [r.seed for r in together] == [r.seed for r in reversed(alone)]
    other = generate_all(
        model, bytes_tokenizer(), requests_for(PROMPTS, preset.model_copy(update={"seed": 6}))
    )
    assert [r.token_ids for r in other] != [r.token_ids for r in together]


@pytest.mark.parametrize(
    ("options", "allowed"),
    [({"top_k": 2}, {0, 1}), ({"top_p": 0.7}, {0, 1}), ({"top_p": 0.01}, {0}), ({}, {0, 1, 2})],
)
def test_sampling_keeps_to_the_options(options: dict[str, Any], allowed: set[int]) -> None:
    from charllm.core.decoding_columns import sample

    scores = torch.tensor([0.5, 0.3, 0.2]).log()
    preset = GenerationPreset(temperature=1.0, **options)
    random = torch.Generator().manual_seed(0)
    drawn = [sample(scores, preset, random) for _ in range(600)]
    assert set(drawn) == allowed
    if not options:
        assert drawn.count(0) / 600 == pytest.approx(0.5, abs=0.07)


def test_adapter_rows_mix_with_the_base(tmp_path: Path) -> None:
    peft_a = save_adapter(tmp_path / "a", 1)
    save_adapter(tmp_path / "b", 2)
    engine = AdapterModel(tiny_model())
    engine.load("a", tmp_path / "a")
    engine.load("b", tmp_path / "b")
    mix = engine.row({"a": 0.5, "b": 0.5})
    requests = [
        Request("short", PROMPTS[0], preset=FREE.model_copy(update={"max_new_tokens": 2})),
        Request("base", PROMPTS[1], preset=FREE),
        Request("tuned", PROMPTS[1], engine.row({"a": 1.0}), preset=FREE),
        Request("merged", PROMPTS[2], mix, preset=FREE.model_copy(update={"num_beams": 2})),
    ]
    together = generate_all(engine, bytes_tokenizer(), requests)
    alone = [generate_all(engine.model, bytes_tokenizer(), [r])[0] for r in requests]
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert together[1].token_ids == reference(tiny_model(), PROMPTS[1])
    assert together[2].token_ids == reference(peft_a, PROMPTS[1])


def test_same_prompt_is_encoded_once() -> None:
    model = Scripted("abc", "xyz")
    requests = [
        script_request(1),
        script_request(2),
        script_request(1, column="again", preset=GenerationPreset(max_new_tokens=2)),
    ]
    first, second, again = generate_all(model, bytes_tokenizer(), requests)
    assert (first.text, second.text, again.text) == ("abc", "xyz", "ab")
    assert model.widths[0] == 2 and model.widths[1] == 3


@pytest.mark.parametrize("name", MODELS)
def test_remembered_beginnings_change_nothing(name: str) -> None:
    """Three turns of a conversation, the second and third beginning like the one before."""
    model = MODELS[name]()
    engine = AdapterModel(model, remember_tokens=60)
    turns = [list(range(1, 20)), [*range(1, 15), 70, 71], [*range(1, 15), 70, 71, 9, 8, 7, 3, 2]]
    seen = count_tokens(model)
    for turn in turns:
        requests = requests_for([turn, [5, 6, 7]], FREE)
        replies = generate_all(engine, bytes_tokenizer(), requests)
        expected = [generate_all(MODELS[name](), bytes_tokenizer(), [r])[0] for r in requests]
        assert [r.token_ids for r in replies] == [r.token_ids for r in expected]
    assert seen[:1] == [22] and [n for n in seen if n > 2] == [22, 3, 6]
    for _ in range(5):
        turns[0] = [turns[0][0] + 1, *turns[0]]
        generate_all(engine, bytes_tokenizer(), requests_for(turns[:1], FREE))
    assert engine.memory is not None
    assert sum(len(ids) for _, ids in engine.memory._entries) <= 60


@pytest.mark.parametrize("name", MODELS)
def test_shared_beginnings_are_encoded_once(name: str, tmp_path: Path) -> None:
    system = list(range(1, 21))
    prompts = [[*system, 30, 31], [*system, 30, 33, 34], system[:9], [*system, 40], [90, 91]]
    expected = [reference(MODELS[name](), p) for p in prompts]
    model = MODELS[name]()
    seen = count_tokens(model)
    replies = generate_all(model, bytes_tokenizer(), requests_for(prompts, FREE))
    assert [r.token_ids for r in replies] == expected
    assert seen[0] == 22 + 2 + 1 + 1 + 2
    if name == "llama":  # under other weights the same beginning is another
        save_adapter(tmp_path / "a", 1)
        engine = AdapterModel(model)
        engine.load("a", tmp_path / "a")
        row = engine.row({"a": 1.0})
        requests = [
            Request(f"c{i}", p, r, FREE) for i, (p, r) in enumerate(product(prompts, (None, row)))
        ]
        seen.clear()
        together = generate_all(engine, bytes_tokenizer(), requests)
        assert [r.token_ids for r in together[::2]] == expected
        assert seen[0] == 2 * 28
        alone = [generate_all(engine, bytes_tokenizer(), [r])[0] for r in requests[1::2]]
        assert [r.token_ids for r in together[1::2]] == [r.token_ids for r in alone]


def test_remembered_beginnings_belong_to_their_weights(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a", 1)
    save_adapter(tmp_path / "b", 2)
    engine = AdapterModel(tiny_model(), remember_tokens=1000)
    engine.load("a", tmp_path / "a")
    rows = [None, engine.row({"a": 1.0}), engine.row({"a": 0.5})]
    requests = [Request(f"c{i}", PROMPTS[1], row, FREE) for i, row in enumerate(rows)]
    first = generate_all(engine, bytes_tokenizer(), requests)
    again = generate_all(engine, bytes_tokenizer(), requests)
    assert [r.token_ids for r in first] == [r.token_ids for r in again]
    assert len({tuple(r.token_ids) for r in first}) == 3
    engine.load("a", tmp_path / "b")
    replaced = generate_all(engine, bytes_tokenizer(), [requests[1]])[0]
    fresh = AdapterModel(tiny_model())
    fresh.load("b", tmp_path / "b")
    request = Request("c", PROMPTS[1], fresh.row({"b": 1.0}), FREE)
    assert replaced.token_ids == generate_all(fresh, bytes_tokenizer(), [request])[0].token_ids


def test_many_prompts_take_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charllm.core.decoding_prompts._PASS_TOKENS", {"cpu": 12})
    model = gemma()
    replies = generate_all(model, bytes_tokenizer(), requests_for(PROMPTS * 2, FREE))
    assert [r.token_ids for r in replies] == [reference(model, p) for p in PROMPTS] * 2
    prompts = [[n, *PROMPTS[1]] for n in range(1, 6)]
    seen = count_tokens(model)
    replies = generate_all(model, bytes_tokenizer(), requests_for([*prompts, [1] * 30], FREE))
    assert seen[:6] == [12] * 5 + [30]
    assert [r.token_ids for r in replies[:5]] == [reference(model, p) for p in prompts]


def count_tokens(model: Any) -> list[int]:
    """The length of the sequence in each forward pass from now on."""
    seen: list[int] = []
    model.register_forward_pre_hook(
        lambda _m, _a, options: seen.append(options["input_ids"].shape[1]), with_kwargs=True
    )
    return seen


def test_attention_of_another_kind_is_refused() -> None:
    model = tiny_model()
    model.config.layer_types = ["linear_attention"] * 3
    with pytest.raises(UserError, match="linear_attention"):
        generate_all(model, bytes_tokenizer(), requests_for(PROMPTS, FREE))


def test_rows_leave_the_batch_as_they_end() -> None:
    model = Scripted("a", "bbbb!", "cc")
    done = generate_all(model, bytes_tokenizer(), [script_request(n) for n in (1, 2, 3)])
    assert [d.text for d in done] == ["a", "bbbb!", "cc"]
    assert model.widths == [3, 3, 2, 1, 1, 1]
    assert all(d.reason == "end" and d.generated == len(d.token_ids) + 1 for d in done)
    assert all(0 < d.first_token_seconds <= d.seconds for d in done)


def test_stream_shows_whole_characters_only() -> None:
    text = "ごきげんよう、👩‍🎤ですわ。"
    events = list(stream(Scripted(text), bytes_tokenizer(), [script_request(1)]))
    pieces = [e.text for e in events if isinstance(e, Delta)]
    assert "".join(pieces) == text and len(pieces) == len(text)
    assert not any("\ufffd" in piece for piece in pieces)
    assert isinstance(events[-1], Done) and events[-1].text == text


def test_cut_character_at_the_end_is_left_out() -> None:
    done = run_scripts("わ".encode() * 2 + "ね".encode()[:2])[0]
    assert (done.reason, done.text) == ("end", "わわ")
    limited = run_scripts("ですわ", preset=GenerationPreset(max_new_tokens=5))[0]
    assert (limited.reason, limited.text) == ("length", "で")


def test_bytes_that_never_make_a_character_are_shown_in_the_middle() -> None:
    assert run_scripts(b"a\xe3b")[0].text == "a\ufffdb"


def test_stop_strings_are_trimmed_and_never_shown() -> None:
    events = list(
        stream(
            Scripted("はい。\n質問：次は\n質"),
            bytes_tokenizer(),
            [script_request(1, stop_strings=("\n回答", "\n質問："))],
        )
    )
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.reason, done.text) == ("stop_string", "はい。")
    assert "".join(e.text for e in events if isinstance(e, Delta)) == "はい。"


def test_a_beginning_that_is_no_stop_string_is_shown_in_the_end() -> None:
    for script in ("はい。\n質", "a\n質疑です"):
        done = run_scripts(script, stop_strings=("\n質問",))[0]
        assert (done.reason, done.text) == ("end", script)


def test_repetition_is_cut_to_one_round() -> None:
    done = run_scripts("はい、" + "abcd" * 30, preset=GenerationPreset(max_new_tokens=90))[0]
    assert (done.reason, done.text) == ("repetition", "はい、abcd")
    assert bytes(done.token_ids).decode() == "はい、abcd"
    unguarded = GenerationPreset(max_new_tokens=90, repetition_guard=False)
    assert run_scripts("はい、" + "abcd" * 30, preset=unguarded)[0].reason == "length"


@pytest.mark.parametrize(
    ("text", "surplus"),
    [
        ("あ" * 11, 0),
        ("あ" * 12, 11),
        ("あはは" * 3, 0),
        ("xあはは" + "あはは" * 3, 9),
        ("一二三四五六" * 3, 12),
        ("一二三四五六" * 2, 0),
        ("".join(map(chr, range(100, 124))) * 3, 48),
        ("".join(map(chr, range(100, 125))) * 3, 0),
        ("そうですわね、今日はいいお天気ですわ。ええ、本当ですわ。", 0),
        ("", 0),
    ],
)
def test_loops(text: str, surplus: int) -> None:
    assert looped_tokens([ord(c) for c in text]) == surplus


def test_beam_stops_at_a_stop_string_and_in_a_loop() -> None:
    beam = GenerationPreset(num_beams=2, max_new_tokens=64)
    stopped = run_scripts("はい。\n質問：え", preset=beam, stop_strings=("\n質問",))[0]
    assert (stopped.reason, stopped.text) == ("stop_string", "はい。")
    looped = run_scripts("ab" * 40, preset=beam)[0]
    assert (looped.reason, looped.text) == ("repetition", "ab")


def test_beam_shows_only_what_stays() -> None:
    model = tiny_model()
    preset = FREE.model_copy(update={"num_beams": 3})
    for prompt in PROMPTS:
        events = list(stream(model, bytes_tokenizer(), [Request("c", prompt, preset=preset)]))
        done = events[-1]
        assert isinstance(done, Done)
        assert "".join(e.text for e in events if isinstance(e, Delta)) == done.text
        assert done.text == text_of(bytes_tokenizer(), done.token_ids).text


def test_cancel_ends_one_column_and_leaves_the_others() -> None:
    seen: list[str] = []
    events = []
    requests = [script_request(1), script_request(2)]
    model = Scripted("abcdefgh", "あいうえお")
    for event in stream(model, bytes_tokenizer(), requests, lambda c: c == "c1" and len(seen) > 2):
        events.append(event)
        if isinstance(event, Delta) and event.column == "c1":
            seen.append(event.text)
    done = {e.column: e for e in events if isinstance(e, Done)}
    assert (done["c1"].reason, done["c1"].text) == ("cancelled", "abcd")
    assert (done["c2"].reason, done["c2"].text) == ("end", "あいうえお")


def test_cancelled_before_the_start_runs_nothing() -> None:
    model = Scripted("abc")
    for preset in (GenerationPreset(), GenerationPreset(num_beams=2)):
        requests = [script_request(1, preset=preset)]
        (done,) = stream(model, bytes_tokenizer(), requests, lambda _: True)
        assert isinstance(done, Done) and (done.reason, done.text) == ("cancelled", "")
    assert model.widths == []


def test_closing_the_stream_leaves_the_base_clean(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a", 1)
    engine = AdapterModel(tiny_model())
    engine.load("a", tmp_path / "a")
    request = Request("c", PROMPTS[0], engine.row({"a": 1.0}), preset=FREE)
    events = stream(engine, bytes_tokenizer(), [request])
    next(events)
    events.close()  # type: ignore[attr-defined]
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        assert torch.equal(engine.model(ids).logits, tiny_model()(ids).logits)


def test_prompt_longer_than_the_model() -> None:
    model = tiny_model(max_position_embeddings=16)
    done = generate_all(model, bytes_tokenizer(), [Request("c", [1] * 12, preset=FREE)])[0]
    assert (done.reason, len(done.token_ids)) == ("length", 4)
    with pytest.raises(UserError, match="16 tokens; the model takes at most 16") as caught:
        generate_all(model, bytes_tokenizer(), [Request("c", [1] * 16, preset=FREE)])
    assert "16 トークン" in caught.value.in_("ja")


def test_presets() -> None:
    study = PRESETS["study-beam"]
    assert (study.num_beams, study.max_new_tokens, study.temperature) == (2, 64, 0)
    assert (PRESETS["study-sampling"].temperature, PRESETS["study-sampling"].max_new_tokens) == (
        0.3,
        512,
    )
    for data in (
        {"num_beams": 2, "temperature": 0.5},
        {"top_p": 0},
        {"max_new_tokens": 0},
        {"temprature": 1},
    ):
        with pytest.raises(UserError, match=next(iter(data))):
            GenerationPreset.from_data(data, "preset")


def test_text_stream_drops_no_space_between_pieces() -> None:
    """Sentencepiece decoders strip the first space of a text, not of a later piece."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = {"▁Hello": 0, "▁world": 1, "!": 2, "<0xE3>": 3, "<0x81>": 4, "<0x82>": 5, "<unk>": 6}
    tokenizer = Tokenizer(models.BPE(words, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    stream = TextStream(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    pieces = []
    for token in (0, 1, 2, 3, 4, 5, 3, 4, 5, 1, 3):
        stream.push(token)
        pieces.append(stream.take())
    assert pieces == ["Hello", " world", "!", "", "", "あ", "", "", "あ", " world", ""]
    assert stream.finish() == "" and stream.text == "Hello world!ああ world"
