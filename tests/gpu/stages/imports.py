"""Imports: the CUDA worker's module leaves torch's streams and events alone; versions, card, driver."""

import json
import subprocess
import sys

from stage import Context, Report, Stage, main

NAMES = (
    "cuda.Stream",
    "cuda.Event",
    "Event",
    "cuda.current_stream",
    "cuda.stream",
    "cuda.set_stream",
    "Tensor.pin_memory",
    "Tensor.record_stream",
    "accelerator.synchronize",
    "accelerator.empty_cache",
)
CODE = """
import json, operator, sys
import torch
import vllm.v1.worker.gpu_worker  # wraps set_stream itself

names = sys.argv[1:]
before = [operator.attrgetter(name)(torch) for name in names]
import trait_service.engine.worker_cuda

after = [operator.attrgetter(name)(torch) for name in names]
print(json.dumps({
    "changed": [name for name, one, other in zip(names, before, after) if one is not other],
    "cpu_worker": "vllm.v1.worker.cpu.shm" in sys.modules,
    "cuda": torch.cuda.is_available(),
    "built_for": torch.version.cuda,
}))
"""


def run(context: Context, report: Report) -> None:
    """Import in a fresh process and compare what torch holds with what it holds under stock vLLM."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *NAMES], capture_output=True, text=True, check=False, timeout=context.left_s
    )
    sys.stderr.write(done.stderr[-8000:])
    report.check(done.returncode == 0, f"the CUDA worker does not import: {done.stderr[-600:]}")
    if done.returncode:
        return
    found = json.loads(done.stdout.splitlines()[-1])
    report.row("import of the CUDA worker", **found)
    report.check(not found["changed"], f"the import replaced torch's {', '.join(found['changed'])}")
    report.check(not found["cpu_worker"], "the import loads vLLM's CPU worker")
    report.check(found["cuda"] or not context.cuda, "torch finds no CUDA device")
    machine = context.machine
    for name, value in {"card": machine.card, "driver": machine.driver, "memory, GiB": machine.memory_gib}.items():
        report.row("machine", what=name, found=value)
    for package, version in machine.versions.items():
        report.row("machine", what=package, found=version)
    report.figure = f"{len(NAMES)} names of torch are its own; {machine.card}, driver {machine.driver or 'none'}"


STAGE = Stage(
    "imports",
    "The CUDA worker's module leaves torch's streams, events and pinned memory alone; card, driver and versions.",
    limit_s=90,
    run=run,
)

if __name__ == "__main__":
    main(STAGE)
