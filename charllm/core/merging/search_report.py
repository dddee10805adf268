"""How a search's result is told: its verdicts, and a paragraph on each matter.

Nothing here evaluates, and every word is made from a ``SearchResult``.
"""

from __future__ import annotations

from charllm.core.merging.finalists import Verdict
from charllm.core.merging.naming import name_of
from charllm.core.merging.scoring import UNIFORM
from charllm.core.merging.search_result import SearchResult
from charllm.core.statistics import Interval
from charllm.data.errors import Text


def explain(result: SearchResult) -> list[Text]:
    """A paragraph on each matter, with this run's numbers."""
    found = [_population(result), _budget(result), _race(result), _steps(result), _stop(result)]
    found += [_outcome(result), _honesty(result)]
    if result.given:
        found.append(_given(result))
    if result.floors:
        found.append(_guard(result))
    if result.failed:
        found.append(_failed(result))
    if result.opened > 1:
        found.append(_opened(result))
    return found


def verdict_sentence(verdict: Verdict, gain: Interval | None, than: Text) -> Text:
    """ "Better than …: yes, no or cannot tell", with the interval it was read from."""
    en = {"yes": "yes", "no": "no", "cannot tell": "cannot tell"}[verdict]
    ja = {"yes": "はい", "no": "いいえ", "cannot tell": "判断できません"}[verdict]
    size = interval(gain)
    return Text(
        f"Better than {than.en}: {en} ({size.en}).", f"{than.ja}より良いか: {ja}（{size.ja}）。"
    )


def interval(gain: Interval | None) -> Text:
    """A difference with its 95 % interval, or that there is none."""
    if gain is None or gain.value is None:
        return Text("not measured", "測定できませんでした")
    if gain.low is None or gain.high is None:
        return Text(f"{gain.value:+.4f}, no interval", f"{gain.value:+.4f}、区間なし")
    span = f"{gain.low:+.4f} … {gain.high:+.4f}"
    return Text(
        f"{gain.value:+.4f}, 95 % interval {span}, {gain.n} queries",
        f"{gain.value:+.4f}、95 % 区間 {span}、質問 {gain.n} 件",
    )


def _population(result: SearchResult) -> Text:
    plan = result.plan
    if not plan.by_rule:
        return Text(
            f"Population: {plan.population} candidates a generation, as set, for {plan.genes} "
            "genes.",
            f"集団の大きさ: 設定どおり一世代 {plan.population} 候補です"
            f"（遺伝子 {plan.genes} 個）。",
        )
    return Text(
        f"Population: {plan.population} candidates a generation. CMA-ES's rule of thumb is "
        f"4 + 3 ln(genes), rounded down, and a merge has {plan.genes} genes here.",
        f"集団の大きさ: 一世代 {plan.population} 候補です。CMA-ES の目安は 4 + 3 ln(遺伝子数) の"
        f"切り捨てで、ここでは遺伝子が {plan.genes} 個あります。",
    )


def _budget(result: SearchResult) -> Text:
    plan, spent, done = result.plan, result.spent, len(result.generations)
    return Text(
        f"Budget: max_candidates (max_fevals in mergekit-evolve) counts merged models that the "
        f"search scored, in whole generations: "
        f"{plan.generations} generations of {plan.population} were allowed, {done} were made "
        f"({done * plan.population} models). Parents, averages, finalists and report come on top: "
        f"in all {spent.queries} replies and {spent.calls} judge calls.",
        f"予算: max_candidates（mergekit-evolve の max_fevals）が数えるのは、探索で採点した"
        f"マージモデルの数で、世代単位です。上限は "
        f"{plan.population} 候補 × {plan.generations} 世代、実際は {done} 世代"
        f"（{done * plan.population} モデル）でした。親・平均・最終候補・報告の採点は別で、"
        f"合計は返答 {spent.queries} 件、採点の呼び出し {spent.calls} 回です。",
    )


def _race(result: SearchResult) -> Text:
    plan = result.plan
    if not plan.more:
        return Text(
            f"Queries: all candidates of a generation answered the same {plan.first} of "
            f"{plan.queries} search queries.",
            f"質問: 同じ世代の候補は全員、探索用 {plan.queries} 件のうち同じ {plan.first} 件に"
            "答えました。",
        )
    share = plan.search / (plan.generations * plan.population * plan.queries)
    return Text(
        f"Queries: of {plan.queries} search queries every candidate of a generation answered the "
        f"same {plan.first}, the better half {plan.more} more: {share:.0%} of the replies that "
        "asking everything would have taken. Each generation draws anew.",
        f"質問: 探索用 {plan.queries} 件のうち、同じ世代の全候補が同じ {plan.first} 件に答え、"
        f"良かった半分だけがさらに {plan.more} 件に答えました。全問を使う場合の {share:.0%} の"
        "返答で済んでいます。質問は世代ごとに選び直します。",
    )


