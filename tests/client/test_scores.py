import asyncio
import math

import numpy as np
import pytest
from trait_client.http.activations import Activations
from trait_client.scoring import scores
from trait_core.errors import ServiceError
from trait_core.schema import RESID_POST, ActivationsMetadata


@pytest.mark.parametrize(("nll", "expected"), [(2.0, 100), (1.0, 100), (4.0, 50), (6.0, 0), (9.0, 0)])
def test_coherence_falls_with_the_likelihood(nll, expected):
    assert scores.coherence("the cat sat on a mat", nll) == pytest.approx(expected)


def test_coherence_of_a_loop_is_0_however_likely():
    assert scores.coherence("no way " * 30, 0.1) == 0


def test_coherence_of_partly_repeated_text_follows_distinct3():
    text = "a b c d a b c d"  # 6 trigrams, 4 distinct
    assert scores.distinct3(text) == pytest.approx(4 / 6)
    assert scores.coherence(text, 1.0) == pytest.approx(100 * (4 / 6 - 0.3) / 0.5)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_reply_has_coherence_0(text):
    assert scores.coherence(text, 0.0) == 0


@pytest.mark.parametrize(("text", "expected"), [("Yes.", 1), ("No no", 1), ("ok", 1), ("!!!!!!!!", 1 / 6)])
def test_fewer_than_three_words_are_judged_by_their_characters(text, expected):
    assert scores.distinct3(text) == pytest.approx(expected)


def test_distinct3_ignores_case_and_punctuation():
    assert scores.distinct3("Go on, go. On go on!") == pytest.approx(2 / 4)


def test_projection_is_centred():
    mean, direction = np.array([3, 4], np.float32), np.array([0.6, 0.8], np.float32)
    assert scores.projection(mean, direction, 1.5) == pytest.approx(3.5)


def test_relevance_is_the_likelihood_that_the_prompt_adds():
    reading = scores.Reading(nll=1.0, nll_unprompted=2.5, means={})
    assert reading.relevance == 1.5
    assert reading.perplexity == pytest.approx(math.e)


class Model:
    """Answers every input's number as its mean, and as its nll."""

    def __init__(self, nll=None):
        self.nll = nll
        self.requests = []

    async def activations(self, request):
        self.requests.append(request)
        n, n_layers = len(request.inputs), len(request.layers)
        count = np.ones(n, np.int32)
        numbers = np.arange(n, dtype=np.float32)
        return Activations(
            ActivationsMetadata(
                model="m", config_digest="c", n_layers=9, d_model=2, dtype="float32",
                layers=request.layers, positions=request.positions,
            ),
            {
                "mean/response[:]": np.broadcast_to(numbers[:, None, None], (n, n_layers, 2)).copy(),
                "norm/response[:]": np.zeros((n, n_layers), np.float32),
                "count/response[:]": count, "n_prompt": count, "n_response": count,
                "nll": numbers if self.nll is None else np.full(n, self.nll, np.float32),
            },
        )  # fmt: skip


def test_many_replies_are_read_in_one_request_after_their_prompt_and_after_none():
    model = Model()
    replies = [scores.Reply("hello", "hi"), scores.Reply("bye", "ciao", system="Be kind.")]
    readings = asyncio.run(scores.read_replies(model, replies, {RESID_POST: [5, 3]}))
    (request,) = model.requests
    assert [(item.messages[-1].content, item.response) for item in request.inputs] == [
        ("hello", "hi"), ("", "hi"), ("bye", "ciao"), ("", "ciao"),
    ]  # fmt: skip
    assert [item.messages[0].content for item in request.inputs[2:]] == ["Be kind.", "Be kind."]
    assert (request.layers, request.logprobs, request.steering) == ([3, 5], True, None)
    assert [(reading.nll, reading.nll_unprompted) for reading in readings] == [(0, 1), (2, 3)]
    assert readings[1].means[RESID_POST][5].tolist() == [2, 2]


def test_a_likelihood_that_is_not_finite_is_an_error():
    with pytest.raises(ServiceError, match="not finite"):
        asyncio.run(scores.read_replies(Model(nll=float("nan")), [scores.Reply("a", "b")], {}))
