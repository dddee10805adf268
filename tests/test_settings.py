"""Settings: one place for words, limits and groups; texts become values; nothing is lost."""

from __future__ import annotations

import pytest

from charllm.core.training_config import GROUPS, PRESETS, TrainConfig
from charllm.data.errors import UserError
from charllm.data.settings import apply_texts, changed, settings_of

MINE = {"name": "mine", "profile": "ayane", "dataset": "ayane"}


def test_every_setting_of_training_has_words_in_both_languages_and_a_group() -> None:
    found = {one.name: one for one in settings_of(TrainConfig)}
    unspoken = set(TrainConfig.model_fields) - set(found)
    assert unspoken == {"prompt_language", "samples"}, "a field without words is in no form"
    for one in found.values():
        assert one.label.en and one.label.ja and one.group in GROUPS, one.name
        assert bool(one.help.en) == bool(one.help.ja), one.name
    assert [one.name for one in found.values() if one.required] == ["name", "profile", "dataset"]
    assert found["scheduler"].choices == ("cosine", "linear", "constant")
    assert (found["held_out"].minimum, found["held_out"].maximum) == (0.0, 0.5)
    assert found["share_prefix"].kind == "switch" and found["epochs"].kind == "number"


def test_texts_become_values_of_the_right_kind() -> None:
    texts = ["epochs=3", "r=4", "share-prefix=no", "keep=best", "label_ja= 絢音 "]
    config = TrainConfig.from_data(apply_texts(TrainConfig, MINE, texts), "--set")
    assert (config.epochs, config.r, config.share_prefix, config.keep) == (3.0, 4, False, "best")
    assert config.label_ja == "絢音"
    assert changed(config, {}) == ["epochs", "r", "share_prefix", "keep", "label_ja"]
    assert changed(config, {"epochs": 3.0, "r": 4}) == ["share_prefix", "keep", "label_ja"]
    assert changed(TrainConfig.model_validate({**MINE, **PRESETS["study"]}), PRESETS["study"]) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rank=4", "learning_rate"),
        ("epochs", "NAME=VALUE"),
        ("epochs=many", "epochs: 'many'"),
        ("share_prefix=perhaps", "share_prefix: 'perhaps'"),
    ],
)
def test_what_is_no_setting_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        apply_texts(TrainConfig, MINE, [text])