def _steps(result: SearchResult) -> Text:
    start = result.plan.sigma
    if not result.generations:
        return Text(
            f"Sigma: {start:g}; no generation was made.", f"シグマ: {start:g}（世代なし）。"
        )
    last = result.generations[-1]
    low, high = min(last.spread), max(last.spread)
    centre = Text("the plain average", "単純平均")
    if last.mean.method == "passthrough":  # a search over sequences of layers
        centre = Text("the first parent", "最初の親")
    return Text(
        f"Sigma is how far candidates spread around the search's centre. It started at {start:g} "
        f"around {centre.en}; in the end a gene's spread was {low:.3f} to {high:.3f}. "
        "Much smaller: it had settled. Much the same: the scores did not point anywhere.",
        "シグマは、候補が探索の中心からどれだけ散らばるかです。"
        f"{centre.ja}のまわりで {start:g} から始まり、最後は遺伝子ごとに {low:.3f}～{high:.3f} "
        "でした。ずっと小さければ絞り込めた"
        "ことを、あまり変わらなければスコアが方向を示さなかったことを意味します。",
    )


def _stop(result: SearchResult) -> Text:
    stop = result.stop
    return Text(
        f"It stopped after generation {stop.generation} because {stop.text.en}.",
        f"第 {stop.generation} 世代で終了しました。{stop.text.ja}です。",
    )


def _outcome(result: SearchResult) -> Text:
    uniform = verdict_sentence(
        result.over_uniform, result.gain_uniform, Text("the plain average", "単純平均")
    )
    parent = verdict_sentence(
        result.over_parent, result.gain_parent, Text("the best parent", "最良の親")
    )
    name = name_of(result.chosen)
    return Text(
        f"Chosen on the selection queries: {name.en}. On the report queries, which "
        f"nothing was tuned on: {uniform.en} {parent.en}",
        f"選択用の質問で選ばれたのは{name.ja}です。調整に使っていない報告用の質問では、"
        f"{uniform.ja}{parent.ja}",
    )


def _honesty(result: SearchResult) -> Text:
    told = [
        (name_of(claim.candidate), claim.claimed, claim.true.value)
        for claim in result.claims
        if claim.claimed is not None
        and claim.true
        and claim.true.value is not None
        and claim.candidate.id != UNIFORM  # over itself it gains nothing, whatever a fold chose
    ]
    en = "; ".join(f"{name.en} {claimed:+.4f}, truly {true:+.4f}" for name, claimed, true in told)
    ja = "、".join(f"{name.ja} {claimed:+.4f} → 実際 {true:+.4f}" for name, claimed, true in told)
    return Text(
        f"Gain over the plain average as claimed before the report, and as it was: {en}. The best "
        "candidate seen is mostly the luckiest, so it is not what is chosen.",
        f"単純平均に対する差の、報告前の見積もりと実際の値: {ja}。探索中に最良に見えた候補は"
        "たいてい運が良かっただけなので、選択の対象にしません。",
    )


def _given(result: SearchResult) -> Text:
    names = ", ".join(result.given)
    return Text(
        f"{len(result.given)} candidates were mixed by hand and put into a generation: {names}. "
        "They were asked and placed like the others, and none of them can be chosen for having "
        "been put there.",
        f"手で混ぜて世代に加えた候補が {len(result.given)} 個あります（{names}）。ほかの候補と"
        "同じように採点し、特別扱いはしていません。",
    )


def _guard(result: SearchResult) -> Text:
    """Who was held back on the selection questions, and how the choice does on the report's."""
    part, floor = next(iter(result.floors.items()))
    en = "; ".join(f"{name} ({why.en})" for name, why in result.held_back)
    ja = "、".join(f"{name}（{why.ja}）" for name, why in result.held_back)
    found = Text(
        f"Guard: a finalist whose {part} is more than {floor:g} below the plain average's is not "
        + (f"chosen. Held back: {en}." if en else "chosen. None was."),
        f"ガード: {part} が単純平均を {floor:g} より大きく下回る最終候補は選びません。"
        + (f"除外: {ja}。" if ja else "該当する候補はありませんでした。"),
    )
    own, base = (result.row(name).report for name in (result.chosen.id, UNIFORM))
    if own is None or base is None or part not in own.parts or part not in base.parts:
        return found
    change = own.parts[part] - base.parts[part]
    return Text(
        f"{found.en} On the report questions the choice has {part} {change:+.3f} against it.",
        f"{found.ja}報告用の質問では、選ばれたものの {part} は単純平均に対して {change:+.3f} "
        "です。",
    )


def _failed(result: SearchResult) -> Text:
    name, why = result.failed[0]
    count = len(result.failed)
    return Text(
        f"{count} candidates could not be scored and were placed last; {name}: {why.en}.",
        f"採点できなかった候補が {count} 個あり、最下位として扱いました。{name}: {why.ja}。",
    )


def _opened(result: SearchResult) -> Text:
    return Text(
        f"The report queries have now been used {result.opened} times, by this search and those "
        "it was forked from: a second look is a second chance to be lucky, and the intervals "
        "above do not know that.",
        f"報告用の質問は、分岐元も含めて {result.opened} 回使われました。見直すたびに偶然良く"
        "見える機会が増えますが、上の区間にはそれが含まれていません。",
    )
