"""Damage of steering: the arithmetic of KL, likelihood and accuracy, and how the set is read."""

import asyncio
import math

import numpy as np
import pytest
from trait_client.http.replies import ChatResult, Choice, TokenLogprob, TopLogprob, Usage
from trait_client.scoring.damage import DamageReading, damage, read_damage_set, reported_kl
from trait_client.scoring.damage_set import LETTERS, ChoiceQuestion, Passage
from trait_core.errors import InvalidRequestError, ServiceError
from trait_core.schema import Steering, SteeringReport
from trait_core.vectors.inline import inline_vector

QUESTIONS = [
    ChoiceQuestion(id=f"q{i}", question=f"Which {i}?", options=["w", "x", "y", "z"], answer=letter)
    for i, letter in enumerate("ABCDA")
]
PASSAGES = [Passage(id="sea", text="the sea is blue"), Passage(id="tea", text="the tea is green and the cup is blue")]
STEERING = Steering.model_validate(
    {"terms": [{"vector": inline_vector([1.0, 2.0]).model_dump(), "coefficient": 1.0, "unit": "raw", "layers": [0]}]}
)


def logs(shares):
    return {str(token): math.log(share) for token, share in enumerate(shares)}


def best(table, n):
    return dict(sorted(table.items(), key=lambda item: -item[1])[:n])


def test_with_every_token_reported_the_kl_is_the_exact_one():
    p, q = [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]
    kl, coverage = reported_kl(logs(p), logs(q))
    assert kl == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2))
    assert coverage == pytest.approx(1)


@pytest.mark.parametrize("seed", range(8))
def test_with_the_likeliest_tokens_alone_the_kl_is_less_but_not_negative(seed):
    generator = np.random.default_rng(seed)
    p, q = (generator.dirichlet(np.full(200, 0.3)) + 1e-9 for _ in "pq")
    p, q = p / p.sum(), q / q.sum()
    exact = float((p * np.log(p / q)).sum())
    for n in (5, 20):
        tops = best(logs(p), n), best(logs(q), n)
        assert 0 <= reported_kl(*tops)[0] <= reported_kl(*tops, min(tops[1].values()))[0] < exact
    assert reported_kl(logs(p), logs(q))[0] == pytest.approx(exact)


def test_lists_without_a_token_in_common_still_bound_the_kl():
    """A model that is sure of one token against one that is sure of others: their sums say nothing, the limit much."""
    p = np.array([0.9] + [0.1 / 99] * 99)
    q = np.array([0.001] * 95 + [0.181] * 5)
    exact = float((p * np.log(p / q)).sum())
    first, second = best(logs(p), 5), best(logs(q), 5)
    assert first.keys() & second.keys() == set()
    assert reported_kl(first, second)[0] < reported_kl(first, second, math.log(0.05))[0] < exact
    kl, coverage = reported_kl(first, second, math.log(0.001))
    assert 0.9 * math.log(0.9 / 0.05) < kl < exact
    assert coverage == 0


def test_a_limit_is_the_least_of_the_likeliest_tokens_and_not_the_token_of_the_text():
    before = token("rare", -9.0, a=-1.0, b=-3.0, rare=-9.0)
    after = token("rare", -9.0, c=-1.0, d=-3.0, rare=-9.0)
    answers = {"q": [-1, -2, -3, -4]}
    found = damage(reading({"one": [before]}, answers), reading({"one": [after]}, answers))
    tables = {"a": -1.0, "b": -3.0, "rare": -9.0}, {"c": -1.0, "d": -3.0, "rare": -9.0}
    assert found.kl == pytest.approx(reported_kl(*tables, -3.0)[0])
    assert found.kl > reported_kl(*tables, -0.5)[0]


def test_a_token_that_only_one_side_reports_has_at_most_what_the_other_leaves_over():
    kl, coverage = reported_kl({"a": math.log(0.6), "b": math.log(0.3)}, {"a": math.log(0.3), "c": math.log(0.6)})
    assert kl == pytest.approx(0.6 * math.log(2) + 0.3 * math.log(0.3 / 0.1) + 0.1 * math.log(0.1 / 0.7))
    assert coverage == pytest.approx(0.6)


def test_equal_distributions_have_no_kl_whatever_is_reported():
    for table in (logs([0.7, 0.3]), logs([0.1, 0.05]), {}):
        assert reported_kl(table, table)[0] == pytest.approx(0, abs=1e-9)


def token(text, logprob, **others):
    tops = [TopLogprob(token=name, logprob=value) for name, value in others.items()]
    return TokenLogprob(token=text, logprob=logprob, top_logprobs=tops)


def reading(passages, choices):
    return DamageReading(passages, {k: np.array(v, np.float64) for k, v in choices.items()}, dict.fromkeys(choices, 1))


