"""A service in memory that a sweep can run on: its traits shout, and the reply says which prompt it answers."""

import asyncio
import contextlib
import json
from http.server import BaseHTTPRequestHandler

import httpx
import numpy as np
import safetensors.numpy
from loopback import listening_at
from trait_client.http import AsyncTraitClient
from trait_client.sweeps.experiment import Experiment
from trait_core.schema import LayerEvidence, VectorMetadata, VectorUpload
from trait_core.storage import sha256_of
from trait_core.vectors.file import VectorFile

N_LAYERS, D_MODEL = 4, 8
QUESTIONS = [f"Question number {i}?" for i in range(6)]


def vector_file(trait="shouting", method="mean_diff", seed=1):
    rng = np.random.default_rng(seed)
    directions = {layer: rng.standard_normal(D_MODEL).astype(np.float32) for layer in range(N_LAYERS)}
    directions = {layer: d / np.linalg.norm(d) for layer, d in directions.items()}
    meta = VectorMetadata(
        trait=trait, method=method, model="m", config_digest="c", n_layers=N_LAYERS, d_model=D_MODEL,
        positions="response[:]", chosen_layer=2, chosen_because="test",
        layers={layer: LayerEvidence(separation=2.0, centre=0.5, residual_norm=20.0) for layer in range(N_LAYERS)},
    )  # fmt: skip
    return VectorFile(meta, directions)


class MemoryService:
    """Shouts when steered by a trait's vector; a random direction changes nothing."""

    def __init__(self, *vectors, delay=0.0, versions=None, **info):
        self.files = {file.metadata.trait: file.to_bytes() for file in vectors or (vector_file(),)}
        self.delay = delay
        self.versions = versions or {"service": "1"}
        self.told = info
        self.readers = []
        self.chats = []
        self.readings = 0
        self.at_once = self.most_at_once = 0
        self.fails = lambda _body: None
        self.fails_reading = lambda _body: None
        self.up = True

    def client(self, **options):
        return AsyncTraitClient("http://memory", transport=httpx.MockTransport(self.answer), retries=0, **options)

    async def answer(self, request):
        if not self.up:
            raise httpx.ReadError("the replica is gone")
        path = request.url.path
        if path == "/v1/health/ready":
            return httpx.Response(200, json={"status": "ready"})
        if path == "/v1/vectors":
            return httpx.Response(200, json={"vectors": [self.entry(name) for name in self.files]})
        if path.startswith("/v1/vectors/"):
            name = path.removeprefix("/v1/vectors/").removesuffix("/file")
            if request.method == "PUT":
                self.files[name] = VectorUpload.model_validate_json(request.content).file
                return httpx.Response(200, json=self.entry(name))
            return httpx.Response(200, content=self.files[name])
        if path == "/v1/steering":
            return httpx.Response(200, json=self.info())
        if path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "m"}]})
        body = json.loads(request.content)
        return await self.chat(body) if path == "/v1/chat/completions" else self.read(body)

    async def chat(self, body):
        self.chats.append(body)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.delay)
        self.at_once -= 1
        if not self.up:
            raise httpx.ReadError("the replica went away")
        if error := self.fails(body):
            return error
        prompt = body["messages"][-1]["content"]
        text = f"This is a calm and short reply to {prompt}"
        report = None
        if "steering" in body:
            (term,) = body["steering"]["terms"]
            if any(sha256_of(self.files[t]) == term["vector"] for t in self.files if not t.startswith("random")):
                text = text.upper()
            once = {**term, "sha256": term["vector"], "a": 1.0, "relative_dose": 0.1}
            applied = [once | {"layer": layer} for layer in term["layers"]]
            report = {"applied": applied, "positions": {"prompt": 5, "generated": 9}}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 15}
        return httpx.Response(
            200, json={"id": "x", "model": "m", "choices": [choice], "usage": usage, "steering": report}
        )

    def read(self, body):
        """Upper case lies along every trait's direction; an empty prompt costs one nat a token more."""
        self.readings += 1
        self.readers.append(body.get("model"))
        if error := self.fails_reading(body):
            return error
        inputs, layers = body["inputs"], body["layers"]
        traits = [VectorFile.from_bytes(data) for name, data in self.files.items() if not name.startswith("random")]
        mean = np.zeros((len(inputs), len(layers), D_MODEL), np.float32)
        nll = np.zeros(len(inputs), np.float32)
        for i, item in enumerate(inputs):
            nll[i] = 1.5 if item["messages"][-1]["content"] else 2.5
            if item["response"].isupper():
                mean[i] = sum(np.stack([file.directions[layer] for layer in layers]) for file in traits)
        count = np.ones(len(inputs), np.int32)
        meta = {
            "model": "m", "config_digest": "c", "n_layers": N_LAYERS, "d_model": D_MODEL, "dtype": "float32",
            "layers": layers, "positions": body["positions"],
        }  # fmt: skip
        tensors = {
            "mean/response[:]": mean, "norm/response[:]": mean.sum(-1), "count/response[:]": count,
            "n_prompt": count, "n_response": count, "nll": nll,
        }  # fmt: skip
        data = safetensors.numpy.save(tensors, metadata={"trait": json.dumps(meta)})
        return httpx.Response(200, content=data)

    def entry(self, name):
        data = self.files[name]
        meta = VectorFile.from_bytes(data).metadata.model_dump(mode="json")
        return {"name": name, "sha256": sha256_of(data), "metadata": meta}

    def info(self):
        return {
            "model": "m", "config_digest": "c", "chat_template_digest": "t", "n_layers": N_LAYERS, "d_model": D_MODEL,
            "dtype": "float32", "quantization": None, "residual_norms": [20.0] * N_LAYERS, "operations": ["add"],
            "scopes": ["all"], "units": ["dose"], "versions": self.versions,
            "limits": {"max_terms": 1, "max_relative_dose": 2.0, "max_layers_per_term": 1, "terms_per_layer": 1,
                       "bank_rows": 8, "max_num_seqs": 4, "max_activation_inputs": 8, "max_positions": 2},
        } | self.told  # fmt: skip


@contextlib.contextmanager
def on_a_port(service):
    """The URL of a memory service behind real HTTP."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            request = httpx.Request(self.command, f"http://memory{self.path}", content=content)
            response = asyncio.run(service.answer(request))
            self.send_response(response.status_code)
            self.send_header("content-length", str(len(response.content)))
            self.end_headers()
            self.wfile.write(response.content)

        do_POST = do_PUT = do_GET  # noqa: N815

    with listening_at(Handler) as url:
        yield url


def write_datasets(folder, traits=("shouting",), metric=None):
    for trait in traits:
        place = folder / "style" / trait
        place.mkdir(parents=True)
        values = {"questions": QUESTIONS, "direction": "positive", "metric": metric or {"kind": "uppercase_share"}}
        (place / "steering.json").write_text(json.dumps(values))


def experiment_of(folder, **values):
    defaults = {
        "name": "x", "traits": ["shouting"], "datasets": "datasets", "coefficients": [1.0, 2.0], "layers": [1, 2],
        "n_prompts": 3, "control": {"random_directions": 2},
    }  # fmt: skip
    return Experiment.from_values(defaults | values, folder=folder)
