"""The engine inside its process: vLLM's offline `LLM`, driven at once or step by step."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from asking import Answer, Request, Shape, directions, spec


class Runner:
    """One engine; each public method is a job.

    Args:
        model: Folder or Hugging Face id.
        options: Arguments of `LLM`.
        plugin: The plugin is loaded.
        cuda: The engine runs on CUDA.
    """

    def __init__(self, model: str, options: Mapping[str, Any], *, plugin: bool, cuda: bool) -> None:
        began = time.perf_counter()
        from vllm import LLM

        imported = time.perf_counter()
        self._llm = LLM(model=model, **options)
        self._seconds = {"import": imported - began, "engine": time.perf_counter() - imported}
        self._plugin, self._cuda = plugin, cuda
        self._config = self._llm.llm_engine.vllm_config
        self._bank: list[str] = []
        if plugin:
            from trait_service.engine_link.workers import Workers

            self._workers = Workers(_Rpc(self._llm))
            self._info = asyncio.run(self._workers.info())
            put = directions(self._info["d_model"])
            asyncio.run(self._workers.update_bank(put, []))
            self._bank = list(put)

    def described(self) -> dict[str, Any]:
        """The configuration that vLLM made of the arguments."""
        compilation = self._config.compilation_config
        return {
            "runner": self._info["runner"] if self._plugin else None,
            "asynchronous": bool(self._config.scheduler_config.async_scheduling),
            "graphs": None if self._config.model_config.enforce_eager else compilation.cudagraph_mode.name,
            "dtype": str(self._config.model_config.dtype).removeprefix("torch."),
            "attention": self._attention(),
            "compile_s": round(float(compilation.compilation_time), 1),
            **{f"{part}_s": round(seconds, 1) for part, seconds in self._seconds.items()},
        }

    def shape(self) -> Shape:
        """The model's numbers that specs are made from; measures the norms."""
        info, vocabulary = self._info, self._config.model_config.get_vocab_size()
        unmeasured = Shape(info["n_layers"], info["d_model"], vocabulary, [1.0] * info["n_layers"], self._bank)
        request = Request(
            np.random.default_rng(1).integers(vocabulary // 10, vocabulary // 2, size=32).tolist(),
            spec("norms", capture={"positions": ["all[4:]"]}),
            max_tokens=1,
        )
        (output,) = self._run([request])
        found = asyncio.run(self._workers.collect({"norms": [len(output.outputs[0].token_ids)]}))
        return Shape(
            unmeasured.n_layers,
            unmeasured.d_model,
            vocabulary,
            found["norms"].capture.norm[0].tolist(),
            self._bank,
        )

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """All requests, submitted together."""
        return self._answers(requests, self._run(requests))

    def stepwise(self, requests: Sequence[Request]) -> list[Answer | None]:
        """Each request joins, and may leave, before a step of its own; None for one that was aborted."""
        engine, latest, step = self._llm.llm_engine, {}, 0
        joining, leaving = _by_step(requests, "joins_at"), _by_step(requests, "leaves_at")
        while engine.has_unfinished_requests() or any(at >= step for at in joining):
            for i in joining.get(step, ()):
                engine.add_request(str(i), _prompt(requests[i]), _parameters(requests[i]))
            if gone := leaving.get(step):
                engine.abort_request([str(i) for i in gone])
                asyncio.run(self._workers.discard([_key(requests[i]) for i in gone if requests[i].spec]))
            for output in engine.step():
                if output.finished:
                    latest[int(output.request_id)] = output
            step += 1
        kept = [i for i, request in enumerate(requests) if request.leaves_at is None]
        answers = self._answers([requests[i] for i in kept], [latest[i] for i in kept])
        by_index: dict[int, Answer] = dict(zip(kept, answers, strict=True))
        return [by_index.get(i) for i in range(len(requests))]

    def timed(self, requests: Sequence[Request]) -> tuple[float, int]:
        """Seconds that a batch takes, its results fetched, and the tokens that it made; its prompts are not cached.

        Raises:
            RuntimeError: A request was not steered, captured or monitored as asked: it would look fast.
        """
        self._llm.reset_prefix_cache()
        began = time.perf_counter()
        outputs = self._run(requests)
        lengths = _lengths(requests, outputs)
        found = asyncio.run(self._workers.collect(lengths)) if lengths else {}
        seconds = time.perf_counter() - began
        for request, output in zip(requests, outputs, strict=True):
            if request.spec is not None:
                _check_done(request, len(output.outputs[0].token_ids), found[_key(request)])
        return seconds, sum(len(output.outputs[0].token_ids) for output in outputs)

    def sleep(self, level: int) -> None:
        """Put the engine to sleep."""
        self._llm.reset_prefix_cache()
        self._llm.sleep(level=level)

    def wake(self, reload: bool) -> None:
        """Wake it; its weights are loaded again if they were discarded."""
        if reload:
            self._llm.wake_up(tags=["weights"])
            self._llm.collective_rpc("reload_weights")
        self._llm.wake_up()

    def stats(self) -> dict[str, int]:
        """Occupancy of the plugin's buffers."""
        return self._llm.collective_rpc("trait_stats")[0]

    def _run(self, requests: Sequence[Request]) -> list[Any]:
        return self._llm.generate(
            [_prompt(request) for request in requests],
            [_parameters(request) for request in requests],
            use_tqdm=False,
        )

    def _answers(self, requests: Sequence[Request], outputs: Sequence[Any]) -> list[Answer]:
        lengths = _lengths(requests, outputs)
        found = asyncio.run(self._workers.collect(lengths)) if lengths else {}
        answers = []
        for request, output in zip(requests, outputs, strict=True):
            completion = output.outputs[0]
            collected = found[_key(request)] if request.spec is not None else None
            capture = collected and collected.capture
            answers.append(
                Answer(
                    token_ids=list(completion.token_ids),
                    text=completion.text,
                    finish_reason=completion.finish_reason,
                    logprobs=[
                        {token: entry.logprob for token, entry in step.items()} for step in completion.logprobs or []
                    ],
                    report=collected and collected.report,
                    mean=capture.mean if capture else None,
                    count=capture.count.tolist() if capture else None,
                    projections=collected.rows.projections.get(0) if collected else None,
                )
            )
        return answers

    def _attention(self) -> str:
        """Backend of the first attention layer; a server's engine does not say."""
        core = getattr(self._llm.llm_engine.engine_core, "engine_core", None)
        if core is None:
            return ""
        layers = self._config.compilation_config.static_forward_context.values()
        names = [layer.get_attn_backend().get_name() for layer in layers if hasattr(layer, "get_attn_backend")]
        return names[0] if names else ""


class _Rpc:
    """`LLM` as `Workers` sees its engine."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    async def collective_rpc(self, name: str, args: tuple[Any, ...] = ()) -> Any:
        return self._llm.collective_rpc(name, args=args)


def _prompt(request: Request) -> dict[str, Any]:
    return {"prompt_token_ids": request.token_ids}


def _parameters(request: Request) -> Any:
    from trait_service.engine.spec import RequestSpec
    from vllm import SamplingParams

    asked = None if request.spec is None else RequestSpec.model_validate_json(request.spec)
    return SamplingParams(
        temperature=0,
        max_tokens=request.max_tokens,
        ignore_eos=True,
        stop_token_ids=list(request.stop_tokens) or None,
        logprobs=request.logprobs or None,
        detokenize=False,
        extra_args=None if asked is None else asked.to_extra_args(),
        skip_reading_prefix_cache=True,
    )


def _key(request: Request) -> str:
    return json.loads(request.spec or "{}")["key"]


def _by_step(requests: Sequence[Request], which: str) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for i, request in enumerate(requests):
        at = getattr(request, which)
        if at is not None:
            found.setdefault(at, []).append(i)
    return found


def _lengths(requests: Sequence[Request], outputs: Sequence[Any]) -> dict[str, list[int]]:
    return {
        _key(request): [len(completion.token_ids) for completion in output.outputs]
        for request, output in zip(requests, outputs, strict=True)
        if request.spec is not None
    }


def _check_done(request: Request, n_generated: int, collected: Any) -> None:
    n_prompt, asked = len(request.token_ids), json.loads(request.spec or "{}")
    n_positions = n_prompt + n_generated - 1
    done = {"terms": collected.report.steered_prompt + collected.report.steered_generated}
    if asked["capture"]:
        done["capture"] = int(collected.capture.count[0])
    if asked["monitor"]:
        n_positions = n_generated if not asked["monitor"]["prompt"] else n_positions
        done["monitor"] = len(collected.rows.projections[0])
    wanted = [name for name in ("terms", "capture", "monitor") if asked[name]]
    if collected.report.error or any(done[name] != n_positions for name in wanted):
        raise RuntimeError(f"{n_positions} positions were to be touched: {done}, error {collected.report.error}")
