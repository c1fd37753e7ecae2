"""Rate of `trait-client capture` beside transformers with `output_hidden_states=True`, on the same prompts, in turns.

    trait-service serve smollm2 --enforce-eager --max-num-seqs 128 --port 8000
    python experiments/capture_rate/bench.py --url http://127.0.0.1:8000

Each round runs both ways on every prompt, the second round in the other order; the ratio is taken round by round. The
capture is the whole command, from the start of its process to the last shard on disk. transformers has its model loaded
and its batch size chosen beforehand, has no logits to compute, and is timed from texts to one file on disk.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from trait_client.http import TraitClient
from trait_client.prompt_sets import read_capture
from trait_client.scoring.evaluation import EvaluationSpec
from trait_steering import model_folder
from transformers import AutoModel, AutoTokenizer

HERE = Path(__file__).parent
DATASETS = HERE.parents[1] / "datasets" / "traits"
POSITIONS = "all[:]"
BUDGETS = (512, 1024, 2048, 4096, 8192)
"""Tokens of a batch, padding included, that are tried for transformers."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="a service of the same model")
    parser.add_argument("--model", help="folder of the model; default: SmolLM2-135M-Instruct")
    parser.add_argument("--n", type=int, default=2000, help="prompts")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of transformers")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.json")
    options = parser.parse_args()
    with TraitClient(options.url) as client:
        info = client.info()
    prompts = corpus(options.n)
    reference = Reference(options.model or str(model_folder()), info.dtype, options.threads)
    tried = reference.choose_budget(prompts)
    print(f"transformers, tokens/s by tokens a batch: {tried}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rounds = [measure(reference, prompts, options.url, folder, number) for number in range(options.rounds)]
        agreement = compare(folder)
    result = {
        "n_prompts": len(prompts),
        "tokens": agreement.pop("tokens"),
        "positions": POSITIONS,
        "layers": info.n_layers,
        "model": info.model,
        "dtype": info.dtype,
        "versions": info.versions | {"torch": torch.__version__},
        "machine": {"cores": len(os.sched_getaffinity(0)), "processor": platform.processor(), "load": os.getloadavg()},
        "transformers_tokens_per_s_by_batch_tokens": tried,
        "rounds": rounds,
        "ratio": statistics.median(round_["ratio"] for round_ in rounds),
        **agreement,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(prompts)} prompts, {result['tokens']} tokens, all {info.n_layers} layers, {POSITIONS}")
    for way in ("capture", "transformers"):
        seconds = statistics.median(round_[way] for round_ in rounds)
        print(f"  {way:<13} {seconds:8.1f} s  {len(prompts) / seconds:7.1f} prompts/s")
    each = ", ".join(f"{round_['ratio']:.2f}" for round_ in rounds)
    print(f"  ratio         {result['ratio']:8.2f}   (round by round: {each})")
    print(f"  largest difference of a mean, of the layer's largest value: {result['largest_difference']:.2g}")


def corpus(n: int) -> list[dict[str, str]]:
    """The datasets' scenarios with their responses and evaluation questions without, each text once, shuffled by a seed.

    Raises:
        SystemExit: There are not so many.
    """
    lines = []
    for folder in sorted(path.parent for path in DATASETS.glob("*/*/steering.json")):
        for side in ("positive", "negative"):
            for line in (folder / f"{side}.jsonl").read_text(encoding="utf-8").split("\n"):
                if line:
                    scenario = json.loads(line)
                    lines.append({"prompt": scenario["prompt"], "response": scenario["response"]})
        lines += [{"prompt": question} for question in EvaluationSpec.load(DATASETS, folder.name).questions]
    unique = list({json.dumps(line, sort_keys=True): line for line in lines}.values())
    if n > len(unique):
        raise SystemExit(f"the datasets hold {len(unique)} texts, fewer than {n}")
    return [unique[i] for i in np.random.default_rng(0).permutation(len(unique))[:n]]


def measure(
    reference: "Reference", prompts: Sequence[dict[str, str]], url: str, folder: Path, number: int
) -> dict[str, Any]:
    """Seconds of both ways, in turns."""
    ways = {
        "capture": lambda: capture(prompts, url, folder),
        "transformers": lambda: reference.save(prompts, folder / "reference.safetensors"),
    }
    seconds = {}
    for way in list(ways) if number % 2 == 0 else reversed(list(ways)):
        started = time.perf_counter()
        ways[way]()
        seconds[way] = time.perf_counter() - started
        print(f"round {number + 1}: {way} {seconds[way]:.1f} s", flush=True)
    return seconds | {"ratio": seconds["transformers"] / seconds["capture"]}


def capture(prompts: Sequence[dict[str, str]], url: str, folder: Path) -> None:
    """`trait-client capture` into an empty folder."""
    shutil.rmtree(folder / "captured", ignore_errors=True)
    file = folder / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, prompts)), encoding="utf-8")
    program = [sys.executable, "-c", "from trait_client.cli import main; main()", "capture", "--url", url]
    arguments = ["--prompts", str(file), "--positions", POSITIONS, "--out", str(folder / "captured"), "--json"]
    subprocess.run([*program, *arguments], check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own command


def compare(folder: Path) -> dict[str, Any]:
    """Compare tokens and means of both. The last layer is left out: transformers' has been through a norm."""
    captured = read_capture(folder / "captured")
    reference = safetensors.numpy.load_file(folder / "reference.safetensors")
    if (captured.count(POSITIONS) != reference["count"]).any():
        raise SystemExit("the service and transformers count other tokens: the model is not the same")
    mean, expected = captured.mean(POSITIONS)[:, :-1], reference["mean"][:, :-1]
    # Layer by layer: the stream's largest component grows a hundredfold over the layers.
    difference = np.abs(mean - expected).max(axis=(0, 2)) / np.abs(expected).max(axis=(0, 2))
    return {"tokens": int(reference["count"].sum()), "largest_difference": float(difference.max())}


class Reference:
    """transformers on this machine's CPU, batches of texts of like length.

    Args:
        path: The model.
        dtype: The dtype of the service.
        threads: Threads of torch.
    """

    def __init__(self, path: str, dtype: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._tokenizer = AutoTokenizer.from_pretrained(path)
        self._model = AutoModel.from_pretrained(path, dtype=getattr(torch, dtype.removeprefix("torch."))).eval()
        self._budget = BUDGETS[0]

    def choose_budget(self, prompts: Sequence[dict[str, str]]) -> dict[int, float]:
        """Take the batch size that reads a sample fastest; returns tokens/s by tokens a batch."""
        sample = self._tokenize(prompts[:: max(1, len(prompts) // 200)])
        n_tokens = sum(map(len, sample))
        self._read(sample[:8])
        rates = {}
        for self._budget in BUDGETS:
            started = time.perf_counter()
            self._read(sample)
            rates[self._budget] = n_tokens / (time.perf_counter() - started)
        self._budget = max(rates, key=rates.__getitem__)
        return {budget: round(rate) for budget, rate in rates.items()}

    def save(self, prompts: Sequence[dict[str, str]], path: Path) -> None:
        """Means over all tokens on every layer, `(n, n_layers, d_model)` float32, from texts to a file."""
        ids = self._tokenize(prompts)
        count = np.array([len(sequence) for sequence in ids], np.int32)
        safetensors.numpy.save_file({"mean": self._read(ids), "count": count}, path)

    def _tokenize(self, prompts: Sequence[dict[str, str]]) -> list[list[int]]:
        texts = [
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": line["prompt"]}], tokenize=False, add_generation_prompt=True
            )
            for line in prompts
        ]
        heads = self._tokenizer(texts, add_special_tokens=False).input_ids
        tails = self._tokenizer([line.get("response", "") for line in prompts], add_special_tokens=False).input_ids
        return [head + tail for head, tail in zip(heads, tails, strict=True)]

    @torch.inference_mode()
    def _read(self, ids: Sequence[list[int]]) -> np.ndarray:
        config = self._model.config
        means = np.empty((len(ids), config.num_hidden_layers, config.hidden_size), np.float32)
        for rows in self._batches(ids):
            longest = max(len(ids[row]) for row in rows)
            tokens = torch.zeros(len(rows), longest, dtype=torch.long)
            mask = torch.zeros(len(rows), longest, dtype=torch.long)
            for i, row in enumerate(rows):
                tokens[i, : len(ids[row])] = torch.tensor(ids[row])
                mask[i, : len(ids[row])] = 1
            output = self._model(tokens, attention_mask=mask, output_hidden_states=True, use_cache=False)
            weights = (mask / mask.sum(1, keepdim=True)).float()[:, None]
            for layer, hidden in enumerate(output.hidden_states[1:]):
                means[rows, layer] = torch.bmm(weights, hidden.float())[:, 0].numpy()
        return means

    def _batches(self, ids: Sequence[list[int]]) -> list[list[int]]:
        """Rows of each batch, longest first, as many as the budget takes with their padding."""
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        starts = [0]
        while starts[-1] < len(order):
            starts.append(starts[-1] + max(1, self._budget // len(ids[order[starts[-1]]])))
        return [order[start:stop] for start, stop in pairwise(starts)]


if __name__ == "__main__":
    main()
