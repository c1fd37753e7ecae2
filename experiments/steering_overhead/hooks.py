"""The sweep of `workloads.py` by transformers with forward hooks, in its two best forms.

The replies are compared with the engine's: work that is not the same is not compared in speed.
"""

import os
import time
from functools import partial
from typing import Any

from engines import ENVIRONMENT, Process, Timing, cpu_seconds
from workloads import N_CONFIGURATIONS, N_TOKENS, Model, sweep_configurations, sweep_prompts

WAYS = ("engine", "hooks_per_configuration", "hooks_one_batch")


class Hooks(Process):
    """transformers in a process of its own."""

    def __init__(self, model: str, norms: list[float]) -> None:
        super().__init__(partial(_HooksRunner, model, norms))

    def run(self, way: str) -> tuple[Timing, list[list[int]]]:
        """Run the sweep; the replies' tokens, configuration after configuration."""
        wall, cpu, replies = self.call(way)
        return Timing(wall, cpu), replies


class _HooksRunner:
    def __init__(self, path: str, norms: list[float]) -> None:
        os.environ.update(ENVIRONMENT)
        import torch  # noqa: PLC0415 - in the child only
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        config = self.model.config
        self.configurations = sweep_configurations(Model(config.num_hidden_layers, config.hidden_size, norms))
        self.prompts = sweep_prompts(self.tokenizer)

    def call(self, way: str) -> tuple[float, float, list[list[int]]]:
        wall, cpu = time.perf_counter(), cpu_seconds()
        replies = getattr(self, f"_{way}")()
        return time.perf_counter() - wall, cpu_seconds() - cpu, replies

    def _hooks_per_configuration(self) -> list[list[int]]:
        """The usual form: one configuration after another, all its prompts in one batch."""
        replies = []
        for layer, added in self.configurations:
            replies += self._generate(self.prompts, {layer: self.torch.from_numpy(added)})
        return replies

    def _hooks_one_batch(self) -> list[list[int]]:
        """The best form: all configurations in one batch, each row with a vector of its own."""
        rows = [(c, ids) for c in range(N_CONFIGURATIONS) for ids in self.prompts]
        added: dict[int, Any] = {}
        for i, (c, _) in enumerate(rows):
            layer, vector = self.configurations[c]
            if layer not in added:
                added[layer] = self.torch.zeros(len(rows), 1, vector.shape[0])
            added[layer][i, 0] = self.torch.from_numpy(vector)
        return self._generate([ids for _, ids in rows], added)

    def _generate(self, batch: list[list[int]], added: dict[int, Any]) -> list[list[int]]:
        longest = max(map(len, batch))
        pad = self.tokenizer.pad_token_id
        ids = self.torch.tensor([[pad] * (longest - len(row)) + row for row in batch])
        mask = self.torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in batch])
        layers = self.model.model.layers
        handles = [layers[layer].register_forward_hook(partial(_add, delta)) for layer, delta in added.items()]
        try:
            with self.torch.inference_mode():
                made = self.model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=N_TOKENS,
                    do_sample=False,
                    pad_token_id=pad,
                )
        finally:
            for handle in handles:
                handle.remove()
        return [_until_end(row[longest:].tolist(), self.model.generation_config.eos_token_id) for row in made]


def _add(delta: Any, _module: Any, _args: Any, output: Any) -> Any:
    return (output[0] + delta, *output[1:]) if isinstance(output, tuple) else output + delta


def _until_end(ids: list[int], end: int | list[int]) -> list[int]:
    ends = end if isinstance(end, list) else [end]
    return next((ids[: i + 1] for i, token in enumerate(ids) if token in ends), ids)


def same_replies(one: list[list[int]], other: list[list[int]]) -> float:
    """Share of replies that are equal token by token."""
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
