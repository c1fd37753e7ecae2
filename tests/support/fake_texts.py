"""A service in memory that reads texts: what it answers follows from each text alone, so that rows cannot change places."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Protocol

import numpy as np
import safetensors.numpy
from loopback import listening_at
from trait_core.positions import Positions
from trait_core.schema import LayerEvidence, VectorMetadata
from trait_core.storage import sha256_of
from trait_core.vectors.file import VectorFile

N_LAYERS, D_MODEL, LONGEST = 6, 4, 40
INFO = {
    "model": "smol",
    "config_digest": "c",
    "chat_template_digest": "t",
    "n_layers": N_LAYERS,
    "d_model": D_MODEL,
    "dtype": "float32",
    "quantization": None,
    "residual_norms": [1.0] * N_LAYERS,
    "operations": ["add"],
    "scopes": ["all"],
    "units": ["dose"],
    "limits": {
        "max_terms": 8,
        "max_relative_dose": 2.0,
        "max_layers_per_term": 32,
        "terms_per_layer": 4,
        "bank_rows": 64,
        "max_num_seqs": 4,
        "max_activation_inputs": 3,
        "max_positions": 8,
    },
    "versions": {},
}


def activation(text: str, layer: int, positions: str) -> np.ndarray:
    """`(D_MODEL,)` float32: the mean residual stream of a text."""
    seed = hashlib.sha256(f"{text}|{layer}|{positions}".encode()).digest()
    return np.frombuffer(seed[:D_MODEL], np.uint8).astype(np.float32)


class ActivationService:
    """Answers `GET /v1/steering` and `POST /v1/activations`; a token is a word.

    Args:
        delay: Seconds of each reading.
        longest: Tokens that fit.
        info: What differs from `INFO`.
    """

    def __init__(self, delay: float = 0.0, longest: int = LONGEST, **info: object) -> None:
        self.delay, self.longest, self.info = delay, longest, INFO | info
        self.served: list[str] = []
        self.requests: list[dict] = []
        self.at_once = self.most_at_once = 0
        self.fails = lambda _body: None
        self._counting = threading.Lock()

    def answer(self, path: str, body: bytes) -> tuple[int, object]:
        """One request answered as the service would."""
        if path == "/v1/steering":
            return 200, self.info
        assert path == "/v1/activations", path
        request = json.loads(body)
        with self._counting:
            self.requests.append(request)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.delay)
        with self._counting:
            self.at_once -= 1
        return self.fails(request) or self._read(request)

    def _read(self, request: dict) -> tuple[int, object]:
        prompts = [item.get("text") or item["messages"][-1]["content"] for item in request["inputs"]]
        generate = request.get("generate")
        replies = [
            "word " * generate["max_tokens"] if generate else item.get("response", "") for item in request["inputs"]
        ]
        for i, prompt in enumerate(prompts):
            if (n := len(f"{prompt} {replies[i]}".split())) > self.longest:
                message = f"inputs[{i}] has {n} tokens; at most {self.longest} fit"
                return 400, {"error": {"message": message, "type": "BadRequestError", "param": f"inputs[{i}]"}}
        n_prompt = np.array([len(prompt.split()) for prompt in prompts], np.int32)
        n_response = np.array([len(reply.split()) for reply in replies], np.int32)
        tensors = {"n_prompt": n_prompt, "n_response": n_response}
        for name in request["positions"]:
            spans = [Positions.parse(name).interval(p, p + r) for p, r in zip(n_prompt, n_response, strict=True)]
            tensors[f"count/{name}"] = np.array([max(0, stop - start) for start, stop in spans], np.int32)
            tensors[f"mean/{name}"] = np.array(
                [[activation(text, layer, name) for layer in request["layers"]] for text in prompts], np.float32
            )
            tensors[f"norm/{name}"] = np.linalg.norm(tensors[f"mean/{name}"], axis=-1)
        fields = ("model", "config_digest", "chat_template_digest", "n_layers", "d_model", "dtype")
        metadata = {name: self.info[name] for name in fields}
        metadata |= {"layers": request["layers"], "positions": request["positions"]}
        metadata["responses"] = replies if generate else None
        with self._counting:
            self.served += prompts
        return 200, safetensors.numpy.save(tensors, metadata={"trait": json.dumps(metadata)})


def vector(trait: str, centre: float = 0.5) -> VectorFile:
    """A vector file of the model in memory, with layers 1 and 2."""
    metadata = VectorMetadata(
        trait=trait,
        model="smol",
        config_digest="c",
        n_layers=N_LAYERS,
        d_model=D_MODEL,
        method="mean_diff",
        positions="response[:]",
        layers=dict.fromkeys((1, 2), LayerEvidence(separation=2.0, centre=centre, residual_norm=10.0)),
        chosen_layer=2,
        chosen_because="a test",
    )
    return VectorFile(metadata, dict.fromkeys((1, 2), np.eye(D_MODEL, dtype=np.float32)[0]))


def projection(ids: Sequence[int], position: int, sha256: str, layer: int) -> float:
    """Of a position, before the centre is taken off: it follows from all tokens up to there."""
    seed = hashlib.sha256(f"{list(ids[: position + 1])}|{sha256}|{layer}".encode()).digest()
    return float(seed[0])


class ProjectionService:
    """Answers `/tokenize`, `/v1/completions` with a monitor, and the registry; a token is a word.

    A chat is `<role>`, the words, ..., `<assistant>`. A generated reply is `yes yes <end>`, if there is room.

    Args:
        delay: Seconds of each completion.
        vectors: Trait -> file.
    """

    def __init__(self, delay: float = 0.0, **vectors: VectorFile) -> None:
        self.delay = delay
        self.vectors = {name: file.to_bytes() for name, file in vectors.items()}
        self.words: list[str] = []
        self.completions: list[dict] = []
        self.at_once = 0
        self.fails = lambda _body: None
        self.alter = lambda _choice: None
        self._lock = threading.Lock()

    def sha256(self, name: str) -> str:
        return sha256_of(self.vectors[name])

    def ids(self, words: Sequence[str]) -> list[int]:
        with self._lock:
            self.words += [word for word in dict.fromkeys(words) if word not in self.words]
            return [self.words.index(word) for word in words]

    def answer(self, path: str, body: bytes) -> tuple[int, object]:
        """One request answered as the service would."""
        if path == "/v1/steering":
            return 200, INFO
        if path == "/v1/models":
            return 200, {"data": [{"id": "smol"}]}
        if path.startswith("/v1/vectors/"):
            return self._vector(path.rpartition("/")[2])
        request = json.loads(body)
        if path == "/tokenize":
            return 200, {"tokens": self._tokenize(request)}
        assert path == "/v1/completions", path
        with self._lock:
            self.completions.append(request)
            self.at_once += 1
        time.sleep(self.delay)
        with self._lock:
            self.at_once -= 1
        return self.fails(request) or (200, self._complete(request))

    def _vector(self, name: str) -> tuple[int, object]:
        if name not in self.vectors:
            error = {"message": f"no vector {name!r} is registered", "type": "NotFoundError", "code": 404}
            return 404, {"error": error}
        metadata = VectorFile.from_bytes(self.vectors[name]).metadata.model_dump(mode="json")
        return 200, {"name": name, "sha256": self.sha256(name), "metadata": metadata}

    def _tokenize(self, request: dict) -> list[int]:
        if "prompt" in request:
            return self.ids([*(["<bos>"] if request["add_special_tokens"] else []), *request["prompt"].split()])
        assert request["add_generation_prompt"]
        words = [word for turn in request["messages"] for word in (f"<{turn['role']}>", *turn["content"].split())]
        return self.ids([*words, "<assistant>"])

    def _complete(self, request: dict) -> dict:
        prompt, monitor = request["prompt"], request["monitor"]
        reply = ["yes", "yes", "<end>"][: request["max_tokens"]]
        ids = [*prompt, *self.ids(reply)]
        files = {sha256_of(data): VectorFile.from_bytes(data) for data in self.vectors.values()}
        directions = [
            {"vector": sha256, "sha256": sha256, "layer": layer, "centre": files[sha256].evidence(layer).centre}
            for sha256 in monitor["vectors"]
            for layer in monitor.get("layers") or [files[sha256].metadata.chosen_layer]
        ]

        def row(position: int) -> list[float]:
            return [projection(ids, position, d["sha256"], d["layer"]) - d["centre"] for d in directions]

        n = len(prompt)
        choice = {
            "index": 0,
            "prompt": [row(i) for i in range(n)],
            "generated": [row(n - 1 + j) for j in range(len(reply))],
        }
        if monitor["tokens"]:
            choice |= {"prompt_tokens": [self.words[i] for i in prompt], "generated_tokens": reply}
        self.alter(choice)
        text = " ".join(word for word in reply if word != "<end>")
        finish = "stop" if reply[-1] == "<end>" else "length"
        answered = {"index": 0, "text": text, "finish_reason": finish}
        if request.get("return_token_ids"):
            answered["token_ids"] = ids[n:]
        return {
            "id": "1",
            "model": "smol",
            "choices": [answered],
            "usage": {"prompt_tokens": n, "completion_tokens": len(reply), "total_tokens": len(ids)},
            "monitor": {"directions": directions, "choices": [choice]},
        }


class Answers(Protocol):
    """What listens."""

    def answer(self, path: str, body: bytes) -> tuple[int, object]: ...


@contextmanager
def listening(service: Answers) -> Iterator[str]:
    """The URL of a service on this machine's loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, document = service.answer(self.path, body)
            data = document if isinstance(document, bytes) else json.dumps(document).encode()
            try:
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):  # the client was killed
                self.close_connection = True

        do_GET = do_POST = _serve  # noqa: N815 - the base class's names

    with listening_at(Handler) as url:
        yield url
