"""`import trait_steering`: what it exports, that it loads nothing heavy, and what it says where an extra is missing."""

import subprocess
import sys
from pathlib import Path

import pytest
import trait_core
import trait_steering

ROOT = Path(__file__).resolve().parents[2]
EXPORTED = [
    "ActivationInput",
    "Activations",
    "ActivationsRequest",
    "AsyncTraitClient",
    "AsyncTraitReplicas",
    "ChatDelta",
    "ChatResult",
    "DatasetError",
    "Gate",
    "Generation",
    "InlineVector",
    "InvalidRequestError",
    "LocalEngine",
    "Message",
    "Monitor",
    "PatchPrompt",
    "PatchReport",
    "PatchRequest",
    "Positions",
    "ServiceError",
    "ServiceInfo",
    "ServiceUnreachableError",
    "Steering",
    "SteeringFailedError",
    "SteeringReport",
    "SteeringTerm",
    "StreamLens",
    "TraitClient",
    "TraitError",
    "UnknownVectorError",
    "VectorFile",
    "VectorFileError",
    "VectorInfo",
    "__version__",
    "extract",
    "inline_vector",
    "model_folder",
]
WITHOUT_EXTRAS = """
import sys
for name in ("torch", "vllm", "transformers", "sklearn", "trait_service", "trait_extraction"):
    sys.modules[name] = None  # as if it were not installed
import trait_steering as t
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_exported_names_are_these():
    assert sorted(trait_steering.__all__) == EXPORTED
    assert dir(trait_steering) == EXPORTED


@pytest.mark.parametrize(
    "name", [name for name in EXPORTED if name not in {"__version__", "LocalEngine", "extract", "model_folder"}]
)
def test_every_name_is_the_class_of_that_name(name):
    assert getattr(trait_steering, name).__name__ == name


def test_what_needs_an_extra_is_loaded_where_it_is_installed():
    pytest.importorskip("sklearn")
    assert trait_steering.extract.__name__ == "extract"
    pytest.importorskip("vllm")
    assert issubclass(trait_steering.LocalEngine, trait_steering.TraitClient)


def test_a_models_folder_is_its_own_path_and_a_wrong_name_says_what_to_give(tmp_path):
    pytest.importorskip("vllm")
    assert trait_steering.model_folder(str(tmp_path)) == tmp_path
    with pytest.raises(trait_steering.InvalidRequestError, match="owner/name is neither a bundled model nor a folder"):
        trait_steering.model_folder("owner/name")


def test_importing_it_and_the_client_loads_nothing_heavy():
    done = run(
        "import sys, trait_steering as t; t.TraitClient, t.AsyncTraitClient, t.Steering, t.VectorFile, t.ServiceError\n"
        "print(*sorted({'torch', 'vllm', 'duckdb', 'transformers', 'sklearn', 'trait_service'} & set(sys.modules)))"
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "LocalEngine",
            (
                "LocalEngine needs vllm, not part of the base package: "
                "pip install 'trait-steering[service-cpu]' (on CUDA: 'trait-steering[service-cuda]')"
            ),
        ),
        (
            "extract",
            "extract needs torch and sklearn, not part of the base package: pip install 'trait-steering[extraction]'",
        ),
    ],
)
def test_without_the_extra_the_client_works_and_the_error_says_what_to_install(name, says):
    done = run(WITHOUT_EXTRAS + f"print(t.TraitClient)\nt.{name}")
    assert "TraitClient" in done.stdout
    assert done.stderr.strip().splitlines()[-1] == f"ImportError: {says}"


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'LokalEngine'"):
        trait_steering.LokalEngine  # noqa: B018 - the access is what is tested


def test_the_version_is_defined_once():
    assert trait_steering.__version__ == trait_core.__version__
    assert 'path = "client/trait_core/__init__.py"' in (ROOT / "pyproject.toml").read_text()
