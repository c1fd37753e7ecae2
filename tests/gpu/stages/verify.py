"""`trait-service verify` on an engine that leaves room for others on the card: `verify.py MODEL OPTIONS... --json`."""

import json
import subprocess
import sys
from pathlib import Path

import bare

CODE = f"""
import functools, os
os.environ["VLLM_PLUGINS"] = "trait_steering"
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
import vllm
from vllm.platforms import current_platform
if current_platform.is_cuda():
    vllm.LLM = functools.partial(
        vllm.LLM, gpu_memory_utilization=0.04, kv_cache_memory_bytes=2**30, **{dict(bare.ENGINE_OPTIONS)!r}
    )
from trait_service.cli import main
main()
"""


def main() -> None:
    """Command line: the words of `trait-service verify`."""
    words = sys.argv[1:]
    label = " ".join(word if word.startswith("-") else Path(word).name for word in words if word != "--json")
    found = bare.report(f"verify {label}")

    def work() -> None:
        asked = ["verify", *(word for word in words if word != "--json"), "--json"]
        done = subprocess.run([sys.executable, "-c", CODE, *asked], stdout=subprocess.PIPE, text=True, check=False)
        start = done.stdout.find("{")
        if start < 0:
            found.check(False, f"no report, exit code {done.returncode}: {done.stdout[-400:]}")
            return
        given = json.loads(done.stdout[start:])
        for name, check in given["checks"].items():
            if check["status"] == "failed":
                found.check(False, f"{name}: {check['detail']}")
            else:
                found.row("checks", check=name, status=check["status"], detail=check["detail"])
        subject = given["subject"]
        found.row("engine", **{**subject, **subject.pop("versions")})

    bare.run(found, work)


if __name__ == "__main__":
    main()
