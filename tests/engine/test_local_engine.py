"""`trait_steering.LocalEngine` on a real SmolLM2: the client's calls, the service's reports and errors, no server."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from trait_core.vectors.inline import inline_vector
from trait_steering import (
    ActivationInput,
    ActivationsRequest,
    Generation,
    InvalidRequestError,
    Message,
    Monitor,
    PatchPrompt,
    PatchRequest,
    ServiceError,
    ServiceUnreachableError,
    Steering,
    SteeringTerm,
    UnknownVectorError,
    VectorFile,
)
from vector_fixtures import random_vector

pytest.importorskip("vllm")
pytestmark = pytest.mark.engine

PROMPT = "Tell me something about bread."
LAYER = 12
BEGIN, END = "<issue_start>", "<issue_closed>"  # tokens of SmolLM2, which has no markers of reasoning
TRAITS = Path(__file__).resolve().parents[2] / "datasets" / "traits"


@pytest.fixture(scope="module")
def engine(smollm2_path) -> Iterator:
    from trait_steering import LocalEngine

    arguments = ["--served-model-name", "smollm2"]
    with LocalEngine(
        str(smollm2_path),
        max_model_len=512,
        max_num_seqs=32,
        enforce_eager=True,
        arguments=arguments,
        reasoning_markers=f"{BEGIN} {END}",
        hook_points=["mlp_out", "head_out"],
    ) as engine:
        yield engine


@pytest.fixture(scope="module", autouse=True)
def vector(engine) -> VectorFile:
    """A random direction, registered as `random`."""
    vector = random_vector(engine.info(), seed=5, layer=LAYER)
    engine.put_vector("random", vector.to_bytes())
    return vector


def steer(coefficient: float, **fields) -> Steering:
    return Steering(terms=[SteeringTerm(vector="random", coefficient=coefficient, **fields)])


def engine_processes() -> list[int]:
    """Children of this process that run vLLM's engine."""
    listed = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "pid=,args="], capture_output=True, text=True, check=True
    )
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "spawn_main" in line or "EngineCore" in line]


def test_a_steered_reply_differs_and_carries_the_services_report(engine):
    plain = engine.chat(PROMPT, max_tokens=12)
    steered = engine.chat(PROMPT, max_tokens=12, steering=steer(6.0))
    assert plain.steering is None
    assert steered.text != plain.text
    (applied,) = steered.steering.applied
    residual_norm = engine.info().residual_norms[LAYER]
    assert (applied.vector, applied.layer, applied.operation, applied.unit) == ("random", LAYER, "add", "dose")
    assert applied.a == pytest.approx(6.0 * residual_norm / 10)
    assert applied.relative_dose == pytest.approx(0.6)
    positions = steered.steering.positions
    assert (positions.prompt, positions.generated) == (steered.usage.prompt_tokens, steered.usage.completion_tokens - 1)


def test_a_stream_comes_in_pieces_with_the_report_at_the_end(engine):
    whole = engine.chat(PROMPT, max_tokens=8, steering=steer(2.0))
    pieces = list(engine.chat_stream(PROMPT, max_tokens=8, steering=steer(2.0)))
    assert sum(bool(piece.text) for piece in pieces) > 4
    assert "".join(piece.text for piece in pieces) == whole.text
    (report,) = [piece.steering for piece in pieces if piece.steering]
    assert report.applied == whole.steering.applied


def test_a_batch_steers_each_request_its_own_way(engine):
    steerings = [None, steer(1.0), steer(-6.0)] * 8
    replies = engine.complete_many(["The bakery opens at"] * 24, steerings=steerings, max_tokens=6)
    assert [r.steering and r.steering.applied[0].coefficient for r in replies] == [None, 1.0, -6.0] * 8
    assert replies[0].text != replies[2].text
    chats = engine.chat_many([PROMPT, "What is a river?"], max_tokens=4, steering=steer(1.0))
    assert [chat.steering.applied[0].coefficient for chat in chats] == [1.0, 1.0]
    assert [chat.usage.completion_tokens for chat in chats] == [4, 4]


def test_a_batch_takes_one_steering_for_all_or_one_each(engine):
    with pytest.raises(Exception, match="2 steerings for 3 requests"):
        engine.complete_many(["a", "b", "c"], steerings=[None, None])
    with pytest.raises(Exception, match="not both"):
        engine.chat_many(["a"], steerings=[None], steering=steer(1.0))


