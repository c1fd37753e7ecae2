"""Real vLLM engines in processes of their own, and the reference: transformers with a forward hook."""

import hashlib
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import engine_forms
import numpy as np
import safetensors.numpy
import torch

BLOCKS = ("layers", "h", "blocks")
"""Names of the list of decoder blocks in transformers' models."""
DRIVER = Path(__file__).with_name("engine_driver.py")
ENGINE_OPTIONS = {"max_model_len": 512, "max_num_seqs": 64, "enable_prefix_caching": True}


@dataclass
class Direction:
    """A random unit direction and its hash."""

    array: np.ndarray

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.array.tobytes()).hexdigest()


def direction(d_model: int, seed: int) -> Direction:
    array = np.random.default_rng(seed).normal(size=d_model).astype(np.float32)
    return Direction(array / np.linalg.norm(array))


@dataclass
class Req:
    """One request of a batch.

    `joins_at`, `leaves_at`: the engine steps before which it is added and aborted; left alone, all requests of a batch
    are submitted together. `lora`: an adapter's folder. `continues`: batch and index of an earlier request, whose reply
    follows `token_ids`. `image`: a file that takes the place of the image token.
    """

    token_ids: list[int]
    spec: str | None = None
    max_tokens: int = 12
    skip_cache: bool = True
    salt: str | None = None
    n: int = 1
    extra_args: dict | None = None
    temperature: float = 0.0
    seed: int = 0
    joins_at: int = 0
    leaves_at: int | None = None
    lora: str | None = None
    continues: tuple[int, int] | None = None
    prompt_logprobs: bool = False
    stop_token_ids: list[int] | None = None
    min_tokens: int = 0
    json_schema: dict | None = None
    image: str | None = None


@dataclass
class Job:
    """The work of one engine process.

    `late` directions enter the bank before the batch that is their key. `piecewise`: compiled as on a GPU. `lens`: directions that
    are read through the model's head.
    """

    model: str
    batches: list[list[Req]]
    directions: list[Direction] = field(default_factory=list)
    late: dict[int, list[Direction]] = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    plugin: bool = True
    env: dict = field(default_factory=dict)
    piecewise: bool = False
    lens: list[Direction] = field(default_factory=list)


class EngineResult:
    def __init__(self, folder: Path) -> None:
        document = json.loads((folder / "result.json").read_text())
        self.batches = [batch["outputs"] for batch in document["batches"]]
        self.reports = [batch["reports"] for batch in document["batches"]]
        self.stats = document["stats"]
        self.info = document["info"]
        self.layers = document["layers"]
        self.hook_points = document["hook_points"]
        self.compilation = document["compilation"]
        self.lens = document["lens"]
        self.folder = folder

    def captures(self, batch: int) -> dict[str, np.ndarray]:
        return safetensors.numpy.load_file(self.folder / f"captures-{batch}.safetensors")


class EngineHost:
    """A process that has imported vLLM and forks for every job: that import takes longer than a small engine's start."""

    def __init__(self, form: str = engine_forms.V1_SYNC) -> None:
        env = {
            **os.environ,
            **engine_forms.environment_of(form),
            "VLLM_PLUGINS": "trait_steering",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "VLLM_USE_AOT_COMPILE": "0",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(DRIVER)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, job: Job, folder: Path) -> EngineResult:
        """Run a job on a fresh engine; its files are in `folder`."""
        document = {
            "model": str(job.model),
            "plugin": job.plugin,
            "piecewise": job.piecewise,
            "settings": job.settings,
            "options": {**ENGINE_OPTIONS, "enforce_eager": True, **job.options},
            "directions": _in_hex(job.directions),
            "lens": [d.array.tolist() for d in job.lens],
            "late": {batch: _in_hex(directions) for batch, directions in job.late.items()},
            "batches": [[vars(request) for request in batch] for batch in job.batches],
        }
        (folder / "job.json").write_text(json.dumps(document))
        self._process.stdin.write(json.dumps({"folder": str(folder), "environment": job.env}) + "\n")
        self._process.stdin.flush()
        code = self._process.stdout.readline().strip()
        assert code == "0", f"the engine process failed ({code or 'its host ended'}):\n{_end_of(folder / 'log.txt')}"
        return EngineResult(folder)

    def close(self) -> None:
        """It ends with its input."""
        self._process.communicate(timeout=60)