def test_damage_is_the_mean_over_passages_and_questions():
    half, third = math.log(0.5), math.log(1 / 3)
    before = reading(
        {"one": [token("a", half, b=half)], "two": [token("a", half, b=half), token("b", half, a=half)]},
        {"q": [-2, -1, -3, -4], "r": [-1, -2, -9, -9], "s": [-5, -4, -7, -8]},
    )
    after = reading(
        {
            "one": [token("a", third, b=math.log(2 / 3))],
            "two": [token("a", half, b=half), token("b", third, a=math.log(2 / 3))],
        },
        {"q": [-1, -2, -3, -4], "r": [-1, -2, -9, -9], "s": [-5, -4, -7, -8]},
    )
    found = damage(before, after)
    kl = 0.5 * math.log(1.5) + 0.5 * math.log(0.75)
    assert found.kl == pytest.approx((kl + kl / 2) / 2)
    assert found.nll_rise == pytest.approx((math.log(1.5) + math.log(1.5) / 2) / 2)
    assert found.coverage == pytest.approx(1)
    low, high = found.kl_interval
    assert (low, high) == pytest.approx((kl / 2, kl))
    assert (found.accuracy.n, found.accuracy.baseline, found.accuracy.steered) == (3, 2 / 3, 1 / 3)
    assert found.accuracy.delta == pytest.approx(-1 / 3)
    assert -1 / 3 < found.right_probability.delta < 0


def test_readings_that_do_not_fit_are_refused():
    one = reading({"one": [token("a", -1)]}, {"q": [-1, -2, -3, -4]})
    with pytest.raises(InvalidRequestError, match="no passage in common"):
        damage(one, reading({"two": [token("a", -1)]}, {"q": [-1, -2, -3, -4]}))
    with pytest.raises(InvalidRequestError, match="'one' has other tokens"):
        damage(one, reading({"one": [token("b", -1)]}, {"q": [-1, -2, -3, -4]}))


# ---- how the set is read


class Unigrams:
    """A language model without context: words have fixed shares, and steering makes one word likelier."""

    def __init__(self, shares, *, reaches=True, silent=False):
        self.shares, self.reaches, self.silent = shares, reaches, silent
        self.asked = []

    async def complete(self, prompt, *, model=None, steering=None, **options):
        self.asked.append((prompt, model, steering, options))
        shares = self.shares[steering is not None]
        words = prompt.split()
        tops = best({word: math.log(share) for word, share in shares.items()}, options["logprobs"])
        reported = [
            TokenLogprob(
                token=word,
                logprob=math.log(shares.get(word, 0.001)),
                top_logprobs=[TopLogprob(token=t, logprob=p) for t, p in tops.items()],
            )
            for word in [*words[1:], "generated"]
        ]
        count = len(words) if self.reaches else 0
        report = SteeringReport.model_validate({"applied": [], "positions": {"prompt": count, "generated": 0}})
        choice = Choice(
            index=0, text=prompt, finish_reason="length", logprobs=None if self.silent else reported, token_ids=None
        )
        usage = Usage(prompt_tokens=len(words), completion_tokens=1, total_tokens=len(words) + 1)
        return ChatResult(id="1", model="m", choices=[choice], usage=usage, steering=report if steering else None)


SHARES = (
    {"A": 0.3, "B": 0.2, "C": 0.1, "D": 0.1, "blue": 0.2, "green": 0.1},
    {"A": 0.1, "B": 0.4, "C": 0.1, "D": 0.1, "blue": 0.2, "green": 0.1},
)


def read(client, steering=None, passages=PASSAGES, choices=QUESTIONS, **options):
    return asyncio.run(read_damage_set(client, passages, choices, steering, **options))


def test_the_letter_of_the_likeliest_whole_text_is_the_answer():
    client = Unigrams(SHARES)
    before, after = read(client, model="lora"), read(client, STEERING)
    assert len(client.asked) == 2 * (len(PASSAGES) + len(LETTERS) * len(QUESTIONS))
    assert {model for _, model, steering, _ in client.asked if steering is None} == {"lora"}
    found = damage(before, after)
    assert (found.accuracy.baseline, found.accuracy.steered) == (2 / 5, 1 / 5)  # always A, always B
    assert before.right_probabilities["q0"] == pytest.approx(0.3 / 0.7)


def test_passages_are_read_with_their_alternatives_and_without_what_was_generated():
    before, after = read(Unigrams(SHARES)), read(Unigrams(SHARES), STEERING)
    assert [token.token for token in before.passages["sea"]] == ["sea", "is", "blue"]
    found = damage(before, after)
    exact = 0.3 * math.log(0.3 / 0.1) + 0.2 * math.log(0.2 / 0.4)
    assert found.kl == pytest.approx(exact, rel=0.02)  # words outside the vocabulary add 0.001 each
    assert found.nll_rise == 0  # the passages hold neither A nor B


def test_a_steering_that_reaches_no_prompt_token_is_refused():
    with pytest.raises(InvalidRequestError, match='use the scope "all"'):
        read(Unigrams(SHARES, reaches=False), STEERING)


def test_an_answer_without_log_probabilities_is_an_error():
    with pytest.raises(ServiceError, match="0 log-probabilities for 4 prompt tokens"):
        read(Unigrams(SHARES, silent=True), choices=[])
