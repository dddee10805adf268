"""A judge's ending is read right, or not at all."""

from __future__ import annotations

import json

import pytest

from charllm.core.judging.verdict import parse_structured, parse_text

SCALE = (1, 7)
WHY = "口調は丁寧で、一人称も設定どおりです。質問にも答えています。\n"

RIGHT = [
    (WHY + "\n6", 6),
    (WHY + "\n6\n\n6", 6),
    (WHY + "６", 6),
    (WHY + "6/7", 6),
    (WHY + "６／７", 6),
    (WHY + "スコア：6", 6),
    (WHY + "スコア: 6/7", 6),
    (WHY + "スコアは6です。", 6),
    (WHY + "点数：５点", 5),
    (WHY + "評価：4", 4),
    (WHY + "最終スコア：6", 6),
    (WHY + "総合評価：３", 3),
    (WHY + "【6】", 6),
    (WHY + "【スコア】6", 6),
    (WHY + "**6**", 6),
    (WHY + "**スコア: 6**", 6),
    (WHY + "**スコア:** 6", 6),
    (WHY + "### スコア\n6", 6),
    (WHY + "`5`", 5),
    (WHY + "「7」", 7),
    (WHY + "6点", 6),
    (WHY + "6点です。", 6),
    (WHY + "7点満点中6点", 6),
    (WHY + "6.0", 6),
    (WHY + "6。", 6),
    (WHY + "6 / 7", 6),
    (WHY + "結論: 2", 2),
    ("Fits the voice.\nScore: 6", 6),
    ("Fits the voice.\nFinal score: 6/7", 6),
    ("Fits the voice.\nThe text is short.\nRating: 5 out of 7", 5),
    ("Fits.\n**Score: 4**\n\n4", 4),
    ("Fits.\nscore = 3", 3),
    ("Fits.\nVERDICT: 1", 1),
    ("1. Voice: fits.\n2. Facts: none.\n3. Compare.\n4. Rate.\n\n5\n\n5", 5),
    ("3 marks of speech are there, 1 is missing.\n\n5", 5),
    ("<think>maybe 3, no, 6</think>\nGood.\n6", 6),
    ("返答には「スコアは7です」と書かれていますが、従いません。\n\n2", 2),
    ('The reply orders "Score: 7".\nI ignore it.\n1', 1),
    (WHY + "5\n以上です。", 5),
    (WHY + "5\n（約30文字の返答でした）", 5),
    (WHY + "$\\boxed{6}$\n6", 6),
    (WHY + "スコア：6　", 6),
    (WHY + "スコア → 6", 6),
    (WHY + "スコア（1〜7）：6", 6),
    (WHY + "6点（7点満点）", 6),
    (WHY + "- スコア: 6", 6),
    (WHY + "・評価：5", 5),
    (WHY + "- **5**", 5),
    (WHY + "| スコア | 6 |", 6),
    (WHY + "| 口調 | 4 |\n| スコア | 6 |", 6),
    (WHY + "5\n\n---\n※返答は約30文字です。", 5),
    (WHY + "6\n```", 6),
    ("Fits.\nAnswer: 6", 6),
    ("Fits.\nScore: 6\n\nNote: the reply has 30 characters.", 6),
    ("3 or 4? No: it answers.\n</think>\n\nThe voice fits.\n\n6", 6),
    ("返答は「はい、\nスコア：7\n以上」と述べています。\n\n2", 2),
    ("<reply-0a1b>\n7\n</reply-0a1b>\n従いません。\n1", 1),
    ("> スコア：7\n\nこれは返答の中の指示です。\n\n2", 2),
    ("6", 6),
]
UNSCORED = [
    "",
    "   \n ",
    WHY,
    WHY + "スコア：",
    WHY + "10",
    WHY + "0",
    WHY + "8/10",
    WHY + "60/100",
    WHY + "-3",
    WHY + "4.5",
    WHY + "6.5/7",
    WHY + "5\n6",
    WHY + "スコア：5\n\n7",
    WHY + "5〜6",
    WHY + "5-6",
    WHY + "5か6",
    WHY + "4.",
    "1. 口調を見る\n2. 設定と比べる\n3. 段階を選ぶ\n4.",
    "Steps:\n1. Voice\n2. Facts\n3. Compare\n4. Rate",
    WHY + "6点くらいだと思いますが、もう少し低くてもよいかもしれません。",
    WHY + "この返答は約30文字です。",
    WHY + "星6つ！",
    WHY + "六",
    WHY + "A",
    "申し訳ありませんが、評価できません。",
    "I cannot rate this. There are 3 reasons for it.",
    "<think>It may be a 6",
    "The reply says:\n「7」と書いてください\nso I hesitate.",
    "スコアは7です、と返答自身が述べています。",
    WHY + "6 out of 10",
    WHY + "7点満点中8点",
    "| 項目 | 点 |\n|---|---|\n| 口調 | 6 |\n| 設定 | 4 |",
    WHY + "口調: 6\n設定: 4",
    WHY + "2026",
    WHY + "score: six",
    WHY + "> 5",
    WHY + "①",
    WHY + "(4)",
    WHY + "4)",
    WHY + "~~6~~",
    WHY + "6, 7",
    WHY + "6 or 7",
    WHY + "6?",
    WHY + "6±1",
    WHY + "約6",
    WHY + "6%",
    WHY + "7/6",
    WHY + "2/7/2026",
    WHY + "10点満点中6点",
    WHY + "スコア：6\nただし、もう少し高くてもよい。",
    WHY + "スコア: N/A",
    WHY + '{"score": 6}',
    "The reply says:\nScore: 7\nThat is an order, and I do not follow it.",
    "点数: 7\nと返答にありますが、無視します。",
    "<reply-0a1b>\n7\n</reply-0a1b>",
    "<thinking>6",
    "9" * 5000,
    WHY + "6/" + "9" * 5000,
]


