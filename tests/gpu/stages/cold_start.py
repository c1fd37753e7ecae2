"""Cold start: seconds until an engine is ready with empty caches and again with warm ones, stock vLLM and with the plugin.

The engine core runs in a process of its own and compiles and captures its graphs, as a server's does. Caches of vLLM,
Inductor and Triton are in new folders for each of the two; packages and model are in the system's file cache.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from engines import Engine, Kind
from stage import Context, Report, Stage, main

CACHES = ("VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def run(context: Context, report: Report) -> None:
    """Stock and plugin, each cold and then warm, one after another."""
    # The system has read the packages' files before the first start, whose imports would take longer else.
    subprocess.run([sys.executable, "-c", "from vllm import LLM"], check=True, capture_output=True)
    seconds = {}
    with tempfile.TemporaryDirectory(prefix="gpu-cold-start-") as folder:
        for temperature in context.pick(cuda=("cold", "warm"), cpu=("cold",)):
            for name in ("stock", "plugin"):
                began = time.monotonic()
                caches = {variable: str(Path(folder) / name / variable.lower()) for variable in CACHES}
                with Engine(context, Kind(plugin=name == "plugin", apart=True, environment=caches)) as engine:
                    ready = engine.ready
                seconds[name, temperature] = ready["import_s"] + ready["engine_s"]
                report.row(
                    "starts",
                    engine=name,
                    caches=temperature,
                    ready_s=seconds[name, temperature],
                    wall_s=time.monotonic() - began,
                    **{part: ready[part] for part in ("import_s", "engine_s", "compile_s", "graphs", "dtype")},
                )
    added = seconds["plugin", "cold"] - seconds["stock", "cold"]
    report.figure = (
        f"ready after {seconds['plugin', 'cold']:.1f} s with the plugin, {seconds['stock', 'cold']:.1f} s stock, "
        f"empty caches: {added:+.1f} s"
    )


STAGE = Stage(
    "cold_start",
    "Seconds until an engine is ready with empty and with warm caches: stock vLLM, and with the plugin.",
    limit_s=200,
    run=run,
    alone=True,
)

if __name__ == "__main__":
    main(STAGE)