@pytest.mark.parametrize(
    ("steering", "says"),
    [
        (Steering(terms=[SteeringTerm(vector="unknown", coefficient=1.0)]), "no vector 'unknown' is registered"),
        (steer(1.0, layers=[30]), "layer 30"),
        (steer(30.0), "relative dose on layer 12 is 3 .* allowed: at most 2"),
    ],
    ids=["vector", "layer", "dose"],
)
def test_what_cannot_be_steered_is_the_services_error(engine, steering, says):
    with pytest.raises(ServiceError, match=says) as refused:
        engine.chat(PROMPT, max_tokens=2, steering=steering)
    assert refused.value.status == 400
    assert refused.value.param.startswith("steering")
    with pytest.raises(ServiceError, match=says):
        engine.chat_many([PROMPT, PROMPT], max_tokens=2, steerings=[None, steering])


def test_activations_have_the_models_shape_and_the_steering_that_was_asked_for(engine, vector):
    request = ActivationsRequest(
        inputs=[ActivationInput(text="The bakery opens at nine."), ActivationInput(text="Rivers rise in spring.")],
        positions=["prompt[-1]"],
        layers=[LAYER],
    )
    plain = engine.activations(request).mean("prompt[-1]")
    steered = engine.activations(request.model_copy(update={"steering": steer(2.0)})).mean("prompt[-1]")
    assert plain.shape == (2, 1, engine.info().d_model)
    a = 2.0 * engine.info().residual_norms[LAYER] / 10
    assert np.allclose(steered - plain, a * vector.directions[LAYER], atol=1e-2 * a)


def test_tokens_are_monitored(engine):
    reply = engine.chat(PROMPT, max_tokens=5, monitor=Monitor(vectors=["random"]))
    assert len(reply.monitor.choices) == 1
    assert reply.monitor.directions[0].layer == LAYER


def test_the_lens_of_the_last_layer_says_what_the_model_says_and_others_say_other_tokens(engine):
    monitor = Monitor(lens={"layers": [29, LAYER], "top_k": 3}, tokens=True)
    reply = engine.chat(PROMPT, max_tokens=5, monitor=monitor, logprobs=3, steering=steer(1.0))
    assert (reply.monitor.lens_layers, reply.monitor.directions) == ([29, LAYER], [])
    (choice,) = reply.monitor.choices
    assert (choice.prompt, choice.generated) == ([], [])
    assert len(choice.lens) == len(reply.logprobs) == len(choice.generated_tokens) == 5
    for (last, middle), said, token in zip(choice.lens, reply.logprobs, choice.generated_tokens, strict=True):
        assert last[0].text == token
        expected = [each.logprob for each in said.top_logprobs]
        np.testing.assert_allclose([guess.logprob for guess in last], expected, atol=0.05)
        assert [guess.id for guess in middle] != [guess.id for guess in last]
    with pytest.raises(ServiceError, match=r"layer 30 is out of range: the model has layers 0\.\.29") as caught:
        engine.chat(PROMPT, max_tokens=2, monitor=Monitor(lens={"layers": [30]}))
    assert (caught.value.status, caught.value.param) == (400, "monitor.lens.layers")