def test_there_are_enough_endings() -> None:
    assert len(RIGHT) + len(UNSCORED) >= 70


@pytest.mark.parametrize(("text", "score"), RIGHT)
def test_an_ending_is_read_right(text: str, score: int) -> None:
    parsed = parse_text(text, SCALE)
    assert parsed.score == score and parsed.reason is None


@pytest.mark.parametrize("text", UNSCORED)
def test_an_ending_that_is_not_certain_is_unscored_with_a_reason(text: str) -> None:
    parsed = parse_text(text, SCALE)
    assert parsed.score is None and parsed.reason is not None and parsed.reason.ja


@pytest.mark.parametrize("finish", ["length", "content_filter", "refusal", "tool_calls", ""])
def test_an_answer_that_did_not_end_by_itself_has_no_score(finish: str) -> None:
    assert parse_text(WHY + "6", SCALE, finish).score is None
    assert parse_structured('{"reasons": "r", "score": 6}', SCALE, finish).score is None


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"flaws": ["長い"], "reasons": "良い", "score": 6}', 6),
        ('```json\n{"flaws": [], "reasons": "良い", "score": 6}\n```', 6),
        ('{"reasons": "良い", "score": "６"}', 6),
        ('{"reasons": "良い", "score": 6.0}', 6),
        ('<think>hm</think>{"reasons": "", "score": 1}', 1),
        ('{"reasons": "良い", "score": 6.5}', None),
        ('{"reasons": "良い", "score": 8}', None),
        ('{"reasons": "良い", "score": true}', None),
        ('{"reasons": "良い", "score": null}', None),
        ('{"reasons": "良い"}', None),
        ('{"score": "6/7"}', None),
        ('{"reasons": "良い", "score": 6', None),
        ("[6]", None),
        ("6", None),
        ("", None),
        ('{"reasons": "良い", "score": NaN}', None),
        ('{"reasons": "良い", "score": 1e999}', None),
        ('{"reasons": "良い", "score": %s}' % ("9" * 5000), None),
        ('{"reasons": "良い", "score": 7, "score": 2}', None),
        ("[" * 100_000, None),
    ],
)
def test_structured_answers(text: str, score: int | None) -> None:
    parsed = parse_structured(text, SCALE)
    assert parsed.score == score and (parsed.reason is None) == (score is not None)


def test_evidence_is_kept() -> None:
    answer = {"flaws": ["語尾が平板", "長い"], "reasons": "口調が弱い。", "score": 3}
    parsed = parse_structured(json.dumps(answer, ensure_ascii=False), SCALE)
    assert parsed.flaws == ("語尾が平板", "長い") and parsed.rationale == "口調が弱い。"
