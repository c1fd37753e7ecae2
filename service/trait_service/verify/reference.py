"""The reference: the same checkpoint in transformers, float32, with forward hooks that say each operation in words.

Nothing here is shared with the engine's arithmetic.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from trait_core.errors import TraitError
from trait_core.positions import Positions

from trait_service.engine.spec import TermSpec
from trait_service.verify.blocks import BlocksNotFoundError, decoder_blocks
from trait_service.verify.probe import Direction

BYTES_PER_WEIGHT = 4
SPARE_BYTES = 2**30
"""Memory to keep free, for activations and for weights that loading holds twice."""

Change = Callable[[torch.Tensor], torch.Tensor]


class NoReferenceError(TraitError):
    """No float32 reference is available for this model on this machine."""


class Reference:
    """transformers' model on the CPU.

    Args:
        model: Hugging Face id or folder.
        n_layers: Number of layers that the engine counts.

    Raises:
        NoReferenceError: The model does not fit into free memory, is quantised, or transformers cannot run it here.
    """

    def __init__(self, model: str, n_layers: int) -> None:
        from transformers import AutoConfig  # noqa: PLC0415 - heavy

        try:
            config = AutoConfig.from_pretrained(model)
            loader = _loader(config)
            _check_unquantised(config)
            with _plain_transformers(model):
                _check_weights(config, loader)
                self._model = loader.from_pretrained(model, dtype=torch.float32).eval()
            self._layers = dict(enumerate(decoder_blocks(self._model, n_layers)))
            self.streams([0, 1, 2, 3])
        except NoReferenceError:
            raise
        except BlocksNotFoundError as error:
            raise NoReferenceError(f"transformers' model is built differently: {error}") from error
        except (
            Exception
        ) as error:  # transformers raises whatever its models meet: missing packages, unknown architectures
            raise NoReferenceError(f"transformers cannot run this model here: {error}") from error

    def logprobs(
        self, prompt: list[int], reply: list[int], terms: Sequence[TermSpec], directions: Mapping[str, Direction]
    ) -> torch.Tensor:
        """Log-probabilities of each token of a given reply `(len(reply), vocabulary)`, in one forward pass."""
        changes: dict[int, list[Change]] = {}
        for term in terms:
            unit = torch.from_numpy(directions[term.direction].array)
            changes.setdefault(term.layer, []).append(change_of(term, unit, len(prompt)))
        with _Hooks(self._layers, lambda layer, stream: _apply(changes.get(layer, []), stream)):
            logits = self._forward([*prompt, *reply[:-1]])
        return torch.log_softmax(logits[len(prompt) - 1 :].float(), -1)

    def streams(self, token_ids: list[int]) -> torch.Tensor:
        """The output of every block, `(n_layers, n_tokens, d_model)` float32."""
        kept: dict[int, torch.Tensor] = {}

        def keep(layer: int, stream: torch.Tensor) -> torch.Tensor:
            kept[layer] = stream.clone()
            return stream

        with _Hooks(self._layers, keep):
            self._forward(token_ids)
        if len(kept) != len(self._layers):
            raise NoReferenceError(f"transformers calls {len(kept)} of its {len(self._layers)} blocks")
        return torch.stack([kept[layer] for layer in sorted(kept)])

    @torch.no_grad()
    def _forward(self, token_ids: list[int]) -> torch.Tensor:
        logits: torch.Tensor = self._model(torch.tensor([token_ids]), use_cache=False).logits[0]
        return logits


def reference_or_why_not(model: str, n_layers: int) -> Reference | NoReferenceError:
    """Load the reference, or return the reason why there is none."""
    try:
        return Reference(model, n_layers)
    except NoReferenceError as error:
        return error


@contextmanager
def _plain_transformers(model: str) -> Iterator[None]:
    """Let transformers make its own model, uncompiled, in a process whose engine runs on the same classes.

    vLLM's Transformers backend changes the class itself, so that every instance asks for a configuration of vLLM's.
    """
    from vllm.config import (  # noqa: PLC0415 - heavy
        CompilationConfig,
        CompilationMode,
        ModelConfig,
        VllmConfig,
        set_current_vllm_config,
    )

    config = VllmConfig(
        model_config=ModelConfig(model=model, dtype="float32", skip_tokenizer_init=True),
        compilation_config=CompilationConfig(mode=CompilationMode.NONE),
    )
    with set_current_vllm_config(config):
        yield


def _loader(config: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText  # noqa: PLC0415 - heavy

    causal = type(config) in AutoModelForCausalLM._model_mapping  # noqa: SLF001 - it has no public name
    return AutoModelForCausalLM if causal else AutoModelForImageTextToText


def _check_unquantised(config: Any) -> None:
    if getattr(config, "quantization_config", None) is not None:
        raise NoReferenceError("the checkpoint is quantised: float32 weights are not those that are served")


def _check_weights(config: Any, loader: Any) -> None:
    with torch.device("meta"):
        empty = loader.from_config(config)
    needed = BYTES_PER_WEIGHT * sum(weight.numel() for weight in empty.parameters()) + SPARE_BYTES
    free = available_bytes()
    if needed > free:
        raise NoReferenceError(
            f"float32 weights need {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free"
        )


def change_of(term: TermSpec, d: torch.Tensor, n_prompt: int) -> Change:
    """Change of the residual stream of a whole sequence, `(n_tokens, d_model)`, by one term, as README.md describes it."""

    def change(h: torch.Tensor) -> torch.Tensor:
        along = h @ d
        amounts = {
            "add": torch.full_like(along, term.value),
            "ablate": -along,
            "set": term.value - along,
            "scale": (term.value - 1) * along,
            "floor": (term.value - along).clamp(min=0),
            "ceiling": (term.value - along).clamp(max=0),
        }
        if term.operation == "replace":
            moved = (term.value * d).expand_as(h)
        elif term.operation == "rotate":
            moved = _rotated(h, d, math.radians(term.value))
        else:
            moved = h + amounts[term.operation][:, None] * d
        if term.preserve_norm:
            moved = moved * h.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True)
        at = torch.arange(len(h))
        touched = {
            "all": at >= 0,
            "prompt": at < n_prompt,
            "generated": at >= n_prompt - 1,
            "last_prompt": at == n_prompt - 1,
        }
        scope = term.scope
        if isinstance(scope, Positions):
            inside = torch.isin(at, torch.tensor(scope.indices(n_prompt, len(h))))
        else:
            inside = touched[scope] if isinstance(scope, str) else (at >= scope[0]) & (at < scope[1])
        return torch.where(inside[:, None], moved, h)

    return change


def _rotated(h: torch.Tensor, d: torch.Tensor, angle: float) -> torch.Tensor:
    """Each row turned by an angle in the plane of itself and d, from two orthonormal vectors of that plane."""
    length = h.norm(dim=-1, keepdim=True)
    first = h / length
    second = torch.nn.functional.normalize(d - (first @ d)[:, None] * first, dim=-1)
    return length * (math.cos(angle) * first + math.sin(angle) * second)


def available_bytes() -> int:
    """Memory available without swapping, in bytes."""
    with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    raise NoReferenceError("this system does not say how much memory is free")


def _apply(changes: list[Change], stream: torch.Tensor) -> torch.Tensor:
    for change in changes:
        stream = change(stream)
    return stream


class _Hooks:
    """Pass every block's output through a function inside the block."""

    def __init__(self, layers: Mapping[int, Any], function: Callable[[int, torch.Tensor], torch.Tensor]) -> None:
        self._layers = layers
        self._function = function
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for layer, block in self._layers.items():
            self._handles.append(block.register_forward_hook(self._hook(layer)))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, layer: int) -> Callable[..., Any]:
        def hook(_module: object, _args: object, output: Any) -> Any:
            if isinstance(output, tuple):
                return self._function(layer, output[0][0])[None], *output[1:]
            return self._function(layer, output[0])[None]

        return hook
