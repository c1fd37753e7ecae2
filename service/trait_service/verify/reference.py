"""The reference: the same checkpoint in transformers, float32, with forward hooks that say each operation in words.

Nothing here is shared with the engine's arithmetic. The modules of a hook point are found by their names, as in the engine; that
they show what a block adds is measured.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from trait_core.errors import TraitError
from trait_core.positions import Positions
from trait_core.schema import RESID_POST, HookPoint

from trait_service.engine.branches import branch
from trait_service.engine.errors import UnsupportedModelError
from trait_service.engine.spec import TermSpec
from trait_service.verify.blocks import BlocksNotFoundError, decoder_blocks
from trait_service.verify.probe import Direction
from trait_service.verify.reference_gates import Gates

BYTES_PER_WEIGHT = 4
SPARE_BYTES = 2**30
"""Memory to keep free, for activations and for weights that loading holds twice."""

MOST_UNEXPLAINED = 1e-3
"""Largest part of what a block adds that its attention and its MLP together may leave unexplained, in float32."""

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
        """Log-probabilities of each token of a given reply `(len(reply), vocabulary)`, in one forward pass.

        Raises:
            NoReferenceError: A term acts at a hook point that transformers' blocks do not show.
        """
        gates = Gates(terms, dict(directions), len(prompt))
        changes: dict[tuple[HookPoint, int], list[Change]] = {}
        for term in terms:
            unit = torch.from_numpy(directions[term.direction].array)
            change = _gated(change_of(term, unit, len(prompt)), term, gates)
            changes.setdefault((term.at, term.layer), []).append(change)

        def pass_on(at: HookPoint, layer: int, tensor: torch.Tensor) -> torch.Tensor:
            if at == RESID_POST:
                gates.read(layer, tensor)
            return _apply(changes.get((at, layer), []), tensor)

        with ExitStack() as hooks:
            for at in {RESID_POST, *(at for at, _ in changes)}:
                hooks.enter_context(_Hooks(self._modules(at), partial(pass_on, at)))
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

    def check_branches(self, hook_points: Collection[HookPoint]) -> None:
        """Check that the modules of these hook points are found, and of both that they show all that the blocks add.

        Raises:
            NoReferenceError: They are not, or a block adds something else.
        """
        shown: dict[tuple[HookPoint, int], torch.Tensor] = {}

        def keep(at: HookPoint, layer: int, tensor: torch.Tensor) -> torch.Tensor:
            shown[at, layer] = tensor.clone()
            return tensor

        with ExitStack() as hooks:
            for at in {RESID_POST, *hook_points}:
                hooks.enter_context(_Hooks(self._modules(at), partial(keep, at)))
            self._forward([0, 1, 2, 3])
        if not {"attn_out", "mlp_out"} <= set(hook_points):
            return
        for layer in range(1, len(self._layers)):
            added = shown[RESID_POST, layer] - shown[RESID_POST, layer - 1]
            rest = added - shown["attn_out", layer] - shown["mlp_out", layer]
            if rest.norm() > MOST_UNEXPLAINED * added.norm():
                raise NoReferenceError(
                    f"in transformers block {layer} adds more than its attention and its MLP return: the difference is "
                    f"{float(rest.norm() / added.norm()):.2g} of it"
                )

    def _modules(self, at: HookPoint) -> dict[int, Any]:
        """The blocks, or the module of each whose output it adds to the stream at a hook point."""
        if at == RESID_POST:
            return self._layers
        try:
            return {layer: branch(block, at) for layer, block in self._layers.items()}
        except UnsupportedModelError as error:
            raise NoReferenceError(f"transformers' model: {error}") from error

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


def _gated(change: Change, term: TermSpec, gates: Gates) -> Change:
    return lambda stream: gates.acts(term, stream, change(stream))


def _apply(changes: list[Change], stream: torch.Tensor) -> torch.Tensor:
    for change in changes:
        stream = change(stream)
    return stream


class _Hooks:
    """Pass the output of each layer's block, or of a module in it, through a function."""

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
