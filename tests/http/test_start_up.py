"""Start-up beside vLLM: its release, its platform, and the other plugins that are installed."""

import os
import subprocess
import sys

import pytest
import typer
from package_metadata import distribution
from trait_service import cli, environment, launch
from trait_service.engine.errors import UnsupportedEngineError
from trait_service.engine.settings import EngineSettings
from trait_service.options import gathered


@pytest.fixture
def another_vllm(tmp_path, monkeypatch):
    """A vLLM of another release is installed, as far as its metadata go; importing it fails."""
    folder = distribution(tmp_path, "vllm", "9.9.0+cpu")
    (folder / "vllm.py").write_text("raise ImportError('vLLM was imported')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    return folder


@pytest.mark.parametrize("command", ["serve", "verify"])
@pytest.mark.usefixtures("another_vllm")
def test_another_release_of_vllm_is_refused_before_it_is_imported(command):
    done = subprocess.run(
        [sys.executable, "-m", "trait_service.cli", command, "smollm2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "vLLM 9.9.0+cpu is not supported" in done.stderr
    assert ">=0.32,<0.34" in done.stderr
    assert "--allow-untested-vllm" in done.stderr


def launched(*options):
    """vLLM's arguments, as `trait-service serve some/model OPTIONS` hands them to vLLM's server."""
    command = typer.main.get_command(cli.app).commands["serve"]
    with command.make_context("serve", ["some/model", *options]) as context:
        engine = gathered(cli.serve, context.params)["engine"]
    return launch.launch_arguments("some/model", [], {}, engine, dtype=None, enforce_eager=True)


def test_another_release_is_tried_if_that_is_asked_for_and_the_workers_know(tmp_path, monkeypatch):
    pytest.importorskip("vllm")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.syspath_prepend(distribution(tmp_path, "vllm", "9.9.0+cpu"))
    with pytest.raises(UnsupportedEngineError, match=r"vLLM 9\.9\.0"):
        launched()
    args = launched("--allow-untested-vllm")
    assert EngineSettings.from_additional_config(args.additional_config).allow_untested_vllm


@pytest.mark.parametrize(("options", "kept"), [([], True), (["--idle-graphs"], True), (["--no-idle-graphs"], False)])
def test_the_graphs_of_idle_steps_can_be_left_out(options, kept, monkeypatch):
    pytest.importorskip("vllm")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    args = launched(*options)
    assert EngineSettings.from_additional_config(args.additional_config).idle_graphs is kept


@pytest.mark.parametrize(
    ("kind", "device", "named"),
    [
        ("ROCM", "rocm", "ROCm is not"),
        ("TPU", "tpu", "TPU is not"),
        ("XPU", "xpu", "XPU is not"),
        ("OOT", "npu", "npu is not"),
    ],
)
def test_a_platform_without_a_worker_is_refused_by_name(kind, device, named, monkeypatch):
    interface = pytest.importorskip("vllm.platforms.interface")
    members = {"_enum": interface.PlatformEnum[kind], "device_name": device, "device_type": "cuda"}
    monkeypatch.setattr("vllm.platforms._current_platform", type("Other", (interface.Platform,), members)())
    with pytest.raises(UnsupportedEngineError, match=f"{named} supported"):
        environment.is_cuda()


def test_a_machine_on_which_vllm_finds_no_device_is_refused(monkeypatch):
    interface = pytest.importorskip("vllm.platforms.interface")
    monkeypatch.setattr("vllm.platforms._current_platform", interface.UnspecifiedPlatform())
    with pytest.raises(UnsupportedEngineError, match="no device"):
        environment.is_cuda()


# -------------------------------------------------------------------------------------------------- vLLM's other plugins

OTHERS = """
[vllm.general_plugins]
theirs = other_plugin:register
routes_too = other_plugin:register

[vllm.io_processor_plugins]
processor = other_plugin:register

[vllm.endpoint_plugins]
routes = other_plugin:Routes
routes_too = other_plugin:Routes
"""


@pytest.fixture
def other_plugins(tmp_path, monkeypatch):
    """Another package's plugins, installed beside ours."""
    plugins = pytest.importorskip("vllm.plugins")
    (tmp_path / "other_plugin.py").write_text("def register():\n    pass\n\n\nclass Routes:\n    name = 'routes'\n")
    monkeypatch.syspath_prepend(distribution(tmp_path, "other-plugin", "1.0", OTHERS))
    return plugins


def test_plugins_that_vllm_would_load_are_loaded_beside_ours(other_plugins, monkeypatch, capsys):
    groups = ("vllm.general_plugins", "vllm.io_processor_plugins")
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    stock = {name for group in groups for name in other_plugins.load_plugins_by_group(group)}
    monkeypatch.setenv("VLLM_PLUGINS", environment.general_environment({}, model_is_folder=False)["VLLM_PLUGINS"])
    ours = {name for group in groups for name in other_plugins.load_plugins_by_group(group)}
    assert {"theirs", "processor", "trait_steering"} <= ours
    assert stock - ours == {"routes_too"}
    assert "routes_too is left out" in capsys.readouterr().err
    (endpoint,) = other_plugins.load_endpoint_plugins(("generate",))
    assert endpoint.name == "trait_steering"


@pytest.mark.usefixtures("other_plugins")
def test_plugins_that_are_named_already_are_the_users_choice_and_ours_is_added(capsys):
    for given, wanted in (
        ("mine", "mine,trait_steering"),
        ("trait_steering,x", "trait_steering,x"),
        ("", "trait_steering"),
    ):
        found = environment.general_environment({"VLLM_PLUGINS": given}, model_is_folder=False)
        assert found["VLLM_PLUGINS"] == wanted
    assert capsys.readouterr().err == ""
