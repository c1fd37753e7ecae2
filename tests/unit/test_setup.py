"""The pinned requirements and the Makefile."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PINS = [
    line
    for line in (ROOT / "deploy" / "requirements-cpu.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
VERSIONS = {canonicalize_name(Requirement(line).name): str(Requirement(line).specifier)[2:] for line in PINS}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


class TestRequirements:
    def test_every_line_is_a_name_and_one_version(self):
        """No path, no address, no option, no range."""
        assert [line for line in PINS if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+(\+cpu)?", line)] == []

    @pytest.mark.parametrize("name", ["torchvision", "torchaudio", "torchcodec", "triton"])
    def test_what_breaks_beside_a_cpu_torch_is_left_out(self, name):
        assert name not in VERSIONS

    def test_nothing_is_pinned_twice(self):
        assert len(VERSIONS) == len(PINS)

    @pytest.mark.parametrize("extra", ["", "service-cpu", "extraction", "dashboard", "dev"])
    def test_the_pins_satisfy_pyproject(self, extra):
        """Fails when a dependency was added without `make lock`."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
        for wanted in map(Requirement, lines):
            assert wanted.specifier.contains(VERSIONS.get(canonicalize_name(wanted.name), "0")), wanted


class TestMake:
    def test_help_lists_every_target(self):
        targets = re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE)

        shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

        assert set(targets) == set(re.findall(r"make ([a-z-]+) +\S", shown))
        assert set(targets) >= {"help", "setup", "model", "demo", "test", "test-fast", "lint", "format", "clean"}

    def test_no_python_is_a_clear_message(self):
        done = subprocess.run(["make", "setup", "PYTHON="], cwd=ROOT, capture_output=True, text=True, check=False)

        assert done.returncode != 0
        assert "No Python 3.11 or later" in done.stderr

    def test_a_folder_that_holds_something_else_is_left_alone(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("precious")

        done = subprocess.run(
            [sys.executable, ROOT / "deploy" / "setup.py", "--venv", tmp_path],
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.returncode == 1
        assert "thesis.tex" in done.stderr
        assert (tmp_path / "thesis.tex").read_text() == "precious"
        assert not (tmp_path / "bin").exists()

    def test_continuous_integration_runs_the_same_tests(self):
        assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


class TestBrowser:
    """`deploy/chromium.py`, in a PATH of our own: what a machine has is what stands there."""

    @pytest.fixture
    def run(self, tmp_path):
        def run(*arguments, **environment):
            return subprocess.run(
                [sys.executable, ROOT / "deploy" / "chromium.py", *arguments],
                env={"PATH": str(tmp_path), **environment}, capture_output=True, text=True, check=False,
            )  # fmt: skip

        return run

    @staticmethod
    def program(path, text):
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def test_one_that_runs_is_found(self, run, tmp_path):
        self.program(tmp_path / "chromium", "exit 1")  # as a script that only says: install the snap
        self.program(tmp_path / "google-chrome", "echo 150")
        assert run("--find").stdout.strip() == str(tmp_path / "google-chrome")

    def test_without_one_the_set_up_goes_on_and_says_what_to_install(self, run):
        assert run("--find").returncode == 1
        done = run()
        assert done.returncode == 0
        assert "apt-get install chromium" in done.stdout

    def test_it_is_installed_where_apt_get_may_be_used(self, run, tmp_path):
        """The first try fails for want of lists, as on a fresh machine."""
        browser = tmp_path / "chromium"
        self.program(tmp_path / "sudo", f'shift; PATH=/usr/bin:/bin:{tmp_path} exec "$@"')
        self.program(tmp_path / "env", 'shift; exec "$@"')
        self.program(
            tmp_path / "apt-get",
            f'echo "$@" >> {tmp_path}/asked\n'
            f'case "$*" in *update*) > {tmp_path}/lists;; *) [ -e {tmp_path}/lists ] || exit 100;'
            f" printf '#!/bin/sh\\n' > {browser}; /bin/chmod +x {browser};; esac",
        )
        done = run()
        assert done.returncode == 0
        assert str(browser) in done.stdout
        asked = (tmp_path / "asked").read_text().splitlines()
        assert [line.split()[-1] for line in asked] == ["chromium", "update", "chromium"]

    def test_none_asks_for_no_browser(self, run, tmp_path):
        self.program(tmp_path / "apt-get", f"> {tmp_path}/asked")
        assert "none" in run(TRAIT_TEST_CHROMIUM="none").stdout
        assert not (tmp_path / "asked").exists()
