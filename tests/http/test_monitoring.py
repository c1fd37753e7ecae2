"""`monitor` on the way in (names, layers, bounds) and on the way out (which row belongs to which token)."""

import numpy as np
import pytest
from resolvers import resolver_of
from trait_core.errors import InvalidRequestError, SteeringFailedError, UnknownVectorError
from trait_core.positions import Positions
from trait_core.schema import Monitor, MonitorReport
from trait_service.engine.reply_selector import ReplyItem, ReplySelector, ReplyStart
from trait_service.engine.spec import BoundHit
from trait_service.engine_link.run import Run
from trait_service.registry.registry import VectorRegistry
from trait_service.resolving.monitoring import MonitoredPrompt, TokenTexts, resolve_monitor, rounded, stop_reason


@pytest.fixture
def resolver(tmp_path, make_vector):
    registry = VectorRegistry(tmp_path / "vectors")
    registry.put("tone", make_vector(layers=(2, 4)).to_bytes())
    registry.put("other", make_vector(layers=(3,), seed=1).to_bytes())
    return resolver_of(registry, operations=("add",))


def resolved(resolver, **fields):
    return resolve_monitor(resolver, Monitor.model_validate(fields))


def test_each_vector_is_projected_on_its_own_layer_or_on_those_asked_for(resolver):
    monitor = resolved(resolver, vectors=["tone", "other"])
    assert [(c.vector, c.layer, c.centre) for c in monitor.columns] == [("tone", 2, 1.0), ("other", 3, 1.0)]
    monitor = resolved(resolver, vectors=["tone"], layers=[4, 2], centred=False)
    assert [(c.layer, c.centre) for c in monitor.columns] == [(4, 0.0), (2, 0.0)]
    assert {column.direction for column in monitor.spec.columns} == monitor.directions.keys()


def test_each_vector_is_projected_at_its_own_place_and_refused_at_another(tmp_path, make_vector):
    registry = VectorRegistry(tmp_path / "vectors")
    registry.put("tone", make_vector().to_bytes())
    registry.put("mlp", make_vector(seed=1, hook_point="mlp_out").to_bytes())
    resolver = resolver_of(registry, hook_points=("resid_post", "mlp_out"))
    monitor = resolved(resolver, vectors=["tone", "mlp"])
    assert [c.at for c in monitor.columns] == [c.at for c in monitor.spec.columns] == ["resid_post", "mlp_out"]
    with pytest.raises(InvalidRequestError, match="the vector 'tone' is for resid_post, and mlp_out is asked for"):
        resolved(resolver, vectors=["tone"], at="mlp_out")
    with pytest.raises(InvalidRequestError, match="--hook-points mlp_out"):
        resolved(resolver_of(registry), vectors=["mlp"])


def test_a_bound_is_moved_by_the_centre_since_workers_see_raw_projections(resolver):
    bounds = [{"vector": "tone", "above": 2.5}]
    (column,) = resolved(resolver, vectors=["tone"], bounds=bounds).spec.columns
    assert (column.above, column.below, column.stop) == (3.5, None, True)
    (column,) = resolved(resolver, vectors=["tone"], cosine=True, bounds=bounds).spec.columns
    assert (column.above, column.cosine) == (2.5, True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vectors": ["tone"], "layers": [3]}, "layer 3 is not in vector 'tone': its file has the layers 2, 4"),
        ({"vectors": ["tone"], "layers": [9]}, "layer 9 is out of range: 0..5"),
        ({"vectors": ["tone"], "bounds": [{"vector": "other", "above": 1.0}]}, "matches nothing that is monitored"),
        ({"vectors": ["tone"], "bounds": [{"vector": "tone", "above": 1.0}] * 2}, "2 bounds are on 'tone', layer 2"),
        ({"vectors": ["tone"] * 257, "layers": [2, 4]}, "514 directions .* at most 512"),
    ],
)
def test_what_cannot_be_monitored_is_refused_with_the_value(resolver, fields, message):
    with pytest.raises(InvalidRequestError, match=message):
        resolved(resolver, **fields)


