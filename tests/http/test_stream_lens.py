"""`monitor.lens`: what is refused, what comes out with which token, and how many requests read at once."""

import asyncio

import numpy as np
import pytest
from pydantic import ValidationError
from trait_core.errors import InvalidRequestError, SteeringFailedError
from trait_core.schema import Monitor, StreamLens
from trait_service.engine.spec import CaptureSpec, LensSpec, RequestSpec
from trait_service.engine_link.capture_slots import CaptureSlots
from trait_service.engine_link.lens_room import LensRoom
from trait_service.engine_link.run import Run
from trait_service.resolving.monitoring import MonitoredPrompt, ResolvedMonitor
from trait_service.resolving.stream_lens import LensLimits, LensRows, lens_spec, token_text

SPEC = LensSpec(layers=[4, 2], top_k=2)
LIMITS = LensLimits(n_layers=6, max_readings=8)


def rows(start: int, stop: int) -> np.ndarray:
    """Position r says tokens 10 r and 10 r + 1 from the first layer, 10 r + 5 and nothing more from the second."""
    made = [[10 * r, 10 * r + 1, -0.25, -2.0, 10 * r + 5, -1, -0.5, -1.0] for r in range(start, stop)]
    return np.array(made, dtype=np.float32)


def prompt_of(**fields: object) -> MonitoredPrompt:
    monitor = ResolvedMonitor(None, (), (), {}, lens=SPEC, **fields)
    return MonitoredPrompt(monitor, "k", [7, 8, 9], 0, str, LensRows(SPEC, lambda token: f"<{token}>"))


def out(prompt: MonitoredPrompt, completion: int, n: int) -> None:
    """So many tokens of a completion are out by now."""
    prompt.note_tokens(completion, list(range(prompt.tokens[completion], n)))


def test_token_j_has_the_tokens_of_each_layer_in_the_order_asked_for():
    prompt = prompt_of()
    prompt.add_guesses(0, rows(0, 3), 0)
    out(prompt, 0, 2)
    (choice,) = prompt.take()
    assert (choice.prompt, choice.generated, choice.prompt_tokens) == ([], [], None)
    first, second = choice.lens
    assert [(guess.id, guess.text, guess.logprob) for guess in first[0]] == [(0, "<0>", -0.25), (1, "<1>", -2.0)]
    assert [guess.id for guess in second[0]] == [10, 11]
    assert [guess.id for guess in second[1]] == [15], "a vocabulary with fewer tokens than asked for"


def test_chunks_add_up_and_name_the_layers_once():
    prompt = prompt_of()
    run = Run(monitor=prompt.monitor, monitored=[prompt])
    reports = []
    for n in (1, 2, 3):
        prompt.add_guesses(0, rows(n - 1, n), n - 1)
        out(prompt, 0, n)
        reports.append(run.monitor_report())
    assert [report.lens_layers for report in reports] == [[4, 2], [], []]
    said = [layers for report in reports for choice in report.choices for layers in choice.lens]
    assert [layers[0][0].id for layers in said] == [0, 10, 20]


def test_a_token_whose_reading_has_not_come_fails_the_request():
    prompt = prompt_of()
    prompt.add_guesses(0, rows(0, 1), 0)
    out(prompt, 0, 2)
    with pytest.raises(SteeringFailedError, match="2 tokens were generated and 1 readings of the lens came back"):
        prompt.take()


def test_a_completion_that_starts_late_is_asked_for_from_its_start():
    prompt = prompt_of()
    prompt.add_guesses(0, rows(0, 5), 0)
    out(prompt, 0, 5)
    assert prompt.received == 2 + 5  # absolute: the first row is of position n_prompt - 1
    out(prompt, 1, 1)
    assert prompt.received == 2


def test_texts_of_tokens_come_with_a_lens_alone():
    prompt = prompt_of(tokens=True)
    prompt.add_guesses(0, rows(0, 2), 0)
    out(prompt, 0, 2)
    (choice,) = prompt.take()
    assert choice.generated_tokens == ["[0]", "[1]"]


@pytest.mark.parametrize(
    ("layers", "n", "message"),
    [
        ([6], 1, "layer 6 is out of range: the model has layers 0..5"),
        ([1, 2, 1], 1, "name one layer twice"),
        ([0, 1, 2], 3, "3 layers of 3 completions, 9 in a step; allowed: 1..8"),
    ],
)
def test_what_the_engine_could_not_read_is_refused_with_the_range(layers, n, message):
    with pytest.raises(InvalidRequestError, match=message):
        LIMITS.check(layers, n)


def test_a_layer_of_an_earlier_stage_and_a_model_without_a_norm_are_refused():
    with pytest.raises(InvalidRequestError, match=r"layer 2 with pipeline parallelism.*from 3 on"):
        LensLimits(n_layers=6, first_layer=3).check([4, 2], 1)
    with pytest.raises(InvalidRequestError, match="no norm was found"):
        LensLimits(n_layers=6, refusal="no norm was found").check([4], 1)


def test_a_monitor_needs_vectors_or_a_lens():
    with pytest.raises(ValidationError, match="needs vectors, a lens, or both"):
        Monitor(vectors=[])
    monitor = Monitor(lens={"layers": [3]})
    assert (monitor.vectors, monitor.lens) == ([], StreamLens(layers=[3], top_k=5))
    for wrong in ({"layers": []}, {"layers": [1], "top_k": 51}, {"layers": [1], "top_k": 0}, {"layers": [-1]}):
        with pytest.raises(ValidationError):
            Monitor(lens=wrong)
    assert lens_spec(monitor.lens) == LensSpec(layers=[3], top_k=5)


def test_a_request_captures_or_has_a_lens():
    with pytest.raises(ValidationError, match="a capture or a lens"):
        RequestSpec(key="k", capture=CaptureSpec(positions=["prompt[:]"]), lens=SPEC)


def test_requests_wait_while_others_read_and_those_without_a_lens_do_not():
    async def scenario() -> None:
        room = LensRoom(LIMITS, CaptureSlots(4), str)
        one = RequestSpec(key="a", n=3, lens=SPEC)  # 6 of 8 readings, 3 of 4 rows
        async with room.of(one):
            waiting = asyncio.create_task(_enter(room, RequestSpec(key="b", n=2, lens=SPEC)))
            async with room.of(RequestSpec(key="c", capture=CaptureSpec(positions=["prompt[:]"]))):
                await asyncio.sleep(0)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 5)

    asyncio.run(scenario())


async def _enter(room: LensRoom, spec: RequestSpec) -> None:
    async with room.of(spec):
        pass


def test_a_token_keeps_the_space_before_it(smollm2_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_path)
    (token,) = tokenizer.encode(" Paris", add_special_tokens=False)
    assert token_text(tokenizer, token) == " Paris"
    assert token_text(tokenizer, 10**7) == ""
