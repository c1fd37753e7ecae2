"""`POST /v1/patch` on a real service: every cell equals transformers with the stream replaced by a hook."""

from collections.abc import Sequence

import httpx
import numpy as np
import pytest
import torch
from trait_core.schema import PatchReport

pytestmark = pytest.mark.engine

LAYERS = [2, 14, 27]
SOURCE = {"text": "The capital of the United Kingdom is the city of", "span": "the United Kingdom", "answer": " London"}
TARGET = {"text": "The capital of Italy is the city of", "span": "Italy", "answer": " Rome"}
FRANCE = {"text": "The capital of France is the city of", "span": "France", "answer": " Paris"}


@pytest.fixture(scope="module")
def client(service_url):
    with httpx.Client(base_url=service_url, timeout=300) as made:
        yield made


@pytest.fixture(scope="module")
def reference(smollm2_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(smollm2_path, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(smollm2_path)


def patch(client, source, target, **fields) -> PatchReport:
    answer = client.post("/v1/patch", json={"source": source, "target": target, **fields})
    assert answer.status_code == 200, answer.text
    return PatchReport.model_validate_json(answer.content)


@torch.no_grad()
def logprobs(reference, text: str, answers: list[str], layer: int = 0, patches: Sequence[dict] = ({},)) -> np.ndarray:
    """`(n_patches, n_answers)`: log-probabilities of the answers' first tokens.

    Each patch (position -> stream) replaces streams after the block, in a row of its own.
    """
    model, tokenizer = reference

    def replace(_module, _arguments, output):
        hidden = output[0] if isinstance(output, tuple) else output
        for row, patch in enumerate(patches):
            for position, stream in patch.items():
                hidden[row, position] = stream
        return output

    hook = model.model.layers[layer].register_forward_hook(replace)
    try:
        logits = model(torch.tensor([tokenizer.encode(text)] * len(patches))).logits[:, -1]
    finally:
        hook.remove()
    return torch.log_softmax(logits, -1)[:, [tokenizer.encode(answer)[0] for answer in answers]].numpy()


@torch.no_grad()
def streams_of(reference, text: str) -> dict[int, torch.Tensor]:
    """Layer -> `(n_tokens, d_model)`."""
    model, tokenizer = reference
    found = {}
    hooks = [
        model.model.layers[layer].register_forward_hook(
            lambda _module, _arguments, output, layer=layer: found.update(
                {
                    layer: (output[0] if isinstance(output, tuple) else output)
                    .reshape(-1, model.config.hidden_size)
                    .clone()
                }
            )
        )
        for layer in LAYERS
    ]
    model(torch.tensor([tokenizer.encode(text)]))
    for hook in hooks:
        hook.remove()
    return found


def test_every_cell_equals_transformers_with_the_stream_replaced(client, reference):
    report = patch(client, SOURCE, TARGET, layers=LAYERS)
    answers = [SOURCE["answer"], TARGET["answer"]]
    (source,), (target,) = (logprobs(reference, each["text"], answers) for each in (SOURCE, TARGET))
    assert report.source.logprobs == pytest.approx(source, abs=2e-3)
    assert report.target.logprobs == pytest.approx(target, abs=2e-3)
    assert report.source.left_out == [3, 4], "the span has three tokens, and its partner one"
    streams = streams_of(reference, SOURCE["text"])
    before = target[0] - target[1]
    for layer in LAYERS:
        cells = [cell for cell in report.cells if cell.layer == layer]
        assert [cell.positions for cell in cells] == [[i] for i in range(8)]
        patches = [dict(zip(cell.positions, streams[layer][cell.source_positions], strict=True)) for cell in cells]
        patched = logprobs(reference, TARGET["text"], answers, layer, patches)
        shares = (patched[:, 0] - patched[:, 1] - before) / (source[0] - source[1] - before)
        assert [cell.restored for cell in cells] == pytest.approx(shares, abs=1e-3)
        assert np.ptp(shares) > 0.5, "some cells restore the answer, and some do not"


def test_a_prompt_patched_into_itself_stays_as_it_is(client):
    report = patch(client, FRANCE, FRANCE | {"answer": " Rome"}, layers=[2, 27])
    assert report.source.difference == pytest.approx(report.target.difference, abs=1e-4)
    assert {cell.restored for cell in report.cells} == {None}
    for cell in report.cells:
        assert cell.logprobs == pytest.approx(report.target.logprobs, abs=1e-4)


def test_all_positions_of_a_layer_give_the_sources_answer(client):
    """The last part too, in the last layer: nothing but the last position is read there."""
    report = patch(client, FRANCE, TARGET, layers=LAYERS, parts=["all", "span"])
    whole = [cell for cell in report.cells if cell.part == "all"]
    assert [len(cell.positions) for cell in whole] == [8] * len(LAYERS)
    for cell in whole:
        assert cell.logprobs == pytest.approx(report.source.logprobs, abs=1e-4)
        assert cell.restored == pytest.approx(1, abs=1e-4)
    last = patch(client, FRANCE, TARGET, layers=[29], positions="prompt[-1]")
    assert [cell.restored for cell in last.cells] == [pytest.approx(1, abs=1e-4)]


def test_unlikely_answers_have_their_own_log_probability(client, reference):
    source, target = FRANCE | {"answer": " zebra"}, TARGET | {"answer": " violin"}
    report = patch(client, source, target, layers=[2], positions="prompt[-1]")
    (want,) = logprobs(reference, source["text"], [" zebra", " violin"])
    assert max(want) < -10
    assert report.source.logprobs == pytest.approx(want, abs=5e-3)


def test_chats_are_patched_in_their_template(client):
    source, target = (
        {"messages": [{"role": "user", "content": f"Name the capital of {land}."}], "span": land, "answer": answer}
        for land, answer in (("France", "Paris"), ("Italy", "Rome"))
    )
    report = patch(client, source, target, layers=[29], positions="prompt[-1]")
    assert report.target.tokens[slice(*report.target.span)] == [" Italy"]
    assert report.target.tokens[-1] == "\n", "the header of the assistant's turn ends the prompt"
    assert report.cells[0].restored == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "message", "param"),
    [
        ({"layers": [30]}, "layer 30 is out of range: 0..29", "layers"),
        ({"layers": [3, 3]}, "name a layer twice", "layers"),
        ({"target": TARGET | {"span": "Spain"}}, "'Spain' does not occur in the target", "target.span"),
        ({"source": SOURCE | {"span": "the"}}, "'the' occurs 2 times in the source", "source.span"),
        ({"target": TARGET | {"answer": " London Bridge"}}, "begin with the same token ' London'", "target.answer"),
        ({"target": TARGET | {"text": "Italy's capital is Rom", "answer": "e"}}, "Begin it with a space", None),
        ({"source": {"text": "One", "answer": " a"}, "target": {"text": "One two", "answer": " b"}}, "give both a span", None),
        ({"positions": "turn[0]"}, "written as prompt", "positions"),
        ({"parts": ["all"], "positions": "prompt[99:]"}, "has 0 aligned positions", "parts"),
        ({"model": "smollm2+refusal@1"}, "this route does not steer", "model"),
        ({"at": ["attn_out"]}, "--hook-points attn_out", "at"),
        ({"model": "nobody"}, "is not served", "model"),
        ({"steering": {"terms": []}}, "steering", "steering"),
    ],
)  # fmt: skip
def test_what_cannot_be_patched_is_refused(client, change, message, param):
    answer = client.post("/v1/patch", json={"source": SOURCE, "target": TARGET, **change})
    assert answer.status_code in {400, 404}, answer.text
    assert message in answer.json()["error"]["message"]
    assert param is None or answer.json()["error"]["param"] == param
