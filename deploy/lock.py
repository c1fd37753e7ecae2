"""Write `deploy/requirements-cpu.txt`, every package of the CPU set-up, and `deploy/requirements-harnesses.txt`, pinned.

    make lock        (the same as: .venv/bin/python deploy/lock.py, then deploy/lock_images.py)

pip resolves what `pyproject.toml` asks for (base, `service-cpu`, `extraction`, `dashboard`, `dev`) as if nothing were
installed. Of its answer we keep what can be reached from there without the packages of `LEFT_OUT`. No index and no path is
written: the file installs with `pip install --no-deps -r` wherever the same versions can be had. Of the same pins,
`deploy/requirements-service-cpu.txt` has those that the service alone needs, for its container. The programs of
docs/howto-other-programs.md (`OTHER_PROGRAMS`) are resolved on their own: `make harnesses` gives them an environment of their own.
So are the packages that build the documentation's site (`SITE`).
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "deploy" / "requirements-cpu.txt"
SERVICE_TARGET = ROOT / "deploy" / "requirements-service-cpu.txt"
HARNESSES_TARGET = ROOT / "deploy" / "requirements-harnesses.txt"
SITE_TARGET = ROOT / "deploy" / "requirements-site.txt"
EXTRAS = ("service-cpu", "extraction", "dashboard", "dev")

BUILD = ("hatchling>=1.27", "editables")
"""Packages that build the install without a download."""

BESIDE_PROJECT = (
    *BUILD,
    "matplotlib",  # figures of the experiments
    "six>=1.16",  # vllm asks for it on Python 3.12 and later only
)
OTHER_PROGRAMS = (
    "inspect-ai",
    "langchain-openai",
    "litellm",
    "llm",
    "lm-eval[api]",
    "polars",  # data frames of results, as the programs bring pandas
    "transformers",  # reads the tokenizer for lm-eval
)
SITE = ("mkdocs-material",)
"""Builds the documentation's site."""
LEFT_OUT = {
    "torchvision": "its builds do not import beside a CPU torch, and then transformers does not either",
    "torchaudio": "the same",
    "torchcodec": "the same",
    "triton": "no CPU backend; vllm picks another path where it is absent",
    "fastapi-cli": "vllm starts uvicorn itself; brings a cloud client and a telemetry client",
    "fastar": "belongs to the cloud client",
}

HEADER = """\
# Every package of the {what} (Python 3.11, Linux x86-64). Written by `make lock`: edit {source} instead.
# Install with `pip install --no-deps -r deploy/{name}`.
"""


def main() -> None:
    """Resolve, prune, write."""
    wanted = [*_project_requirements(EXTRAS), *BESIDE_PROJECT]
    packages = _resolve(wanted)
    _write(TARGET, "CPU set-up", wanted, packages)
    _write(SERVICE_TARGET, "service on a CPU", [*_project_requirements(("service-cpu",)), *BUILD], packages)
    own = (
        (HARNESSES_TARGET, "programs that `make harnesses` installs", OTHER_PROGRAMS),
        (SITE_TARGET, "site's builder", SITE),
    )
    for target, what, names in own:
        _write(target, what, list(names), _resolve(list(names)), "deploy/lock.py")


def _project_requirements(extras: Sequence[str]) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]


def _write(
    target: Path, what: str, wanted: list[str], packages: dict[Any, Any], source: str = "pyproject.toml"
) -> None:
    kept = _reachable([Requirement(line) for line in wanted], packages)
    lines = [f"{packages[name]['name']}=={packages[name]['version']}" for name in sorted(kept)]
    left_out = [f"#   {name}: {reason}\n" for name, reason in LEFT_OUT.items()]
    header = HEADER.format(what=what, name=target.name, source=source)
    if source == "pyproject.toml":
        header += "# Left out on purpose:\n" + "".join(left_out)
    target.write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{target.relative_to(ROOT)}: {len(lines)} packages, {len(packages) - len(lines)} of pip's answer left out")


def _resolve(wanted: list[str]) -> dict[Any, Any]:
    """The metadata of each package of pip's answer, by its canonical name."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        subprocess.run([*command, "--report", str(answer), *wanted], check=True)
        report: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return {canonicalize_name(item["metadata"]["name"]): item["metadata"] for item in report["install"]}


def _reachable(wanted: list[Requirement], packages: dict[Any, Any]) -> set[str]:
    """Names reached from `wanted`, extras followed, without the packages of `LEFT_OUT` and their exclusive dependencies."""
    seen: set[tuple[str, str]] = set()
    queue = [(canonicalize_name(item.name), extra) for item in wanted for extra in ("", *sorted(item.extras))]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in seen or name in LEFT_OUT:
            continue
        seen.add((name, extra))
        for line in packages[name].get("requires_dist", []):
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                queue += [(canonicalize_name(needed.name), more) for more in ("", *sorted(needed.extras))]
    return {name for name, _ in seen}


if __name__ == "__main__":
    main()
