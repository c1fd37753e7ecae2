"""The service's engine in this process, with the client's calls."""

import tempfile
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, Unpack

from trait_client.http import TraitClient
from trait_client.http.chat_requests import ChatMessages, ChatOptions, CompletionOptions
from trait_client.http.replies import ChatResult
from trait_core.errors import InvalidRequestError
from trait_core.schema import Steering
from trait_service.in_process import InProcessService
from trait_service.settings import ServiceSettings
from trait_steering.transport import ApplicationTransport

ADDRESS = "http://in-process"
MOST_AT_ONCE = 256
"""Requests of one list that wait in the engine together; vLLM batches up to `max_num_seqs` of them."""

Item = TypeVar("Item")
Options = TypeVar("Options", ChatOptions, CompletionOptions)


class LocalEngine(TraitClient):
    """A `TraitClient` whose service runs in this process: same calls, same errors, same reports, no server.

    What answers is the application that `trait-service serve` puts behind its port, on vLLM's asynchronous engine. Where
    code takes a `TraitClient`, it takes a `LocalEngine`. vLLM runs the model in a child process. A script needs no
    `if __name__ == "__main__":` guard, and an interrupt (Ctrl-C, a notebook's stop button) ends the call, not the engine.

    Environment variables that `trait-service serve` sets are set in this process too, unless they are set already.
    vLLM's log is kept to errors: set `VLLM_LOGGING_LEVEL=INFO` before the first engine to see more.

    Args:
        model: Hugging Face id, folder, or `smollm2` (comes with the package).
        registry: Folder of the vector registry; None takes a temporary one that `close` deletes.
        dtype: float32, bfloat16, ...; None as `trait-service serve` chooses: on a CPU float32, or bfloat16 for INT4 weights.
        enforce_eager: True runs without torch.compile (a quicker start); None compiles where there is a compiler.
        max_model_len: Longest sequence, in tokens; None takes the model's.
        max_num_seqs: Requests that run at once; None takes vLLM's.
        max_relative_dose: Largest |a| / residual norm on one layer.
        max_total_dose: Largest such sum over all layers; None sets no limit.
        arguments: Further flags of vLLM's, as words of a command line.
        allow_untested_vllm: Start with a release of vLLM for which steering was not written.
        layer_rules: Rules for classes of layers that the service does not know, each as `trait-service serve --layer-rule`.
        hook_points: Hook points beside `resid_post`: `attn_out`, `mlp_out`.
        reasoning_markers: Texts around a reply's reasoning, such as "<think> </think>", for positions `thinking[:]` and `answer[:]`;
            None: those of the model's tokenizer or chat template.

    Attributes:
        registry: The folder of the vector registry.

    Raises:
        InvalidRequestError: The arguments cannot be served.
        SteeringFailedError: The engine did not start.
        ServiceError: (Every method.) The service's own error, with the status that it has over HTTP; 500 where the
            engine has died. A steering failure is an error, never unsteered text.
    """

    def __init__(
        self,
        model: str = "smollm2",
        *,
        registry: str | Path | None = None,
        dtype: str | None = None,
        enforce_eager: bool | None = None,
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        max_relative_dose: float = 2.0,
        max_total_dose: float | None = None,
        arguments: Sequence[str] = (),
        allow_untested_vllm: bool = False,
        layer_rules: Sequence[str] = (),
        hook_points: Sequence[str] = (),
        reasoning_markers: str | None = None,
    ) -> None:
        folder = tempfile.TemporaryDirectory(prefix="trait-steering-") if registry is None else None
        self.registry = Path(folder.name if folder is not None else registry or "")
        settings = ServiceSettings(
            vectors=self.registry,
            max_relative_dose=max_relative_dose,
            max_total_dose=max_total_dose,
            reasoning_markers=reasoning_markers,
        )
        options = {"--max-model-len": max_model_len, "--max-num-seqs": max_num_seqs}
        service = InProcessService(
            model,
            arguments,
            options,
            settings,
            dtype=dtype,
            enforce_eager=enforce_eager,
            allow_untested_vllm=allow_untested_vllm,
            layer_rules=layer_rules,
            hook_points=hook_points,
        )
        super().__init__(ADDRESS, service.api_key, transport=ApplicationTransport(service), retries=0)
        self._end = weakref.finalize(self, _end, service, folder)

    def close(self) -> None:
        """Stop the engine, free its memory, delete a temporary registry. An engine that is never closed ends with Python."""
        self._end()

    def chat_many(
        self,
        chats: Sequence[ChatMessages],
        *,
        steerings: Sequence[Steering | None] | None = None,
        model: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> list[ChatResult]:
        """Reply to many chats in one batch; replies come in the order of the chats.

        Args:
            chats: Each as `chat` takes it.
            steerings: One for each chat; for one that all share, give `steering`.
            model: As for `chat`.
            options: As for `chat`, the same for all.

        Raises:
            InvalidRequestError: `steering` is given as well, or there are not as many steerings as chats.
            ServiceError: One request failed: no reply is returned.
        """
        model = model or self.base_model()

        def one(chat: ChatMessages, own: ChatOptions) -> ChatResult:
            return self.chat(chat, model=model, **own)

        return _in_threads(one, chats, _options_of_each(options, steerings, len(chats)))

    def complete_many(
        self,
        prompts: Sequence[str | list[int]],
        *,
        steerings: Sequence[Steering | None] | None = None,
        model: str | None = None,
        **options: Unpack[CompletionOptions],
    ) -> list[ChatResult]:
        """Continue many texts (or lists of token ids) in one batch; replies come in the order of the prompts.

        Args:
            prompts: Each as `complete` takes it.
            steerings: One for each prompt; for one that all share, give `steering`.
            model: As for `complete`.
            options: As for `complete`, the same for all.

        Raises:
            InvalidRequestError: `steering` is given as well, or there are not as many steerings as prompts.
            ServiceError: One request failed: no reply is returned.
        """
        model = model or self.base_model()

        def one(prompt: str | list[int], own: CompletionOptions) -> ChatResult:
            return self.complete(prompt, model=model, **own)

        return _in_threads(one, prompts, _options_of_each(options, steerings, len(prompts)))


def _options_of_each(options: Options, steerings: Sequence[Steering | None] | None, n: int) -> list[Options]:
    if steerings is None:
        return [options] * n
    if options.get("steering") is not None:
        raise InvalidRequestError("give steering for all requests, or steerings for each, not both", "steerings")
    if len(steerings) != n:
        raise InvalidRequestError(f"there are {len(steerings)} steerings for {n} requests: give one each", "steerings")
    each = []
    for steering in steerings:
        own = options.copy()
        own["steering"] = steering
        each.append(own)
    return each


def _in_threads(
    one: Callable[[Item, Options], ChatResult], items: Sequence[Item], options: Sequence[Options]
) -> list[ChatResult]:
    """Ask for all at once; the first failure or an interrupt ends the wait."""
    threads = ThreadPoolExecutor(MOST_AT_ONCE)
    try:
        return list(threads.map(one, items, options))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _end(service: InProcessService, folder: "tempfile.TemporaryDirectory[str] | None") -> None:
    service.close()
    if folder is not None:
        folder.cleanup()
