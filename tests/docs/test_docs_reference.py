"""docs/reference says what the programs say of themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import reference

GENERATOR = Path(reference.__file__).parent

WRITE = "import json, sys, reference; open(sys.argv[1], 'w').write(json.dumps(reference.pages()))"


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    """Made in a process of its own: vLLM's routers keep the routes that an earlier test switched on."""
    pytest.importorskip("vllm")
    made = tmp_path_factory.mktemp("reference") / "pages.json"
    environment = os.environ | {"VLLM_PLUGINS": "trait_steering", "PYTHONPATH": str(GENERATOR)}
    command = [sys.executable, "-c", WRITE, str(made)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(made.read_text())


def test_the_reference_is_up_to_date(pages):
    written = {path.name: path.read_text() for path in reference.FOLDER.glob("*.md")}
    assert set(written) == set(pages), "make docs, and delete what is no more"
    stale = [name for name, text in pages.items() if written[name] != text]
    assert stale == [], "make docs"


def test_every_field_of_steering_is_described(pages):
    from trait_core.schema import SteeringTerm

    section = pages["http.md"].partition("#### SteeringTerm")[2].partition("####")[0]
    for name in SteeringTerm.model_fields:
        row = next(line for line in section.splitlines() if line.startswith(f"| `{name}` "))
        assert row.split(" | ")[2].strip(), row


def test_nothing_of_this_machine_is_in_it(pages):
    for name, text in pages.items():
        assert sys.prefix not in text, name
        assert "/root" not in text, name