def test_an_unknown_vector_names_its_field(resolver):
    with pytest.raises(UnknownVectorError) as caught:
        resolved(resolver, vectors=["tone", "missing"])
    assert caught.value.param == "monitor.vectors[1]"


def rows(start: int, stop: int) -> np.ndarray:
    """Row r holds r and -r."""
    column = np.arange(start, stop, dtype=np.float32)
    return np.stack([column, -column], axis=1)


def out(prompt: MonitoredPrompt, completion: int, n_tokens: int) -> None:
    """So many tokens of a completion are out by now."""
    prompt.note_tokens(completion, list(range(n_tokens))[prompt.tokens[completion] :])


@pytest.fixture
def prompt(resolver):
    monitor = resolved(resolver, vectors=["tone", "other"], bounds=[{"vector": "other", "below": -5.5}])
    return MonitoredPrompt(monitor, key="k", prompt_ids=[7, 8, 9], first_index=2, decode=str)


def test_generated_token_j_has_the_row_of_the_position_that_produced_it(prompt):
    prompt.add(0, rows(0, 6), 0)
    out(prompt, 0, 4)
    (choice,) = prompt.take()
    assert choice.index == 2
    assert choice.prompt == [[r - 1.0, -r - 1.0] for r in (0, 1, 2)]  # the centre of both is 1
    assert choice.generated == [[r - 1.0, -r - 1.0] for r in (2, 3, 4, 5)]


def test_chunks_add_up_to_the_whole_whatever_comes_ahead_of_the_tokens(prompt):
    prompt.add(0, rows(0, 4), 0)  # the engine is a step ahead
    taken = []
    for n_tokens, new in [(1, None), (1, None), (2, rows(4, 5)), (4, rows(3, 6))]:
        if new is not None:
            prompt.add(0, new, int(new[0, 0]))
        out(prompt, 0, n_tokens)
        taken += prompt.take()
    assert [len(choice.generated) for choice in taken] == [1, 1, 2]
    assert [len(choice.prompt) for choice in taken] == [3, 0, 0]
    assert [row[0] + 1 for choice in taken for row in choice.generated] == [2, 3, 4, 5]


def test_a_token_without_its_projection_fails_the_request(prompt):
    prompt.add(0, rows(0, 3), 0)
    out(prompt, 0, 2)
    with pytest.raises(SteeringFailedError, match="2 tokens were generated and 1 projections came back"):
        prompt.take()


def test_a_crossed_bound_is_said_once_in_the_unit_of_the_answer(prompt):
    prompt.add(0, rows(0, 6), 0)
    out(prompt, 0, 4)
    prompt.hits = {0: BoundHit(completion=0, column=1, position=5, value=-5.0, stop=True)}
    (choice,) = prompt.take()
    assert (choice.crossed.vector, choice.crossed.token, choice.crossed.position) == ("other", 3, 5)
    assert (choice.crossed.value, choice.crossed.below) == (-6.0, -5.5)
    assert stop_reason(choice.crossed) == "monitor: other at layer 3 is -6, below -5.5, at token 3"
    assert prompt.take() == []


def test_only_the_first_completion_carries_the_prompt(prompt):
    for completion in (0, 1):
        prompt.add(completion, rows(0, 4), 0)
        out(prompt, completion, 2)
    assert [(c.index, len(c.prompt), len(c.generated)) for c in prompt.take()] == [(2, 3, 2), (3, 0, 2)]


def test_a_stream_names_its_columns_once_with_the_first_projections(prompt):
    run = Run(monitor=prompt.monitor, monitored=[prompt])
    assert run.monitor_report() == MonitorReport(directions=[], choices=[])  # a chunk ahead of the first token
    named = []
    for n_tokens in (1, 2, 3):
        prompt.add(0, rows(0, 6), 0)
        out(prompt, 0, n_tokens)
        report = run.monitor_report()
        assert len(report.choices) == 1
        named.append([column.vector for column in report.directions])
    assert named == [["tone", "other"], [], []]


