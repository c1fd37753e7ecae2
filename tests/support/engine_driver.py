"""Run batches on a real vLLM engine in a process of its own: `python engine_driver.py JOB OUT_FOLDER`.

A job is JSON: model, options of `LLM`, whether the plugin is on, directions (hash -> hex bytes), and batches, each a
list of requests that are submitted together. `result.json` holds tokens, logprobs and reports; captures stand beside
it as safetensors.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


def main(job_file: str, out: str) -> None:
    job = json.loads(Path(job_file).read_text())
    from trait_service.engine.settings import EngineSettings, engine_args
    from trait_service.engine.spec import RequestSpec
    from vllm import LLM, SamplingParams

    options = dict(job["options"])
    if job["plugin"]:
        options |= engine_args(EngineSettings(**job["settings"]), cuda=False)
    llm = LLM(model=job["model"], dtype="float32", seed=0, **options)
    if job["plugin"]:
        put = {digest: bytes.fromhex(data) for digest, data in job["directions"].items()}
        llm.collective_rpc("trait_update_bank", args=(put, []))
    result = []
    for b, batch in enumerate(job["batches"]):
        keys = [json.loads(r["spec"])["key"] for r in batch if r["spec"]]
        prompts = [
            {"prompt_token_ids": r["token_ids"], **({"cache_salt": r["salt"]} if r["salt"] else {})} for r in batch
        ]
        params = [
            SamplingParams(
                temperature=0,
                max_tokens=r["max_tokens"],
                ignore_eos=True,
                logprobs=5,
                n=r["n"],
                seed=0,
                extra_args=RequestSpec.model_validate_json(r["spec"]).to_extra_args() if r["spec"] else r["extra_args"],
                skip_reading_prefix_cache=r["skip_cache"],
            )
            for r in batch
        ]
        outputs = llm.generate(prompts, params, use_tqdm=False)
        collected = {"reports": {}, "captures": b""}
        if keys:
            collected = llm.collective_rpc("trait_collect", args=(keys,))[0]
        if collected["captures"]:
            (Path(out) / f"captures-{b}.safetensors").write_bytes(collected["captures"])
        result.append(
            {
                "reports": collected["reports"],
                "outputs": [
                    {
                        "token_ids": list(o.outputs[0].token_ids),
                        "text": o.outputs[0].text,
                        "cached": o.num_cached_tokens or 0,
                        "logprobs": [
                            {str(token): lp.logprob for token, lp in step.items()} for step in o.outputs[0].logprobs
                        ],
                    }
                    for o in outputs
                ],
            }
        )
    stats = llm.collective_rpc("trait_stats")[0] if job["plugin"] else {}
    if not options.get("disable_log_stats", True):
        stats["preemptions"] = sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions")
    (Path(out) / "result.json").write_text(json.dumps({"batches": result, "stats": stats}))


if __name__ == "__main__":
    main(*sys.argv[1:])