def test_attention_heads_are_read_side_by_side_or_one_by_one(engine, smollm2_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(smollm2_path, dtype=torch.float32).eval()
    ids = [5, 906, 7, 3008, 911, 10, 1213]
    kept = {}
    projection = model.model.layers[LAYER].self_attn.o_proj
    handle = projection.register_forward_pre_hook(lambda _, args: kept.update(heads=args[0][0].numpy()))
    with torch.no_grad():
        model(torch.tensor([ids]), use_cache=False)
    handle.remove()
    reading = {"inputs": [ActivationInput(token_ids=ids)], "layers": [LAYER], "positions": ["prompt[1:]"]}
    largest = np.abs(kept["heads"]).max()
    assert engine.info().n_heads == 9
    for at, columns in {"head_out": slice(None), "head_out[3]": slice(3 * 64, 4 * 64)}.items():
        expected = kept["heads"][1:, columns]
        mean = engine.activations(ActivationsRequest(**reading, at=at))
        assert mean.mean("prompt[1:]").shape == (1, 1, expected.shape[1])
        assert np.abs(mean.mean("prompt[1:]")[0, 0] - expected.mean(0)).max() / largest < 2e-2
        each = engine.activations(ActivationsRequest(**reading, at=at, pooling="none")).each(0)
        assert np.abs(each[:, 0] - expected).max() / largest < 2e-2
        with pytest.raises(InvalidRequestError, match="no norms of head_out"):
            mean.norm("prompt[1:]")
    with pytest.raises(ServiceError, match=r"head_out\[9\] is out of range: the model has heads 0\.\.8"):
        engine.activations(ActivationsRequest(**reading, at="head_out[9]"))


def test_vectors_are_registered_listed_and_deleted(engine):
    other = random_vector(engine.info(), seed=6)
    registered = engine.put_vector("other", other.to_bytes())
    assert {v.name for v in engine.vectors()} == {"random", "other"}
    assert engine.vector_file("other").to_bytes() == other.to_bytes()
    assert engine.vector("other").sha256 == registered.sha256
    engine.delete_vector("other")
    with pytest.raises(UnknownVectorError, match="other"):
        engine.vector("other")


def test_vectors_extracted_on_it_are_of_its_model(engine):
    from trait_steering import extract

    vectors = extract(engine, "capitals", ["mean_diff", "random"], datasets=TRAITS, splits=2)
    assert list(vectors) == ["mean_diff", "random"]
    metadata = vectors["mean_diff"].metadata
    assert (metadata.trait, metadata.positions) == ("capitals", "response[:]")
    assert metadata.layers[metadata.chosen_layer].auc > 0.9
    engine.put_vector("capitals", vectors["mean_diff"].to_bytes())
    engine.delete_vector("capitals")


def test_selectors_say_where_a_reply_is_steered(engine):
    reply = engine.chat(PROMPT, max_tokens=8, steering=steer(3.0, scope=["prompt[-4:]", "response[1::2]"]))
    fed = reply.usage.completion_tokens - 1
    assert reply.steering.applied[0].scope == "prompt[-4:], response[1::2]"
    positions = reply.steering.positions
    assert (positions.prompt, positions.generated) == (4, len(range(fed)[1::2]))
    for scope, reason in {
        "prompt[500:]": "selects no position",
        "response[-1]": "still being generated",
        "thinking[-4:]": "still being generated",
        'tokens["rye bread"]': "'rye bread' is . tokens: while a reply is generated",
    }.items():
        with pytest.raises(ServiceError, match=reason) as caught:
            engine.chat(PROMPT, max_tokens=2, steering=steer(3.0, scope=scope))
        assert caught.value.status == 400


def test_a_monitor_answers_the_rows_that_it_selects(engine):
    asked = {"vectors": ["random"], "tokens": True}
    whole = engine.chat(PROMPT, max_tokens=6, monitor=Monitor(**asked)).monitor.choices[0]
    some = engine.chat(
        PROMPT, max_tokens=6, monitor=Monitor(**asked, positions="prompt[-2:], response[::2]")
    ).monitor.choices[0]
    n = len(whole.prompt)
    assert (some.prompt_positions, some.generated_positions) == ([n - 2, n - 1], [n - 1, n, n + 2, n + 4])
    np.testing.assert_allclose(some.prompt, whole.prompt[-2:], rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(some.generated, [whole.generated[at] for at in (0, 1, 3, 5)], rtol=1e-2, atol=1e-2)
    assert some.generated_tokens == [whole.generated_tokens[at] for at in (0, 1, 3, 5)]


def each_position(engine, item, steering=None, **fields):
    """`(n_tokens, d_model)` float32 of `LAYER`."""
    request = ActivationsRequest(inputs=[item], layers=[LAYER], pooling="none", steering=steering, **fields)
    return engine.activations(request).each(0)[:, 0]


def test_in_a_given_text_selectors_count_inside_its_reply(engine):
    item = ActivationInput(messages=[Message(role="user", content=PROMPT)], response="It is baked every day.")
    plain = each_position(engine, item, positions=["all[:]"])
    steered = each_position(engine, item, steer(3.0, scope="response[-2:], prompt[0]"), positions=["all[:]"])
    moved = np.linalg.norm(steered - plain, axis=1) > 0.1
    assert np.flatnonzero(moved).tolist() == [0, len(plain) - 2, len(plain) - 1]


def overlaps(tokens, at, length):
    """`(n_tokens,)` bool: tokens that hold some of the characters; `tokens` are `(n_tokens, 2)` character offsets."""
    return (tokens[:, 0] < at + length) & (tokens[:, 1] > at)


def test_reasoning_answer_and_spelt_tokens_are_pools_of_a_given_reply(engine, smollm2_path):
    reply = f"{BEGIN}bread is baked{END}It is baked."
    item = ActivationInput(text=PROMPT, response=reply)
    from transformers import AutoTokenizer

    encoded = AutoTokenizer.from_pretrained(smollm2_path)(reply, return_offsets_mapping=True, add_special_tokens=False)
    tokens = np.array(encoded["offset_mapping"])
    begin, end = reply.index("bread"), reply.index(END)
    inside = {
        "thinking[:]": (tokens[:, 0] >= begin) & (tokens[:, 1] <= end),
        "answer[:]": tokens[:, 0] >= end + len(END),
        'tokens[" baked"]': overlaps(tokens, reply.index(" baked"), 6) | overlaps(tokens, reply.rindex(" baked"), 6),
    }
    states = each_position(engine, item, positions=["response[:]"])
    pooled = engine.activations(ActivationsRequest(inputs=[item], layers=[LAYER], positions=list(inside)))
    for name, held in inside.items():
        assert pooled.count(name)[0] == held.sum() > 0, name
        np.testing.assert_allclose(pooled.mean(name)[0, 0], states[held].mean(0), rtol=1e-3, atol=1e-3)


def test_parts_of_a_generated_reply_are_read_once_it_is_whole_under_the_steering_that_wrote_it(engine):
    item = ActivationInput(messages=[Message(role="user", content=PROMPT)])
    asked = {"generate": Generation(max_tokens=10), "steering": steer(2.0, scope="generated"), "layers": [LAYER]}
    once = engine.activations(ActivationsRequest(inputs=[item], positions=["response[:]"], **asked))
    twice = engine.activations(ActivationsRequest(inputs=[item], positions=["answer[:]", "thinking[:]"], **asked))
    assert twice.metadata.responses == once.metadata.responses
    assert twice.metadata.steering.positions == once.metadata.steering.positions
    assert twice.count("answer[:]")[0] == once.count("response[:]")[0] > 0
    assert twice.count("thinking[:]")[0] == 0
    np.testing.assert_allclose(twice.mean("answer[:]"), once.mean("response[:]"), rtol=1e-2, atol=1e-2)


def completed(engine, prompt, scope, **options):
    return engine.complete(prompt, max_tokens=12, steering=steer(2.0, scope=scope), **options)


def acted(result) -> tuple[int, int]:
    """Prompt and generated positions at which the only term acted."""
    (applied,) = result.steering.applied
    return applied.acted.prompt, applied.acted.generated


def test_a_part_of_a_reply_that_is_being_generated_is_steered_as_the_positions_that_it_comes_to(engine):
    opened = f"{PROMPT} {BEGIN}"
    for prompt, part, other, n in [
        (opened, "thinking[:4]", "response[:4]", 4),
        (opened, "thinking[1:8:3]", "response[1:8:3]", 3),
        (PROMPT, "answer[1:3], prompt[0]", "response[1:3], prompt[0]", 2),
    ]:
        one, same = completed(engine, prompt, part), completed(engine, prompt, other)
        assert one.text == same.text
        assert acted(one) == acted(same) == (int("prompt" in part), n)
        assert one.steering.applied[0].scope == part
    nowhere = completed(engine, opened, "answer[:]")
    assert nowhere.text == engine.complete(opened, max_tokens=12).text
    assert acted(nowhere) == (0, 0)


def test_tokens_of_a_reply_are_counted_in_every_completion_and_rows_of_a_part_are_monitored(engine):
    replies = engine.complete(
        "One, two, three,",
        n=3,
        temperature=1.0,
        seed=4,
        max_tokens=24,
        steering=steer(1.0, scope='tokens[","] except prompt[:]'),
        monitor=Monitor(vectors=["random"], layers=[LAYER], positions="answer[1:3], prompt[0]", tokens=True),
    )
    whole = engine.complete("One, two, three,", max_tokens=24, monitor=Monitor(vectors=["random"], tokens=True))
    assert "," in whole.monitor.choices[0].generated_tokens
    assert acted(replies)[0] == 0
    assert acted(replies)[1] > 0
    n_prompt = replies.usage.prompt_tokens
    assert [choice.prompt_positions for choice in replies.monitor.choices] == [[0], [], []]
    for choice in replies.monitor.choices:
        assert choice.generated_positions == [n_prompt + 1, n_prompt + 2]


def test_a_gate_with_its_own_vector_opens_where_one_with_the_registered_vector_does(engine, vector):
    direction = inline_vector(vector.directions[LAYER])
    found = [
        engine.chat(PROMPT, max_tokens=8, steering=steer(1.0, scope="all[1:]", when=gate))
        for gate in (
            {"vector": "random", "layer": LAYER, "above": 0.0, "centred": False},
            {"vector": direction, "layer": LAYER, "above": 0.0, "centred": False},
        )
    ]
    registered, inline = found
    assert acted(inline) == acted(registered)
    assert 0 < acted(inline)[0] < inline.usage.prompt_tokens - 1
    assert inline.text == registered.text
    assert inline.steering.applied[0].when.vector == "inline"


def test_turns_of_a_chat_are_steered_where_captures_read_them(engine):
    chat = [Message(role="system", content="Be brief."), Message(role="user", content=PROMPT)]
    item = ActivationInput(messages=chat, response="Bread is baked.")
    read = engine.activations(ActivationsRequest(inputs=[item], layers=[LAYER], positions=["turn[0]", "turn[1]"]))
    for turn in ("turn[0]", "turn[1]"):
        reply = engine.chat(chat, max_tokens=6, steering=steer(1.0, scope=turn))
        assert acted(reply) == (read.count(turn)[0], 0)
    last = engine.chat(chat, max_tokens=6, steering=steer(1.0, scope="turn[-1]"))
    n_header = last.usage.prompt_tokens - sum(read.count(turn)[0] for turn in ("turn[0]", "turn[1]"))
    assert acted(last) == (n_header, 5)
    with pytest.raises(ServiceError, match="need a chat: send messages") as refused:
        completed(engine, PROMPT, "turn[0]")
    assert (refused.value.status, refused.value.param) == (400, "steering.terms")


def test_a_reply_whose_part_was_steered_is_read_back_under_the_same_steering(engine):
    item = ActivationInput(text=f"{PROMPT} {BEGIN}")
    asked = {"generate": Generation(max_tokens=10), "layers": [LAYER]}
    for scope in ("thinking[:3]", "response[:3]"):
        request = ActivationsRequest(
            inputs=[item], positions=["thinking[:]"], steering=steer(2.0, scope=scope), **asked
        )
        found = engine.activations(request)
        assert found.metadata.steering.positions.generated == 3
        if scope == "thinking[:3]":
            first = found
    assert found.metadata.responses == first.metadata.responses
    np.testing.assert_allclose(found.mean("thinking[:]"), first.mean("thinking[:]"), rtol=1e-2, atol=1e-2)


def test_an_interrupt_does_not_end_the_engine(engine):
    """A terminal and a notebook send it to the engine's process too."""
    (process,) = engine_processes()
    os.kill(process, signal.SIGINT)
    assert engine.chat(PROMPT, max_tokens=2).usage.completion_tokens == 2


def test_a_script_needs_no_main_guard(tmp_path):
    """A spawned process that runs the script again would print its lines again, and start another process."""
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, os\n"
        "from trait_service.in_process import _main_stays_out_of_children\n"
        "print('the script runs', flush=True)\n"
        "with _main_stays_out_of_children():\n"
        "    process = multiprocessing.get_context('spawn').Process(target=os.getpid)\n"
        "    process.start()\n"
        "process.join()\n"
        "print(process.exitcode, __file__ is not None)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["the script runs", "0 True"], done.stderr


def test_what_an_mlp_adds_is_steered_read_and_monitored_and_is_a_part_of_the_stream(engine, vector):
    """In SmolLM2 the MLP is the last to add to a block's stream: a vector added there is added to the block's output."""
    direction = vector.directions[LAYER]
    mlp = VectorFile.from_arrays("mlp", {LAYER: direction}, engine.info(), at="mlp_out")
    engine.put_vector("mlp", mlp.to_bytes())
    assert engine.info().hook_points == ["resid_post", "mlp_out"]
    at_mlp = Steering(terms=[SteeringTerm(vector="mlp", coefficient=4.0)])
    replies = [engine.chat(PROMPT, steering=each, max_tokens=16) for each in (at_mlp, steer(4.0))]
    assert replies[0].text == replies[1].text != engine.chat(PROMPT, max_tokens=16).text
    (applied,) = replies[0].steering.applied
    assert (applied.at, applied.layer) == ("mlp_out", LAYER)

    inputs = [ActivationInput(text=PROMPT)]
    reading = {"inputs": inputs, "layers": [LAYER], "positions": ["all[4:]"]}
    plain, steered = (
        engine.activations(ActivationsRequest(**reading, at="mlp_out", steering=each)) for each in (None, at_mlp)
    )
    moved = steered.mean("all[4:]")[0, 0] - plain.mean("all[4:]")[0, 0]
    np.testing.assert_allclose(moved, applied.a * direction, atol=1e-3 * abs(applied.a))
    stream = engine.activations(ActivationsRequest(**reading))
    assert float(stream.norm("all[4:]")[0, 0]) > float(plain.norm("all[4:]")[0, 0]) > 0

    watched = engine.chat(PROMPT, monitor=Monitor(vectors=["mlp", "random"], centred=False), max_tokens=2)
    assert [each.at for each in watched.monitor.directions] == ["mlp_out", "resid_post"]
    rows = np.array(watched.monitor.choices[0].prompt)
    ids = ActivationInput(messages=[Message(role="user", content=PROMPT)])
    for column, at in enumerate(("mlp_out", "resid_post")):
        request = ActivationsRequest(inputs=[ids], layers=[LAYER], positions=["prompt[:]"], at=at, pooling="none")
        each = engine.activations(request).each(0)[:, 0] @ direction
        np.testing.assert_allclose(rows[:, column], each, rtol=1e-3, atol=1e-3 * np.abs(each).max())


def test_what_an_mlp_adds_is_patched_as_a_hook_in_transformers_does(engine, smollm2_path):
    texts = [f"The capital of {country} is the city of" for country in ("France", "Italy")]
    spans, answers, layers = ("France", "Italy"), (" Paris", " Rome"), [0, 23]
    source, target = (PatchPrompt(text=t, span=s, answer=a) for t, s, a in zip(texts, spans, answers, strict=True))
    report = engine.patch(
        PatchRequest(source=source, target=target, layers=layers, positions="prompt[3], prompt[-1]", at=["mlp_out"])
    )
    assert [(cell.at, cell.layer, cell.positions) for cell in report.cells] == [
        ("mlp_out", layer, [position]) for layer in layers for position in (3, 7)
    ]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(smollm2_path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(smollm2_path)
    first, second = (tokenizer.encode(answer)[0] for answer in answers)

    def run(text: str, layer: int, hook) -> float:
        handle = model.model.layers[layer].mlp.register_forward_hook(hook)
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer.encode(text)])).logits[0, -1]
        handle.remove()
        return float(logits[first] - logits[second])

    wanted = []
    for layer in layers:
        kept: list[torch.Tensor] = []
        run(texts[0], layer, lambda *given, kept=kept: kept.append(given[2][0].clone()))
        for position in (3, 7):

            def replace(_module, _arguments, output, position=position, kept=kept) -> torch.Tensor:
                output[0, position] = kept[0][position]
                return output

            wanted.append(run(texts[1], layer, replace))
    assert [cell.difference for cell in report.cells] == pytest.approx(wanted, abs=5e-3)
    assert len({round(each, 1) for each in wanted}) > 1


