"""`trait-service verify`: it passes on a sound engine, and fails on engines that are really broken."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
from trait_service import cli
from typer.testing import CliRunner

DRIVER = Path(__file__).parents[1] / "support" / "verify_driver.py"
TIMEOUT_S = 900
N_CHECKS = 12
NOTHING_TO_COMPARE = "sound, nothing to compare with"
TAKEN_OUT = "operation taken out"


@pytest.mark.engine
def test_a_sound_engine_is_verified(smollm2_path):
    command = [Path(sys.executable).parent / "trait-service", "verify", str(smollm2_path)]
    command += ["--enforce-eager", "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    report = json.loads(done.stdout)
    assert report["passed"]
    assert report["subject"]["dtype"] == "float32"
    assert report["subject"]["model"] == smollm2_path.name
    assert (report["subject"]["runner"], report["subject"]["scheduling"]) == (
        "V1",
        "synchronous",
    )  # as vLLM runs on a CPU
    assert str(smollm2_path.parent) not in done.stdout
    assert_all_ok({name: check["status"] for name, check in report["checks"].items()})


def assert_all_ok(statuses):
    assert statuses.pop("cost") == "measured"
    assert statuses == dict.fromkeys(statuses, "ok")
    assert len(statuses) >= N_CHECKS - 2


def drive(model, dtype, *cases):
    env = {**os.environ, "VLLM_PLUGINS": "trait_steering", "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(model), dtype, *cases],
        env=env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def verified(tiny_llama_path):
    cases = (
        "unsteered",
        "one layer off",
        "ungated",
        "gates of another layer",
        "behind the block",
        "monitors another layer",
    )
    return drive(tiny_llama_path, "float32", NOTHING_TO_COMPARE, *cases, "leaking")


@pytest.mark.engine
@pytest.mark.parametrize(
    ("engine", "failed"),
    [
        (
            "unsteered",
            [
                "steering takes effect",
                "operations and scopes",
                "hook points",
                "gates",
                "neighbours untouched",
                "monitoring",
            ],
        ),
        ("one layer off", ["steering takes effect", "operations and scopes", "hook points", "gates", "monitoring"]),
        ("ungated", ["gates"]),
        ("gates of another layer", ["gates"]),
        ("behind the block", ["hook points"]),
        ("monitors another layer", ["monitoring"]),
        ("leaking", ["neighbours untouched"]),
    ],
)
def test_a_broken_engine_fails_where_it_is_broken(verified, engine, failed):
    found = verified[engine]
    assert found["exit_code"] == 1
    assert [name for name, status in found.items() if status == "failed"] == failed


@pytest.mark.engine
def test_what_cannot_be_compared_is_reported_as_skipped(verified):
    assert verified[NOTHING_TO_COMPARE] == {
        "exit_code": 0,
        "steering takes effect": "ok",
        "operations and scopes": "skipped",
        "hook points": "skipped",
        "gates": "skipped",
        "neighbours untouched": "ok",
        "capture": "skipped",
        "monitoring": "ok",
    }


@pytest.fixture(scope="module")
def tiny_granite_path(smollm2_path, tmp_path_factory):
    """A random Granite, which scales its logits by 1/8."""
    return tiny_models.make_granite(tmp_path_factory.mktemp("tiny-granite"), smollm2_path)


@pytest.mark.engine
def test_small_logits_and_coarse_numbers_pass_and_a_dead_operation_does_not(tiny_granite_path):
    """Granite's logits move by 0.06 nats, about as much as the noise of SmolLM2 in bfloat16."""
    found = drive(tiny_granite_path, "bfloat16", "sound", TAKEN_OUT)
    assert found["sound"].pop("exit_code") == 0
    assert found["sound"].pop("hook points") == "skipped"  # it multiplies the outputs of its branches
    assert_all_ok(found["sound"])
    assert_dead(found[TAKEN_OUT], unsteered="ok", cost="measured", **{"hook points": "skipped"})


@pytest.mark.engine
def test_a_dead_operation_fails_every_check_with_and_without_a_reference(tiny_llama_path):
    """Only unsteered replies are right, and the cost is no judgement."""
    alone = f"{TAKEN_OUT}, nothing to compare with"
    found = drive(tiny_llama_path, "float32", "unsteered, nothing to compare with", TAKEN_OUT, alone)
    captures = {"unsteered": "skipped", "capture": "skipped", "cost": "measured"}
    assert_dead(found["unsteered, nothing to compare with"], **captures)
    assert_dead(found[TAKEN_OUT], unsteered="ok", cost="measured")
    assert_dead(found[alone], unsteered="failed", cost="failed")


@pytest.fixture
def least_model_path(tmp_path):
    """One layer, 48 tokens, and a tokenizer that knows no word and has no special tokens but `<unk>`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, **{f"word{i}": i for i in range(1, 300)}}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(tmp_path)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=48,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.engine
def test_a_model_may_have_one_layer_a_short_context_and_a_tokenizer_without_words(least_model_path):
    found = drive(least_model_path, "float32", "sound")["sound"]
    assert found.pop("exit_code") == 0
    assert found.pop("prefix cache") == "skipped"  # one of its blocks holds more tokens than the model takes
    assert found.pop("cost") == "measured"
    assert found == dict.fromkeys(found, "ok")


def assert_dead(found, **others):
    assert found.pop("exit_code") == 1
    assert len(found) == N_CHECKS
    assert found == {**dict.fromkeys(found, "failed"), **others}


@pytest.mark.parametrize("words", [["/no/such/folder"], ["smollm2", "--dtype", "int3"]])
def test_usage_errors_exit_with_2(words):
    assert CliRunner().invoke(cli.app, ["verify", *words]).exit_code == 2
