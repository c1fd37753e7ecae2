"""The common part of all steered workers: the check at start-up, and the RPC that the HTTP side calls through `collective_rpc`."""

from collections import Counter
from importlib.metadata import version
from typing import Any, get_args

import numpy as np
import torch
import vllm
from torch import nn
from trait_core.errors import SteeringFailedError
from trait_core.schema import Hold, Operation
from vllm.distributed import get_pp_group

from trait_service.engine import lens, refusals
from trait_service.engine.errors import UnsupportedEngineError, UnsupportedModelError
from trait_service.engine.layer_lists import decoder_layers
from trait_service.engine.state import SteeringState

OPERATIONS = get_args(Operation)
"""Operations that requests may use: those of `trait_service.engine.arithmetic`, each with an engine test."""


class SteeringWorkerMixin:
    """RPC methods of a worker; each is called on every worker."""

    model_runner: Any
    vllm_config: Any
    parallel_config: Any
    rank: int

    def init_device(self) -> None:
        """As vLLM does, unless the engine is one that steering was not tested with.

        Raises:
            UnsupportedEngineError: The engine is not supported; lists every reason.
        """
        refusals.check(self.vllm_config)
        super().init_device()  # type: ignore[misc]

    def sleep(self, level: int = 1) -> None:
        """As vLLM does, at the level that keeps what the weights' memory holds: the buffers of steering are in it.

        Raises:
            UnsupportedEngineError: Level 2 discards them. No worker sleeps; the last one says so.
        """
        refused = refusals.sleep_refusal(level)
        if refused is None:
            super().sleep(level)  # type: ignore[misc]
        elif self.rank == self.parallel_config.world_size - 1:
            # vLLM reads the workers' answers in the order of their ranks up to the first error. Answers behind it would be
            # taken for those to its next call.
            raise UnsupportedEngineError(refused)

    @property
    def trait_state(self) -> SteeringState:
        """The runner's steering state."""
        return self.model_runner.trait_state

    def trait_info(self) -> dict[str, Any]:
        """Describe the engine: sizes, dtype, operations, versions."""
        config = self.vllm_config.model_config
        return {
            "n_layers": self.trait_state.shape.n_layers,
            "d_model": self.trait_state.shape.d_model,
            "dtype": str(config.dtype).removeprefix("torch."),
            "quantization": config.quantization,
            "weights": weight_shares(self.model_runner.get_model()),
            "runner": type(self.model_runner).__name__,
            "scheduler": str(self.vllm_config.scheduler_config.scheduler_cls).rpartition(".")[2],
            "operations": list(OPERATIONS),
            "hook_points": list(self.trait_state.shape.sites.hook_points),
            "holds": list(get_args(Hold)) if self.trait_state.shape.sees_all_layers else [],
            "bank_rows": self.trait_state.settings.bank_rows,
            "terms_per_layer": self.trait_state.settings.terms_per_layer,
            "heads": None if self.trait_state.shape.heads is None else vars(self.trait_state.shape.heads),
            "capture_rows": self.trait_state.pools.n_rows,
            "lens": None if self.trait_state.lens is None else self.trait_state.lens.describe(),
            "max_num_seqs": self.trait_state.shape.max_requests,
            "versions": {
                "vllm": vllm.__version__,
                "torch": str(torch.__version__),
                "transformers": version("transformers"),
            },
        }

    def trait_update_bank(self, put: dict[str, bytes], drop: list[str]) -> str | None:
        """Change the directions in the bank: first drop, then put.

        A refusal is an answer, not an exception: vLLM stops reading at the first worker that fails, and takes the answers of the
        others for those of the next call.

        Args:
            put: sha256 (hex) -> float32 little-endian bytes of the unit direction.
            drop: sha256s whose rows are freed; the caller knows that no live request uses them.

        Returns:
            Reason why a direction does not fit; those before it are stored. None if all do.
        """
        for digest in drop:
            self.trait_state.bank.drop(digest)
        try:
            for digest, data in put.items():
                self.trait_state.bank.put(digest, data)
        except SteeringFailedError as error:
            return str(error)
        return None

    def trait_collect(self, lengths: dict[str, list[int]]) -> dict[str, Any]:
        """Take reports and captures: see `SteeringState.collect`."""
        return self.trait_state.collect(lengths)

    def trait_projections(self, after: dict[str, int]) -> bytes:
        """Projections of live requests: see `SteeringState.projections`."""
        return self.trait_state.projections(after)

    def trait_discard(self, keys: list[str]) -> None:
        """Discard reports and captures that will not be fetched."""
        self.trait_state.collect(dict.fromkeys(keys, ()))

    def trait_lens(
        self, directions: bytes, top_k: int, n_vocabulary: int
    ) -> dict[str, dict[str, list[list[float]]]] | str | None:
        """Rank the vocabulary by directions: see `lens.read`. Every rank takes part; requests are not touched.

        Args:
            directions: `(n, d_model)` float32 little-endian bytes.
            top_k: Number of tokens at either end.
            n_vocabulary: Number of the tokenizer's tokens.

        Returns:
            The ranks' answer, or the reason why this model's vectors cannot be read; None where another rank answers.
        """
        if not get_pp_group().is_last_rank:
            return None
        shape = self.trait_state.shape
        model = self.model_runner.get_model()
        rows = np.frombuffer(directions, np.float32).reshape(-1, shape.d_model)
        try:
            return lens.read(model, decoder_layers(model, shape.n_layers), rows, top_k, n_vocabulary)
        except UnsupportedModelError as error:
            return str(error)

    def trait_stats(self) -> dict[str, int]:
        """Occupancy of the buffers."""
        return self.trait_state.stats()


def weight_shares(model: nn.Module) -> dict[str, float]:
    """Dtype -> its share of the bytes of the loaded weights."""
    sizes: Counter[str] = Counter()
    for weight in model.parameters():
        sizes[str(weight.dtype).removeprefix("torch.")] += weight.nbytes
    for module in model.modules():
        # vLLM's INT8 kernel for the CPU packs a weight into a oneDNN handle and drops the parameter.
        handle = getattr(getattr(getattr(module, "scheme", None), "kernel", None), "dnnl_handler", None)
        if handle is not None:
            sizes["int8"] += handle.k * handle.n
    return {dtype: round(size / sizes.total(), 4) for dtype, size in sizes.most_common()}