def test_projections_have_seven_significant_digits_and_what_is_not_finite_stays():
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32) * np.float32(10.0) ** np.arange(
        -10, 10
    ).repeat(250)
    short = rounded(values)
    assert np.abs(short / values - 1).max() < 6e-7
    assert max(len(f"{value:.0f}" if abs(value) >= 1e6 else repr(value).lstrip("-")) for value in short.tolist()) <= 13
    odd = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-42], dtype=np.float32)
    assert rounded(odd).tolist()[:2] == [0.0, 0.0]
    assert np.isnan(rounded(odd)[2])
    assert rounded(odd)[3:5].tolist() == [np.inf, -np.inf]
    assert rounded(odd)[5] == pytest.approx(1e-42, rel=1e-3)


def test_token_texts_join_to_the_whole_though_characters_are_split_over_tokens():
    pieces = [b"na", b"\xc3", b"\xaf", b"ve ", b"\xf0\x9f", b"\x8d", b"\x9e", b"!"]

    def decode(ids: list[int]) -> str:
        return b"".join(pieces[i] for i in ids).decode("utf-8", errors="replace")

    texts = TokenTexts(decode)
    made = texts.feed([0, 1]) + texts.feed([2, 3, 4, 5]) + texts.feed([6, 7])
    assert made == ["na", "", "ï", "ve ", "", "", "🍞", "!"]


def test_token_texts_come_with_the_rows_they_belong_to(resolver):
    monitor = resolved(resolver, vectors=["tone"], tokens=True)
    prompt = MonitoredPrompt(monitor, "k", [70, 71], 0, lambda ids: "".join(chr(i) for i in ids))
    prompt.add(0, rows(0, 3)[:, :1], 0)
    prompt.note_tokens(0, [65, 66])
    (choice,) = prompt.take()
    assert (choice.prompt_tokens, choice.generated_tokens) == (["F", "G"], ["A", "B"])
    assert (len(choice.prompt), len(choice.generated)) == (2, 2)


def test_only_the_rows_of_the_selected_positions_are_answered_chunk_by_chunk(resolver):
    monitor = resolved(resolver, vectors=["tone", "other"], positions="prompt[:2], response[::2]", tokens=True)
    prompt = MonitoredPrompt(monitor, "k", [70, 71, 72], 0, lambda ids: "".join(chr(i) for i in ids))
    prompt.add(0, rows(0, 8), 0)
    prompt.note_tokens(0, [73, 74])
    (first,) = prompt.take()
    assert (first.prompt_positions, first.generated_positions) == ([0, 1], [3])
    assert [row[0] + 1 for row in (*first.prompt, *first.generated)] == [0, 1, 3]
    assert (first.prompt_tokens, first.generated_tokens) == (["F", "G"], ["J"])
    prompt.note_tokens(0, [75, 76, 77])
    (second,) = prompt.take()
    assert (second.prompt_positions, second.generated_positions, second.generated_tokens) == ([], [5], ["L"])
    assert [row[0] + 1 for row in second.generated] == [5]


def test_positions_that_the_replys_tokens_tell_are_answered_as_they_come(resolver):
    monitor = resolved(resolver, vectors=["tone", "other"], positions="prompt[-1], thinking[:]", tokens=True)
    prompt = MonitoredPrompt(monitor, "k", [70, 71, 72], 0, lambda ids: "".join(chr(i) for i in ids))
    prompt.positions = Positions.parse("all[2]")
    thinking = ReplySelector(reply=ReplyStart(first=3, begin=60, end=62), select=(ReplyItem(part="thinking"),))
    prompt.reply = thinking
    prompt.add(0, rows(0, 9), 0)
    answered = []
    for emitted in ([60, 80], [81], [62, 82], [83]):  # positions 3 to 8: 3 opens the reasoning, 6 closes it
        prompt.note_tokens(0, emitted)
        answered += [(each.prompt_positions, each.generated_positions, each.generated_tokens) for each in prompt.take()]
    # The row of a position comes with the token after it, which it produced.
    assert answered == [([2], [2], ["<"]), ([], [4], ["Q"]), ([], [5], [">"])]


@pytest.mark.parametrize(("positions", "message"), [("response[-1]", "still being generated")])
def test_positions_that_depend_on_tokens_to_come_are_refused(resolver, positions, message):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        resolved(resolver, vectors=["tone"], positions=positions)
    assert caught.value.param == "monitor.positions"
