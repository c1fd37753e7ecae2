"""Run batches on real vLLM engines, each in a process of its own, forked from one that has imported vLLM.

It reads a line of JSON for each job, `{"folder", "environment"}`, and answers with the process's exit code. `job.json` in the
folder: model, options of `LLM`, whether the plugin is on and the model compiled in pieces, directions (hash -> hex bytes), and batches, each a list of
requests that are submitted together, or that join and leave at steps of their own. `result.json` holds tokens, logprobs
and reports; captures are beside it as safetensors, the output of the process in `log.txt`.
"""

import asyncio
import gc
import json
import operator
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import engine_forms
import piecewise_on_cpu
import safetensors.numpy

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

JOB_LIMIT_S = 1200


class Engine:
    """`LLM` as the service's `Workers` see their engine, so that answers are merged by the code that serves."""

    def __init__(self, llm) -> None:
        self.llm = llm

    async def collective_rpc(self, name, args=()):
        return self.llm.collective_rpc(name, args=args)


def main() -> None:
    """Import, then fork for each job. No engine starts in this process, so that it has no threads to lose."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM logs to stdout
    engine_forms.become(engine_forms.current())
    import trait_service.engine_link.workers  # noqa: F401 - what every job needs

    if not engine_forms.CUDA:  # vLLM's import may count the GPUs through CUDA, which does not outlive a fork
        import vllm.v1.worker.cpu_worker  # noqa: F401

    gc.freeze()  # what every job shares is not looked through by each
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            become_job(Path(asked["folder"]), asked["environment"])
            run_job(Path(asked["folder"]))
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


def become_job(folder: Path, environment: dict[str, str]) -> None:
    """This process, just forked, talks to `log.txt` and to nobody else, and has an end."""
    with (folder / "log.txt").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ.update(environment)
    signal.alarm(JOB_LIMIT_S)


def run_job(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    from trait_service.engine.settings import EngineSettings, engine_args
    from trait_service.engine_link.workers import Workers
    from vllm import LLM

    compilation = piecewise_on_cpu.force() if job["piecewise"] else None
    asynchronous = engine_forms.current() != engine_forms.V1_SYNC
    device = engine_forms.CUDA_OPTIONS if engine_forms.CUDA else {}
    options = {"dtype": "float32", "async_scheduling": asynchronous, **device, **job["options"]}
    if not engine_forms.CUDA:
        start_quickly(eager=options.get("enforce_eager", False))
    if job["plugin"]:
        settings = EngineSettings(**job["settings"])
        options = {**engine_args(settings, cuda=engine_forms.CUDA, asynchronous=asynchronous), **options}
    llm = LLM(model=job["model"], seed=0, **options)
    workers = Workers(Engine(llm))
    if job["plugin"]:
        upload(workers, job["directions"])
    result = []
    for b, batch in enumerate(job["batches"]):
        if str(b) in job["late"]:
            upload(workers, job["late"][str(b)])
        for r in batch:
            if r["continues"]:
                earlier, i = r["continues"]
                r["token_ids"] = [*r["token_ids"], *result[earlier]["outputs"][i]["token_ids"]]
        stepwise = any(r["joins_at"] or r["leaves_at"] is not None for r in batch)
        outputs = run_stepwise(llm, workers, batch) if stepwise else run_at_once(llm, batch)
        lengths = {
            json.loads(r["spec"])["key"]: [len(completion.token_ids) for completion in output.outputs] if output else []
            for r, output in zip(batch, outputs, strict=True)
            if r["spec"]
        }
        collected = asyncio.run(workers.collect(lengths)) if lengths else {}
        tensors = {
            f"{key}/{name}": array for key, found in collected.items() for name, array in tensors_of(found).items()
        }
        if tensors:
            safetensors.numpy.save_file(tensors, folder / f"captures-{b}.safetensors")
        result.append(
            {
                "reports": {key: asdict(found.report) for key, found in collected.items()},
                "outputs": [output and described(output) for output in outputs],
            }
        )
    stats = llm.collective_rpc("trait_stats")[0] if job["plugin"] else {}
    if not options.get("disable_log_stats", True):
        stats["preemptions"] = sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions")
    info = asyncio.run(workers.info()) if job["plugin"] else {}
    document = {
        "batches": result,
        "stats": stats,
        "info": info,
        "hook_points": hook_points_of(llm) if info and "distributed_executor_backend" not in options else {},
        "layers": [] if "distributed_executor_backend" in options else llm.apply_model(layer_classes)[0],
        "compilation": compilation and compilation.described(),
        "lens": lens_of(workers, job["lens"]),
    }
    (folder / "result.json").write_text(json.dumps(document))


def start_quickly(eager: bool) -> None:
    """Leave out what vLLM does for a GPU's sake, and what takes longer than these engines run."""
    import torch
    from vllm.model_executor.models import registry

    # vLLM looks at a model's class in a process of its own, which imports it all again, to keep CUDA out of this one.
    registry._run_in_subprocess = operator.call
    torch._dynamo.config.disable = eager  # parts of the sampler are compiled even so


