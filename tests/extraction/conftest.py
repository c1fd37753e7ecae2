"""Activations made by transformers, behind the same protocol as the service's."""

import hashlib
import json
import os
import sys
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from loopback import listening_at
from trait_client.http.activations import Activations
from trait_client.http.replies import ChatResult, Choice, Usage
from trait_core.errors import ServiceError
from trait_core.positions import Positions
from trait_core.schema import (
    ActivationInput,
    ActivationsMetadata,
    ActivationsRequest,
    Message,
    ServiceInfo,
    VectorInfo,
    VectorUpload,
)
from trait_core.storage import sha256_of
from trait_core.vectors.file import VectorFile
from trait_extraction.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]


def pooled(info, positions, means, norms, counts):
    """What `/v1/activations` answers: positions -> `(n, n_layers, d_model)`, `(n, n_layers)`, `(n,)`."""
    fields = info.model_dump(include={"model", "config_digest", "chat_template_digest", "n_layers", "d_model", "dtype"})
    tensors = {"n_prompt": np.ones(len(counts[positions[0]]), np.int32)}
    tensors["n_response"] = tensors["n_prompt"]
    for name in positions:
        tensors[f"mean/{name}"] = means[name].astype(np.float32)
        tensors[f"norm/{name}"] = norms[name].astype(np.float32)
        tensors[f"count/{name}"] = counts[name].astype(np.int32)
    metadata = ActivationsMetadata(**fields, layers=list(range(info.n_layers)), positions=positions)
    return Activations(metadata, tensors)


@dataclass
class Registry:
    """Keeps what was registered; a base for the services below."""

    registered: dict[str, bytes] = field(default_factory=dict)
    n_requests: int = 0

    def put_vector(self, name, data):
        self.registered[name] = data
        return VectorInfo(name=name, sha256=sha256_of(data), metadata=VectorFile.from_bytes(data).metadata)


def service_info(n_layers, d_model, **changes):
    """A `GET /v1/steering` answer."""
    fields = {
        "model": "toy",
        "config_digest": "sha256:toy",
        "chat_template_digest": "sha256:template",
        "n_layers": n_layers,
        "d_model": d_model,
        "dtype": "float32",
        "quantization": None,
        "residual_norms": [1.0] * n_layers,
        "operations": ["add"],
        "scopes": ["all"],
        "units": ["dose", "separation", "raw"],
        "limits": {
            "max_terms": 8,
            "max_relative_dose": 2.0,
            "max_layers_per_term": 32,
            "terms_per_layer": 4,
            "bank_rows": 64,
            "max_num_seqs": 16,
            "max_activation_inputs": 8192,
            "max_positions": 8,
        },
        "versions": {},
    }
    return ServiceInfo.model_validate(fields | changes)


@dataclass
class GaussianService(Registry):
    """Positives and negatives drawn around two centres that lie `2 * gap[layer]` apart along the first axis.

    An input is positive when its response (or text) holds the word YES. The same text gives the same activations. A chat
    is answered with YES or NO, as its system prompt says where `obedient`, else with NO; `fails_after` so many replies.
    """

    n_layers: int = 10
    d_model: int = 16
    gap: tuple[float, ...] = (3.0,) * 10
    limit: int = 8192
    info_changes: dict = field(default_factory=dict)
    obedient: bool = True
    fails_after: int | None = None
    asked: list = field(default_factory=list)

    def chat(self, messages, *, model, **_options):
        system, user = (message.content for message in messages)
        if self.fails_after is not None and len(self.asked) >= self.fails_after:
            raise ServiceError("the engine has stopped")
        self.asked.append((system, user))
        word = "YES" if self.obedient and "YES" in system else "NO"
        choice = Choice(index=0, text=f"{word}, so it is with {user[:-1]}.", finish_reason="stop")
        return ChatResult(id="1", model=model, choices=[choice], usage=Usage(prompt_tokens=1, total_tokens=1))

    def info(self):
        answer = service_info(self.n_layers, self.d_model, **self.info_changes)
        answer.limits.max_activation_inputs = self.limit
        return answer

    def activations(self, request: ActivationsRequest):
        self.n_requests += 1
        assert len(request.inputs) <= self.limit
        n, names = len(request.inputs), request.positions
        mean = np.stack([self._one(item) for item in request.inputs])
        norm = np.broadcast_to(np.arange(1, self.n_layers + 1, dtype=np.float32), (n, self.n_layers))
        return pooled(
            self.info(),
            names,
            dict.fromkeys(names, mean),
            dict.fromkeys(names, norm),
            dict.fromkeys(names, np.full(n, 5)),
        )

    def _one(self, item: ActivationInput):
        text = item.model_dump_json()
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        x = np.random.default_rng(seed).normal(size=(self.n_layers, self.d_model))
        x[:, 0] += np.asarray(self.gap) * (1 if "YES" in text else -1)
        return x.astype(np.float32)


class TransformersService(Registry):
    """Reads a Hugging Face causal language model with forward hooks, one text at a time."""

    def __init__(self, path, name="smollm2"):
        super().__init__()
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch, self.name = torch, name
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.layers = self.model.model.layers
        self.config_digest = "sha256:" + hashlib.sha256((Path(path) / "config.json").read_bytes()).hexdigest()

    def info(self):
        config = self.model.config
        return service_info(
            config.num_hidden_layers, config.hidden_size, model=self.name, config_digest=self.config_digest
        )

    def activations(self, request: ActivationsRequest):
        self.n_requests += 1
        rows = [self._read(item) for item in request.inputs]
        mean, norm, count = {}, {}, {}
        for name in request.positions:
            spans = [h[:, slice(*Positions.parse(name).interval(n_prompt, h.shape[1]))] for h, n_prompt in rows]
            mean[name] = np.stack([h.mean(1) for h in spans])
            norm[name] = np.stack([np.linalg.norm(h, axis=-1).mean(1) for h in spans])
            count[name] = np.array([h.shape[1] for h in spans])
        return pooled(self.info(), request.positions, mean, norm, count)

    def _read(self, item: ActivationInput):
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
    return TransformersService(model_path)


@pytest.fixture
def gaussians():
    """A factory of services with known activations."""
    return GaussianService


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
def serve(gaussians):
    """Serve known activations over HTTP, for the real client; gives the address and the service."""
    service = gaussians()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, body, kind="application/json"):
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _body(self):
            return self.rfile.read(int(self.headers["content-length"]))

        def do_GET(self):
            assert self.headers["authorization"] == "Bearer key"
            self._answer(service.info().model_dump_json().encode())

        def do_POST(self):
            if self.path == "/v1/chat/completions":
                self._answer(self._reply(json.loads(self._body())))
                return
            answer = service.activations(ActivationsRequest.model_validate_json(self._body()))
            metadata = {"trait": answer.metadata.model_dump_json()}
            self._answer(safetensors.numpy.save(answer.tensors, metadata), "application/octet-stream")

        def _reply(self, body):
            options = {key: body.get(key) for key in ("max_tokens", "temperature", "top_p", "seed")}
            result = service.chat([Message(**m) for m in body["messages"]], model=body["model"], **options)
            answer = result.model_dump()
            answer["choices"] = [{"index": 0, "message": {"content": result.text}, "finish_reason": "stop"}]
            return json.dumps(answer).encode()

        def do_PUT(self):
            name = self.path.rsplit("/", 1)[1]
            self._answer(
                service.put_vector(name, VectorUpload.model_validate_json(self._body()).file).model_dump_json().encode()
            )

    with listening_at(Handler) as url:
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
