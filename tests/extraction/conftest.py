"""Services whose activations are known: two Gaussians, or a model read by transformers."""

import hashlib
import json
import os
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from fake_registry import refusal, service_info
from fake_service import ACTIVATIONS, CHATS, COMPLETIONS, FakeService, Pool
from loopback import on_a_port
from trait_client.http import TraitClient
from trait_core.positions import Positions
from trait_core.schema import ActivationInput
from trait_extraction.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]


TOY = {
    "model": "toy", "config_digest": "sha256:toy", "weights_digest": None, "checkpoint_digest": None,
    "chat_template_digest": "sha256:template", "n_layers": 10, "d_model": 16,
}  # fmt: skip
ROOM = {"max_num_seqs": 16, "max_activation_inputs": 8192}


class KnownService(FakeService):
    """A fake service that shows what extraction requested and registered."""

    @property
    def registered(self) -> dict[str, bytes]:
        return self.files

    @property
    def n_requests(self) -> int:
        """Requests for activations."""
        return len(self.requests[ACTIVATIONS])

    @property
    def asked(self) -> list[tuple[str, ...]]:
        """The turns of each chat that was answered."""
        return [tuple(turn["content"] for turn in body["messages"]) for body in self.answered[CHATS]]


class GaussianService(KnownService):
    """Positives and negatives drawn around two centres that lie `2 * gap[layer]` apart along the first axis.

    An input is positive when its response (or text, or tokens) holds the word YES. The same text gives the same activations.
    A chat is answered with YES or NO, as its system prompt says where `obedient`, else with NO; `fails_after` so many replies.
    Raw text is continued with `continuation`, which is YES or NO as in the text unless a test overrides it.
    """

    def __init__(self, *, gap=(3.0,) * 10, obedient=True, fails_after=None, key=None, **info):
        super().__init__(key=key)
        self.gap, self.obedient, self.fails_after = gap, obedient, fails_after
        self.fails[CHATS] = self.fails[COMPLETIONS] = self._stopped
        self.change(**info)

    def change(self, **info):
        """Serve a toy from now on that has these fields."""
        self.info = service_info(**TOY | info | {"limits": ROOM | info.get("limits", {})})

    def _stopped(self, _body):
        n_answered = len(self.answered[CHATS]) + len(self.answered[COMPLETIONS])
        over = self.fails_after is not None and n_answered >= self.fails_after
        return refusal(500, "the engine has stopped") if over else None

    def continuation(self, body, prompt):
        return f"{'YES' if 'YES' in prompt else 'NO'}, and {prompt.split()[-1]} goes on and on"

    def reply(self, body, prompt, applied):
        if "prompt" in body:
            return self.continuation(body, prompt)
        word = "YES" if self.obedient and "YES" in body["messages"][0]["content"] else "NO"
        return f"{word}, so it is with {prompt[:-1]}."

    def pool(self, item: ActivationInput, positions, layers):
        text = item.model_dump_json()
        if item.token_ids is not None:
            text += " ".join(self.words[i] for i in item.token_ids)
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        x = np.random.default_rng(seed).normal(size=(self.info.n_layers, self.info.d_model))
        x[:, 0] += np.asarray(self.gap) * (1 if "YES" in text else -1)
        return Pool(x[layers], np.array(layers) + 1.0, 5)