def layer_classes(model) -> list[str]:
    """The classes of the layers that are steered, as the tables of `layer_rules` name them."""
    from trait_service.engine import layers

    steered = (
        type(module)
        for module in model.modules()
        for hook in module._forward_hooks.values()
        if getattr(hook, "func", None) is layers._after_layer
    )
    return sorted({layers.class_name(kind) for kind in steered})


def hook_points_of(llm) -> list[str]:
    """The hook points beside the stream that a model has, whether the engine was started with them or not."""
    from trait_service.engine import branches, layer_lists
    from trait_service.engine.errors import UnsupportedModelError

    n_layers = llm.llm_engine.model_config.get_total_num_hidden_layers()

    def found(model) -> list[str]:
        layers, names = layer_lists.decoder_layers(model, n_layers).values(), []
        for at in branches.ROLES:
            try:
                for layer in layers:
                    branches.branch(layer, at)
            except UnsupportedModelError:
                continue
            names.append(at)
        return names

    return llm.apply_model(found)[0]


def tensors_of(found) -> dict:
    """Pools, projections and readings of the lens of one request."""
    pools = {} if found.capture is None else vars(found.capture)
    read = {f"projections/{completion}": rows for completion, rows in found.rows.projections.items()}
    return pools | read | {f"lens/{completion}": rows for completion, rows in found.rows.guesses.items()}


def upload(workers, directions: dict[str, str]) -> None:
    """Put directions (hash -> hex bytes) into the bank."""
    asyncio.run(workers.update_bank({digest: bytes.fromhex(data) for digest, data in directions.items()}, []))


def lens_of(workers, rows: list[list[float]]) -> dict:
    """The tokens that each direction moves most; nothing where no direction is given."""
    if not rows:
        return {}
    import numpy as np

    return asyncio.run(workers.lens(np.array(rows, np.float32), 100, 10**9))


def run_at_once(llm, batch: list[dict]) -> list:
    """All requests submitted together, through `LLM.generate`."""
    return llm.generate(
        [prompt_of(r) for r in batch],
        [params_of(r) for r in batch],
        lora_request=[lora_of(r) for r in batch],
        use_tqdm=False,
    )


def run_stepwise(llm, workers, batch: list[dict]) -> list:
    """Each request is added before the step `joins_at` and aborted before the step `leaves_at`.

    Returns what each request had last put out; None where it was aborted before its first token.
    """
    engine = llm.llm_engine
    latest: dict[str, object] = {}
    completions: dict[str, dict[int, object]] = {}
    step = 0
    while engine.has_unfinished_requests() or any(r["joins_at"] >= step for r in batch):
        for i, r in enumerate(batch):
            if r["joins_at"] == step:
                engine.add_request(str(i), prompt_of(r), params_of(r), lora_request=lora_of(r))
            if r["leaves_at"] == step:
                engine.abort_request([str(i)])
                if r["spec"]:
                    asyncio.run(workers.discard([json.loads(r["spec"])["key"]]))
        for output in engine.step():
            # A running request puts out one completion at a time.
            of_request = completions.setdefault(output.request_id, {})
            of_request.update({completion.index: completion for completion in output.outputs})
            output.outputs = [of_request[index] for index in sorted(of_request)]
            latest[output.request_id] = output
        step += 1
    return [latest.get(str(i)) for i in range(len(batch))]


def prompt_of(r: dict) -> dict:
    from PIL import Image

    image = {"multi_modal_data": {"image": Image.open(r["image"])}} if r["image"] else {}
    return {"prompt_token_ids": r["token_ids"], **({"cache_salt": r["salt"]} if r["salt"] else {}), **image}


def params_of(r: dict):
    from trait_service.engine.spec import RequestSpec
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    return SamplingParams(
        temperature=r["temperature"],
        max_tokens=r["max_tokens"],
        ignore_eos=True,
        logprobs=5,
        prompt_logprobs=0 if r["prompt_logprobs"] else None,
        n=r["n"],
        seed=r["seed"],
        extra_args=RequestSpec.model_validate_json(r["spec"]).to_extra_args() if r["spec"] else r["extra_args"],
        skip_reading_prefix_cache=r["skip_cache"],
        stop_token_ids=r["stop_token_ids"],
        min_tokens=r["min_tokens"],
        structured_outputs=StructuredOutputsParams(json=r["json_schema"]) if r["json_schema"] else None,
    )


def lora_of(r: dict):
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, r["lora"]) if r["lora"] else None


def described(output) -> dict:
    """The first completion's fields, the tokens read from the cache, and every completion beneath."""
    completions = [
        {
            "token_ids": list(completion.token_ids),
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "logprobs": [{str(token): lp.logprob for token, lp in step.items()} for step in completion.logprobs],
        }
        for completion in output.outputs
    ]
    entries = zip(output.prompt_token_ids, output.prompt_logprobs or [None] * len(output.prompt_token_ids), strict=True)
    prompt = [entry[token].logprob for token, entry in entries if entry]
    return {
        **completions[0],
        "prompt_token_ids": list(output.prompt_token_ids),
        "cached": output.num_cached_tokens or 0,
        "completions": completions,
        "prompt_logprobs": prompt,
    }


if __name__ == "__main__":
    main()
