"""`trait-client report`: one file with everything in it."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from cli_harness import runner
from dashboard_fixtures import HOSTILE, LONG, build

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(monkeypatch, capsys):
    return runner(monkeypatch, capsys)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return build(tmp_path_factory.mktemp("report") / "known.duckdb", n_readings=6)


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_report_of_a_sweep_holds_every_setting_and_every_text(run, store, tmp_path):
    target = tmp_path / "r.html"
    code, out, err = run("report", "known", "--db", str(store.path), "--out", str(target))
    assert (code, err) == (0, "")
    assert str(target) in out.replace("\n", "")
    data = data_of(target.read_text())
    assert data["run"]["experiment"] == "known"
    assert len(data["settings"]) == 74  # 37 settings by two measures
    assert len(data["texts"]) == 37
    texts = [pair["text"] for pairs in data["texts"].values() for pair in pairs]
    assert len(texts) == 37 * 4
    assert any(text.endswith(LONG) for text in texts)
    assert any(HOSTILE in text for text in texts)


def test_the_report_loads_nothing_and_no_text_can_become_markup(run, store, tmp_path):
    target = tmp_path / "r.html"
    run("report", "known", "--db", str(store.path), "--out", str(target))
    page = target.read_text()
    assert "default-src 'none'" in page
    assert HOSTILE not in page
    assert page.count("<script") == 3
    assert not re.findall(r'\b(?:src|href)="(?!#)', page)
    assert "import {" not in page


def test_the_report_of_a_prompt_set_holds_every_token(run, store, tmp_path):
    target = tmp_path / "r.html"
    assert run("report", "chats.jsonl", "--db", str(store.path), "--out", str(target))[0] == 0
    data = data_of(target.read_text())
    assert (data["kind"], data["total"], len(data["readings"])) == ("corpus", 6, 6)
    reading = data["readings"][0]
    assert {len(values) for values in reading["values"].values()} == {len(reading["tokens"])}


def test_an_unknown_run_is_an_error_that_names_the_known_ones(run, store):
    code, _, err = run("report", "nothing", "--db", str(store.path))
    assert code == 2
    assert "chats.jsonl" in err


def test_the_wheel_holds_every_file_of_the_page(tmp_path):
    build_wheel = "import sys, hatchling.build; print(hatchling.build.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build_wheel, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if "/static/" in name}
    static = ROOT / "client" / "trait_client" / "dashboard" / "static"
    there = {str(path.relative_to(ROOT / "client")) for path in static.rglob("*") if path.is_file()}
    assert packed == there
    assert len(there) > 20


def test_the_page_names_no_address_outside_this_machine():
    static = ROOT / "client" / "trait_client" / "dashboard" / "static"
    for path in static.rglob("*"):
        if path.is_file():
            found = re.findall(r"https?://[^\s\"'`)]+", path.read_text())
            assert [each for each in found if not each.startswith("http://www.w3.org/")] == [], path
            assert "innerHTML" not in path.read_text()


def test_no_line_of_the_scripts_is_longer_than_a_screen():
    scripts = ROOT / "client" / "trait_client" / "dashboard" / "static" / "js"
    lines = {f"{path.name}:{i}": line for path in scripts.rglob("*.js") for i, line in enumerate(path.open(), 1)}
    assert [place for place, line in lines.items() if len(line) > 200] == []