def test_a_hook_point_that_the_engine_was_not_started_with_is_a_400_that_names_the_option(engine, vector):
    for ask in (
        lambda: engine.activations(ActivationsRequest(inputs=[ActivationInput(text=PROMPT)], at="attn_out")),
        lambda: engine.chat(
            PROMPT,
            steering=Steering(
                terms=[
                    SteeringTerm(
                        vector=inline_vector(vector.directions[LAYER]), coefficient=1, layers=[LAYER], at="attn_out"
                    )
                ]
            ),
        ),
    ):
        with pytest.raises(
            ServiceError, match="no hook point attn_out: start the service with --hook-points attn_out"
        ) as caught:
            ask()
        assert caught.value.status == 400


def test_an_engine_that_died_fails_requests_and_close_leaves_nothing(engine):
    """Last in the module: it ends the engine that the others share."""
    (process,) = engine_processes()
    folder = Path(engine.registry)
    assert any(folder.iterdir())
    assert "VLLM_USE_AOT_COMPILE" in os.environ
    os.kill(process, signal.SIGKILL)
    with pytest.raises(ServiceError):
        engine.chat(PROMPT, max_tokens=2, steering=steer(2.0))
    engine.close()
    engine.close()
    assert engine_processes() == []
    assert not folder.exists()
    assert "VLLM_USE_AOT_COMPILE" not in os.environ
    with pytest.raises(ServiceUnreachableError, match="closed"):
        engine.chat(PROMPT)