def _end_of(log: Path) -> str:
    return log.read_text()[-6000:] if log.exists() else ""


def _in_hex(directions: list[Direction]) -> dict[str, str]:
    return {d.sha256: d.array.tobytes().hex() for d in directions}


def difference(left: dict, right: dict, n: int | None = None) -> float:
    """Largest |delta logprob| of two outputs over their first `n` tokens, which must be the same ones."""
    assert left["token_ids"][:n] == right["token_ids"][:n]
    return max(
        abs(a[token] - b[token])
        for a, b in zip(left["logprobs"][:n], right["logprobs"][:n], strict=True)
        for token in a.keys() & b.keys()
    )


class Reference:
    """transformers, float32, with a forward hook on one block: what the engine must equal."""

    def __init__(self, path: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        config = self.model.config.get_text_config()
        self.n_layers, self.d_model = config.num_hidden_layers, config.hidden_size
        (self.blocks,) = (
            module
            for name, module in self.model.named_modules()
            if isinstance(module, torch.nn.ModuleList)
            and name.rpartition(".")[2] in BLOCKS
            and len(module) == self.n_layers
        )

    @torch.no_grad()
    def greedy(self, token_ids, n, changes=None):
        """Greedy tokens and the log-probabilities of each step `(n, vocabulary)`.

        `changes[layer](stream, positions)` returns the new stream `(n_tokens, d_model)` at the output of a block.
        """
        ids, logprobs = list(token_ids), []
        with self.changed(changes):
            for _ in range(n):
                logits = self.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
                logprobs.append(torch.log_softmax(logits.float(), -1))
                ids.append(int(logits.argmax()))
        return ids[len(token_ids) :], torch.stack(logprobs)

    @torch.no_grad()
    def next_logprobs(self, prompt, generated, changes=None):
        """Log-probabilities of what follows the prompt and each generated token, `(1 + len(generated), vocabulary)`."""
        with self.changed(changes):
            logits = self.model(torch.tensor([[*prompt, *generated]]), use_cache=False).logits[0]
        return torch.log_softmax(logits[len(prompt) - 1 :].float(), -1)

    @contextmanager
    def changed(self, changes):
        """Steer at the output of blocks while it is entered, or at `(layer, path)` at that of a module in one; see `greedy`."""
        handles = [self.module(at).register_forward_hook(_changing(change)) for at, change in (changes or {}).items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def lens(self, directions):
        """z-scores of the vocabulary for each of `(n, d_model)` directions, which take the place of the last block's output."""
        rows = torch.from_numpy(directions / np.sqrt(np.mean(directions**2, -1, keepdims=True)))
        ends = []
        for signed in (rows, -rows):
            with self.changed({self.n_layers - 1: lambda _stream, _positions, signed=signed: signed}):
                ends.append(self.model(torch.arange(5, 5 + len(rows))[None], use_cache=False).logits[0].double())
        logits = (ends[0] - ends[1]) / 2
        return (logits - logits.mean(-1, keepdim=True)) / logits.std(-1, keepdim=True)

    @torch.no_grad()
    def guesses(self, token_ids, layers, changes=None):
        """Log-probabilities of what each layer's output says next, `(n_tokens, n_layers, vocabulary)`; `changes`: see `greedy`.

        It takes the place of the last block's output, so that the model's own norm and head read it.
        """
        with self.changed(changes):
            streams = self.streams(token_ids)
        said = []
        for layer in layers:
            with self.changed({self.n_layers - 1: lambda _stream, _positions, layer=layer: streams[layer]}):
                said.append(
                    torch.log_softmax(self.model(torch.tensor([list(token_ids)]), use_cache=False).logits[0], -1)
                )
        return torch.stack(said, 1)

    @torch.no_grad()
    def logprobs_of(self, token_ids):
        """Log-probability of each token but the first, given those before it."""
        logits = self.model(torch.tensor([list(token_ids)]), use_cache=False).logits[0, :-1]
        return torch.log_softmax(logits.float(), -1)[range(len(logits)), list(token_ids[1:])].numpy()

    def module(self, at):
        """A block by its layer, or a module in it by `(layer, path)`."""
        layer, path = at if isinstance(at, tuple) else (at, "")
        return self.blocks[layer].get_submodule(path)

    @torch.no_grad()
    def streams(self, token_ids, path=""):
        """The output of each block, `(n_layers, n_tokens, d_model)`, the last before the final norm; or of a module in each."""
        outputs = {}

        def keep(index):
            def hook(_module, _args, output):
                rows = output[0] if isinstance(output, tuple) else output
                outputs[index] = rows.reshape(-1, self.d_model).clone()

            return hook

        handles = [self.module((i, path)).register_forward_hook(keep(i)) for i in range(self.n_layers)]
        try:
            self.model(torch.tensor([list(token_ids)]), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack([outputs[i] for i in range(self.n_layers)])

    @torch.no_grad()
    def heads(self, token_ids):
        """Inputs of the output projections of all attention layers, `(n_layers, n_tokens, n_heads * head_dim)`."""
        inputs = {}

        def keep(index):
            def hook(_module, args):
                inputs[index] = args[0].reshape(-1, args[0].shape[-1]).clone()

            return hook

        modules = [self.module((i, "self_attn.o_proj")) for i in range(self.n_layers)]
        handles = [module.register_forward_pre_hook(keep(i)) for i, module in enumerate(modules)]
        try:
            self.model(torch.tensor([list(token_ids)]), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack([inputs[i] for i in range(self.n_layers)])


def _changing(change):
    def hook(_module, _args, output):
        stream = output[0] if isinstance(output, tuple) else output
        rows = stream.reshape(-1, stream.shape[-1])  # experts return no batch
        stream = change(rows, torch.arange(len(rows))).reshape(stream.shape)
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    return hook


def assert_lens_equals(result: EngineResult, reference: Reference, directions: list[Direction]) -> None:
    """The tokens of each direction are the most extreme ones by transformers' own norm and head, with the same z."""
    expected = reference.lens(np.stack([d.array for d in directions]))
    for end, largest in {"promoted": True, "suppressed": False}.items():
        tokens, z = (torch.tensor(result.lens[end][name]) for name in ("tokens", "z"))
        assert len(tokens) == len(directions)
        top = expected.topk(tokens.shape[1], largest=largest)
        assert float((expected.gather(1, tokens) - z).abs().max()) < 1e-3, end
        assert float((top.values - z).abs().max()) < 1e-3, f"{end}: the most extreme, in order"
        assert (tokens[:, 0] == top.indices[:, 0]).all()


def assert_guesses_equal(rows: np.ndarray, expected: torch.Tensor) -> None:
    """A lens's rows hold the likeliest tokens of each layer, in order, with their log-probabilities.

    Args:
        rows: `(n_positions, n_layers * 2 * top_k)`, as the worker gives them.
        expected: `(n_positions, n_layers, vocabulary)`.
    """
    n, n_layers, _ = expected.shape
    assert len(rows) == n
    ids, logprobs = torch.from_numpy(rows.reshape(n, n_layers, 2, -1)).unbind(2)
    top = expected.topk(ids.shape[-1])
    assert float((expected.gather(2, ids.long()) - logprobs).abs().max()) < 1e-3, (
        "each token has its own log-probability"
    )
    assert float((top.values - logprobs).abs().max()) < 1e-3, "the likeliest ones, in order"


def largest_difference(steps, logprobs) -> float:
    """Largest |delta logprob| between an engine's top tokens and a reference's `(n, vocabulary)` table."""
    return max(
        abs(value - float(logprobs[i][int(token)])) for i, step in enumerate(steps) for token, value in step.items()
    )
