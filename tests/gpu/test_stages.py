"""The stages of `make test-gpu` without a GPU: each is complete, the runner outlives a bad one, the cheap ones run on the CPU."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import engine_forms
import pytest
import tiny_models
from transformers import AutoTokenizer

RUN = Path(__file__).with_name("run.py")
GOOD = """
from stage import Stage, main

def run(context, report):
    report.row("found", device=context.device, value=0.5)
    report.check({passes}, "it is broken")
    report.figure = "half"

STAGE = Stage("{name}", "Does {name}.", limit_s={limit}, run=run)
if __name__ == "__main__":
    main(STAGE)
"""
SILENT = 'from stage import Stage\nSTAGE = Stage("silent", "Writes nothing.", limit_s=60, run=print)\nprint("too bad")'
HANGING = """
import subprocess, sys, time
from stage import Stage

STAGE = Stage("hanging", "Waits, with a process of its own.", limit_s=16, run=print)
if __name__ == "__main__":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("pid", child.pid, flush=True)
    time.sleep(600)
"""


def run(out, *words, **options):
    command = [sys.executable, str(RUN), "--device", "cpu", "--out", str(out), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def is_running(pid):
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()  # a zombie has ended, and nobody asked how


def test_every_stage_has_a_name_a_limit_and_a_description(tmp_path):
    done = run(tmp_path, "--list")
    assert done.returncode == 0, done.stderr
    listed = [line.split(maxsplit=3) for line in done.stdout.splitlines()]
    names = [name for name, *_ in listed]
    scripts = {path.stem for path in (RUN.parent / "stages").glob("*.py") if "STAGE = Stage(" in path.read_text()}
    assert set(names) == scripts
    assert len(names) == len(scripts) == 9
    for name, limit, _, description in listed:
        assert f'"{name}",' in (RUN.parent / "stages" / f"{name}.py").read_text()
        assert 0 < int(limit) <= 300
        assert description.endswith(".")


def test_no_module_of_the_stages_takes_the_name_of_a_package():
    """A script's folder comes first on the path."""
    ours = {path.stem for path in (RUN.parent / "stages").glob("*.py")}
    code = (
        "import json, sys; from importlib.metadata import packages_distributions as p; "
        "print(json.dumps(sorted(sys.stdlib_module_names | p().keys())))"
    )
    taken = set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))
    assert not ours & (taken | {"requests", "triton", "flashinfer"})


