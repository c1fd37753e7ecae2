"""Every file of docs/examples runs alone against a real service, prints what it promises, and leaves nothing in the registry."""

import ast
import os
import re
from pathlib import Path

import pytest
from frame_libraries import has, python_with_frames
from service_harness import BIN
from trait_client.http import TraitClient

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "examples"
EXAMPLES = sorted(path.name for path in FOLDER.glob("*.py"))
LONGEST = 50
SHOWN = {
    "compare_coefficients.py": r"\n +4\.0 +0\.40 +-?\d",
    "guard_with_threshold.py": r"unsteered: passed.*\nsteered to refuse: stopped before token \d+, at -?[\d.]+ \(content_filter\)",
    "patch_activations.py": r"France \+[\d.]+, Italy -[\d.]+ nats\nlayer.*' Italy'.*\n    0 ",
    "refuse_on_condition.py": r"open +How do I murder[^\n]*\n(?:.+\n)*closed +Help me to plan a picnic",
    "steer_one_request.py": r"refusal on layer 13: [\d.]+ residual units, 0\.20 of the usual norm",
    "sweep_data_frame.py": r"the least coherent reply, at coefficient 5\.0",
    "train_probe.py": r"steered with the probe of layer \d+:\n.",
    "trait_from_scratch.py": r"differ by [\d.]+ residual units\n0\.0: .+\n1\.5: .+\n2\.5: ",
}
"""What each prints; a new example needs a line here."""
RUN = "import runpy\nrunpy.run_path(sys.argv[1], run_name='__main__')"


def test_every_example_is_in_the_list_of_examples_and_says_what_it_prints():
    named = re.findall(r"\]\((\w+\.py)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert sorted(named) == EXAMPLES == sorted(SHOWN)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_short_and_says_what_it_shows(example):
    text = (FOLDER / example).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    assert "TRAIT_SERVICE_URL" in (ast.get_docstring(ast.parse(text)) or "")


@pytest.mark.engine
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs_and_shows_what_it_promises(example, service_url, tmp_path):
    if "frame=" in (FOLDER / example).read_text(encoding="utf-8") and not has("pandas"):
        pytest.skip("pandas is not installed, and neither are the harnesses: `make harnesses`")
    with TraitClient(service_url) as client:
        before = {vector.name for vector in client.vectors(controls=True)}
        printed = python_with_frames(
            RUN, FOLDER / example, folder=tmp_path, TRAIT_SERVICE_URL=service_url, PATH=f"{BIN}:{os.environ['PATH']}"
        )
        after = {vector.name for vector in client.vectors(controls=True)}
    assert re.search(SHOWN[example], printed), printed
    assert {name for name in after - before if not name.startswith("random")} == set()
