"""Quantised models: the weights are rounded, the steering is not."""

import json

import numpy as np
import pytest
from engine_harness import Job, Req, direction, largest_difference
from trait_service.engine.spec import CaptureSpec, RequestSpec, TermSpec
from trait_service.models.cli import app
from typer.testing import CliRunner

pytestmark = pytest.mark.engine

LAYER = 12
VALUE = 40.0
DTYPES = {"w8a8": "int8", "w4a16": "int32", "fp8": "float8_e4m3fn"}
"""What the loaded weights are: INT4 comes packed, eight to an int32."""
OPTIONS = {"w4a16": {"dtype": "bfloat16"}}


@pytest.fixture(scope="module", params=DTYPES)
def quantised(request, smollm2_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantised") / request.param
    arguments = ["quantize", str(smollm2_path), "--scheme", request.param, "--out", str(folder)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return request.param, folder


def test_steering_is_exact_on_rounded_weights(run_engine, reference, smollm2_path, quantised):
    scheme, folder = quantised
    ref = reference(smollm2_path)
    prompt = ref.tokenizer.encode("The museum opens at nine, and the first visitors are usually")
    d = direction(ref.d_model, seed=7)

    def request(key: str, value: float | None) -> Req:
        terms = [] if value is None else [TermSpec(layer=LAYER, direction=d.sha256, value=value)]
        return Req(
            prompt, RequestSpec(key=key, terms=terms, capture=CaptureSpec(positions=["all[4:]"])).model_dump_json(), 1
        )

    batch = [request("plain", None), request("zero", 0.0), request("steered", VALUE)]
    # vLLM's INT4 kernel for the CPU takes no float32: the stream itself is then rounded to bfloat16.
    result = run_engine(Job(folder, [batch], directions=[d], options=OPTIONS.get(scheme, {})))

    assert json.loads((folder / "provenance.json").read_text())["quantised"] == scheme
    assert result.info["quantization"] == "compressed-tensors"
    assert result.info["weights"].get(DTYPES[scheme], 0.0) > 0.3, result.info["weights"]

    plain, zero, steered = (result.captures(0)[f"{key}/mean"][0] for key in ("plain", "zero", "steered"))
    scale = np.linalg.norm(plain, axis=-1)
    assert (np.linalg.norm(zero - plain, axis=-1) / scale).max() < 1e-4
    moved = steered - plain
    assert (np.linalg.norm(moved[:LAYER], axis=-1) / scale[:LAYER]).max() < 1e-4
    assert np.linalg.norm(moved[LAYER] - VALUE * d.array) / VALUE < (1e-2 if scheme in OPTIONS else 1e-4)
    assert (np.linalg.norm(moved[LAYER + 1 :], axis=-1) / scale[LAYER + 1 :]).min() > 1e-3

    outputs = result.batches[0]
    _, unrounded = ref.greedy(prompt, 1)
    assert largest_difference(outputs[0]["logprobs"], unrounded) > 1e-3, "as if nothing had been rounded"
    first, last = outputs[0]["logprobs"][0], outputs[2]["logprobs"][0]
    assert max(abs(first[token] - last[token]) for token in first.keys() & last.keys()) > 0.05


def test_what_cannot_be_quantised_is_refused(smollm2_path, tmp_path):
    def message(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["quantize", *arguments])
        assert done.exit_code == 1, done.output
        return done.output

    model = str(smollm2_path)
    assert "w8a8, w4a16, fp8" in message(model, "--scheme", "int3", "--out", str(tmp_path / "new"))
    assert "exists" in message(model, "--scheme", "fp8", "--out", str(tmp_path))
    assert "no config.json" in message(str(tmp_path), "--scheme", "fp8", "--out", str(tmp_path / "new"))
    (tmp_path / "config.json").write_text('{"quantization_config": {}}')
    assert "quantised already" in message(str(tmp_path), "--scheme", "fp8", "--out", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