def run_script(name, *words, **options):
    command = [sys.executable, str(RUN.parent / "stages" / f"{name}.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_transformers_does_not_take_the_script_kernels_for_the_package_of_that_name():
    code = "from transformers.utils import is_kernels_available as f; import transformers.modeling_utils; print(f())"
    path = {**os.environ, "PYTHONPATH": os.pathsep.join([str(RUN.parent / "stages"), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=path)
    assert done.stdout.split() == ["False"], done.stderr


def test_made_models_load_and_their_tokens_are_bytes(tmp_path):
    done = run_script("make_models", tmp_path, "llama", "shape8b")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split()[:2] for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert lines == [["RESULT", "ok"]] * 3
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "llama")
    assert tokenizer("River")["input_ids"] == tokenizer.convert_tokens_to_ids(list("River"))
    assert tokenizer.decode(tokenizer("River \u00e9")["input_ids"]) == "River \u00e9"
    assert json.loads((tmp_path / "shape8b" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert not list((tmp_path / "shape8b").glob("*.safetensors"))


def test_a_copy_of_the_engine_tests_is_told_to_start_cuda_engines(tmp_path):
    shutil.copy(Path(engine_forms.__file__), tmp_path)
    assert run_script("cuda_driver", tmp_path / "engine_driver.py").returncode == 0
    code = "import engine_forms as f; print(f.CUDA, f.environment_of(f.V2_ASYNC))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.startswith("True")
    assert "TRITON_INTERPRET" not in done.stdout
    again = run_script("cuda_driver", tmp_path / "engine_driver.py")
    assert again.returncode == 1
    assert "it has changed" in again.stderr


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get("TRAIT_LONG") != "1", reason="takes four minutes and starts four engines: TRAIT_LONG=1 runs it"
)
def test_the_scripts_of_fixed_names_print_what_they_found(tmp_path, smollm2_path):
    """On the CPU: `stock` and `bench`; each engine's line, and a line for each round of each batch."""
    assert run_script("make_models", tmp_path, "llama").returncode == 0
    stock = run_script("stock", tmp_path / "llama", "--device", "cpu")
    assert stock.returncode == 0, stock.stdout
    model = tiny_models.make_llama(tmp_path / "model", smollm2_path)
    bench = run_script("bench", model, "--device", "cpu", "--pairs", "1", "--budget", "240")
    assert bench.returncode == 0, bench.stdout
    rows = [line for line in bench.stdout.splitlines() if line.startswith("RESULT ok throughput:")]
    assert len(rows) == 2
    assert "every layer" in rows[0]
    (last,) = [line for line in bench.stdout.splitlines() if line.startswith('JSON {"stage"')]
    assert json.loads(last.removeprefix("JSON "))["failures"] == []


def test_a_stage_that_fails_or_hangs_stops_no_other_and_its_processes_end(tmp_path):
    stages, out = tmp_path / "stages", tmp_path / "out"
    stages.mkdir()
    texts = {
        "broken": GOOD.format(name="broken", passes=False, limit=60),
        "good": GOOD.format(name="good", passes=True, limit=60),
        "hanging": HANGING,
        "silent": SILENT,
    }
    for name, text in texts.items():
        (stages / f"{name}.py").write_text(text)
    out.mkdir()
    (out / "silent.json").write_text('{"status": "ok", "failures": [], "figure": "of an earlier run"}')
    done = run(out, "--stages", stages, "--jobs", 4, "--results", tmp_path / "kept")
    assert done.returncode == 1, done.stderr
    head, *lines = (out / "summary.txt").read_text().splitlines()
    assert ", cpu, model smollm2, commit " in head
    by_name = {line.split()[0]: line for line in lines}
    assert {name: line.split()[1] for name, line in by_name.items()} == {
        "broken": "FAILED",
        "good": "ok",
        "hanging": "FAILED",
        "silent": "FAILED",
    }
    assert by_name["good"].endswith("half")
    assert by_name["broken"].endswith("it is broken")
    assert "stopped at its time limit" in by_name["hanging"]
    assert "too bad" in by_name["silent"]
    found = json.loads((out / "good.json").read_text())
    assert found["tables"] == {"found": [{"device": "cpu", "value": 0.5}]}
    assert found["machine"]["versions"]["python"] == sys.version.split()[0]
    child = int((out / "hanging.log").read_text().split()[1])
    assert not is_running(child)
    (kept,) = (tmp_path / "kept").iterdir()
    assert sorted(path.name for path in kept.iterdir()) == ["broken.json", "good.json", "summary.txt"]


def test_a_run_that_is_stopped_leaves_no_process_behind(tmp_path):
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text(HANGING.replace("hanging", name).replace("limit_s=16", "limit_s=300"))
    command = [sys.executable, str(RUN), "--device", "cpu", "--stages", str(tmp_path), "--out", str(tmp_path / "out")]
    process = subprocess.Popen([*command, "--jobs", "1"], stdout=subprocess.DEVNULL)
    log = tmp_path / "out" / "first.log"
    while not (log.is_file() and log.read_text().endswith("\n")):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == 1
    assert not is_running(int(log.read_text().split()[1]))
    assert not (tmp_path / "out" / "second.log").exists()


def test_what_the_time_does_not_allow_is_a_failure(tmp_path):
    (tmp_path / "late.py").write_text(GOOD.format(name="late", passes=True, limit=60))
    done = run(tmp_path / "out", "--stages", tmp_path, "--budget", 5)
    assert done.returncode == 1
    assert "not begun" in (tmp_path / "out" / "summary.txt").read_text()


def test_what_the_cpu_has_no_means_for_is_skipped_with_its_reason(tmp_path):
    done = run(
        tmp_path, "--stage", "sleeping", "--stage", "kernels_on_device", env={**os.environ, "TRITON_INTERPRET": ""}
    )
    assert done.returncode == 0, done.stdout
    lines = (tmp_path / "summary.txt").read_text().splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [["sleeping", "skipped"], ["kernels_on_device", "skipped"]]
    assert "does not sleep" in lines[0]


@pytest.fixture(scope="module")
def asking():
    path = RUN.parent / "stages" / "asking.py"
    spec = importlib.util.spec_from_file_location("gpu_asking", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_asking"] = module
    spec.loader.exec_module(module)
    return module


def test_replies_are_compared_up_to_a_choice_between_equals_and_differ_without_bound_elsewhere(asking):
    def answer(*steps):
        return asking.Answer([next(iter(step)) for step in steps], "", "length", [dict(step) for step in steps])

    one = answer({1: -0.5, 2: -2.0}, {3: -1.0, 4: -1.001}, {5: -0.1, 6: -3.0})
    tie = answer({1: -0.5, 2: -2.0}, {4: -1.0, 3: -1.0005}, {7: -0.1, 8: -3.0})
    found = asking.gaps([one], [tie])
    assert found.largest == pytest.approx(0.001)
    assert (found.compared, found.generated) == (2, 3)
    assert found.share == pytest.approx(2 / 3)
    other = answer({9: -0.5, 2: -2.0}, {3: -1.0, 4: -1.001}, {5: -0.1, 6: -3.0})
    assert asking.gaps([one], [other]).mean == float("inf")
    shorter = answer({1: -0.5, 2: -2.0})
    assert asking.gaps([one], [shorter]).mean == float("inf")
    ended = asking.Answer([1], "", "stop", [{1: 0.0, 2: -float("inf")}])
    assert asking.gaps([ended], [ended]).mean == 0


@pytest.mark.engine
@pytest.mark.slow
def test_the_cheap_stages_are_ok_on_the_cpu(tmp_path, smollm2_path):
    """Their engines, requests, comparisons and tables; on a tiny model, and with no word about CUDA."""
    model = tiny_models.make_llama(tmp_path / "model", smollm2_path)
    asked = [word for name in ("imports", "graphs", "churn", "ends") for word in ("--stage", name)]
    done = run(tmp_path / "out", "--model", model, *asked)
    summary = (tmp_path / "out" / "summary.txt").read_text()
    assert done.returncode == 0, summary
    assert [line.split()[1] for line in summary.splitlines()[1:]] == ["ok"] * 4
    ends = json.loads((tmp_path / "out" / "ends.json").read_text())
    assert [row["result"] for row in ends["tables"]["cases"]] == ["ok"] * 5
    graphs = json.loads((tmp_path / "out" / "graphs.json").read_text())
    assert [row["requests"] for row in graphs["tables"]["against eager"]] == [3, 5]
