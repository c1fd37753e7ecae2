"""Every `--option` that a message of the service or a page of the docs names can be given to a command."""

import ast
import re
from pathlib import Path

import pytest
import typer
from trait_client.cli.app import app as client_app
from trait_extraction.cli import app as extraction_app
from trait_service.cli import app as service_app

ROOT = Path(__file__).resolve().parents[2]
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9]*(?:-[a-z0-9]+)*")

OF_OTHER_PROGRAMS = {
    "curl": {"--data-binary"},
    "docker": {"--build"},
    "experiments/steering_overhead": {"--mode", "--only-sweep", "--pairs", "--sweeps", "--workload"},
    "experiments/scaling_model": {"--write"},
    "helm": {"--set"},
    "inspect": {"--display", "--extra-body", "--max-tokens", "--model"},
    "kubectl": {"--from-file"},
    "llm": {"--key"},
    "lm_eval": {"--include", "--log", "--model", "--output", "--tasks"},
    "persona vectors": {"--projection", "--steering"},
    "pip": {"--dest", "--no-build-isolation", "--no-deps", "--retries"},
    "pytest": {"--collect-only"},
    "sbatch": {"--export"},
    "sky": {"--env"},
    "vllm-router": {"--health-check-endpoint", "--policy", "--worker-urls"},
}


def options_of(command: typer.core.TyperCommand) -> set[str]:
    found = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    return found.union(*(options_of(each) for each in getattr(command, "commands", {}).values()))


@pytest.fixture(scope="module")
def ours() -> set[str]:
    apps = (client_app, extraction_app, service_app)
    return {"--help"}.union(*(options_of(typer.main.get_command(app)) for app in apps))


@pytest.fixture(scope="module")
def vllms() -> set[str]:
    pytest.importorskip("vllm")
    from trait_service.compat.names import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return set(make_arg_parser(FlexibleArgumentParser())._option_string_actions)


def texts(path: Path) -> str:
    """The strings of a module, docstrings included, or the text of a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return "\n".join(node.value for node in ast.walk(ast.parse(text)) if _is_text(node))


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


PLACES = [*(ROOT / "service").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]


def test_an_option_that_is_named_exists(ours, vllms):
    known = ours | vllms | set().union(*OF_OTHER_PROGRAMS.values())
    unknown = {
        f"{path.relative_to(ROOT)}: {option}"
        for path in PLACES
        for option in OPTION.findall(texts(path))
        if option not in known
    }
    assert not unknown, ", ".join(sorted(unknown))