class TransformersService(KnownService):
    """Reads a Hugging Face causal language model with forward hooks, one text at a time."""

    def __init__(self, path, name="smollm2"):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch = torch
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.layers = self.model.model.layers
        self._last: tuple[str, tuple[np.ndarray, int]] | None = None
        config_digest = "sha256:" + hashlib.sha256((Path(path) / "config.json").read_bytes()).hexdigest()
        config = self.model.config
        shape = {"n_layers": config.num_hidden_layers, "d_model": config.hidden_size}
        super().__init__(**TOY | shape | {"limits": ROOM, "model": name, "config_digest": config_digest})

    def pool(self, item: ActivationInput, positions, layers):
        key = item.model_dump_json()
        if self._last is None or self._last[0] != key:
            self._last = key, self._read_stream(item)
        stream, n_prompt = self._last[1]
        span = stream[layers][:, Positions.parse(positions).indices(n_prompt, stream.shape[1])]
        return Pool(span.mean(1), np.linalg.norm(span, axis=-1).mean(1), span.shape[1])

    def _read_stream(self, item: ActivationInput):
        """Residual stream after every block, `(n_layers, n_tokens, d_model)`, and the number of prompt tokens."""
        if item.messages is not None:
            messages = [m.model_dump() for m in item.messages]
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            prompt = self.tokenizer(text, add_special_tokens=False).input_ids
        else:
            prompt = self.tokenizer(item.text).input_ids
        response = self.tokenizer(item.response, add_special_tokens=False).input_ids if item.response else []
        captured = []
        # Hooks, since hidden_states[-1] of transformers has been through the final norm.
        hooks = [
            layer.register_forward_hook(lambda _m, _i, out: captured.append(out[0] if isinstance(out, tuple) else out))
            for layer in self.layers
        ]
        try:
            with self.torch.no_grad():
                self.model.model(self.torch.tensor([prompt + response]), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        stacked = self.torch.stack([h.reshape(-1, h.shape[-1]) for h in captured])
        return stacked.numpy().astype(np.float32), len(prompt)


class KnownClient(TraitClient):
    """A client of a service in this process; `fake` is the service."""

    def __init__(self, fake: KnownService) -> None:
        self.fake = fake
        super().__init__("http://fake", transport=httpx.MockTransport(fake.answer), retries=0)

    registered = property(lambda self: self.fake.registered)
    n_requests = property(lambda self: self.fake.n_requests)
    asked = property(lambda self: self.fake.asked)


class GaussianClient(KnownClient):
    def __init__(self, **options) -> None:
        super().__init__(GaussianService(**options))


@pytest.fixture(scope="session")
def model_path(request) -> Path:
    """SmolLM2-135M-Instruct: `TRAIT_TEST_MODEL`, or the repository's own fixture; skipped only where neither exists."""
    if path := os.environ.get("TRAIT_TEST_MODEL"):
        return Path(path)
    try:
        return Path(request.getfixturevalue("smollm2_path"))
    except pytest.FixtureLookupError:
        pytest.skip("no model: set TRAIT_TEST_MODEL to a folder with SmolLM2-135M-Instruct")


@pytest.fixture(scope="session")
def smollm2(model_path):
    """SmolLM2 read by transformers, one thread."""
    import torch

    torch.set_num_threads(1)
    return KnownClient(TransformersService(model_path))


@pytest.fixture
def gaussians():
    """A factory of clients of a service with known activations."""
    return GaussianClient


@pytest.fixture
def trait_folder(tmp_path):
    """A factory of trait folders: 16 written pairs unless lines are given."""

    def make(positive=None, negative=None, name="warmth", suffix=".jsonl", **files):
        folder = tmp_path / "traits" / "tone" / name
        folder.mkdir(parents=True, exist_ok=True)
        written = [
            [{"prompt": f"Question {i}?", "response": f"{word} {i}."} for i in range(16)] for word in ("YES", "NO")
        ]
        for side, lines, default in (("positive", positive, written[0]), ("negative", negative, written[1])):
            texts = [line if isinstance(line, str) else json.dumps(line) for line in (lines or default)]
            (folder / f"{side}{suffix}").write_text("\n".join(texts) + "\n")
        contents = {
            "definition.txt": "Rate 0 to 100 how warm the reply is.",
            "steering.json": json.dumps({"questions": ["How are you?"], "direction": "positive"}),
        } | {key.replace("__", "."): value for key, value in files.items()}
        for file_name, content in contents.items():
            (folder / file_name).write_text(content)
        return folder

    return make


@pytest.fixture(scope="session")
def traits_root() -> Path:
    """The datasets of the repository."""
    return REPOSITORY / "datasets" / "traits"


@pytest.fixture
def serve():
    """Serve known activations over HTTP to who has the key; gives the address and the service."""
    service = GaussianService(key="key")
    with on_a_port(service.answer) as url:
        yield url, service


@pytest.fixture
def trait_extract(monkeypatch, capsys):
    """Run a command line; gives `(exit code, stdout, stderr)`."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["trait-extract", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "160")
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return call
