"""`trait-service serve`: the environment, the arguments that reach vLLM, and what is refused at start-up."""

import json
import os
import re
from importlib.metadata import entry_points

import pytest
import typer
from trait_service import cli, environment, launch, options
from trait_service.access.keys import KeyFile
from trait_service.engine.settings import EngineSettings
from trait_service.settings import ServiceSettings
from typer.testing import CliRunner


def parsed(*further: str):
    pytest.importorskip("vllm")
    argv = launch.vllm_arguments(
        "some/model", list(further), {"--port": 8123}, EngineSettings(), cuda=False, eager=True
    )
    return launch.parse(argv)


@pytest.fixture
def served_with(monkeypatch):
    """vLLM's arguments, as `trait-service serve some/model OPTIONS` hands them to vLLM's server."""
    pytest.importorskip("vllm")
    monkeypatch.setattr(os, "environ", os.environ.copy())

    def arguments(*given: str):
        command = typer.main.get_command(cli.app).commands["serve"]
        with command.make_context("serve", ["some/model", *given]) as context:
            values = options.gathered(cli.serve, context.params)
        settings = [values[name] for name in ("server", "service", "engine")]
        return cli.server_arguments("some/model", context.args, *settings, enforce_eager=True)

    return arguments


def test_vllms_parser_gets_our_worker_and_settings():
    args = parsed("--max-logprobs", "7")
    assert args.worker_cls == "trait_service.engine.worker_cpu.TraitCPUWorker"
    assert args.scheduler_cls == "trait_service.engine.scheduler.TraitScheduler"
    assert EngineSettings.from_additional_config(args.additional_config) == EngineSettings()
    assert (args.model, args.port, args.enforce_eager, args.max_logprobs) == ("some/model", 8123, True, 7)


def test_plain_arguments_are_not_refused():
    assert launch.refusals(parsed()) == []


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--speculative-config", '{"method": "ngram", "num_speculative_tokens": 2}'], "speculative decoding"),
        (["--enable-dbo"], "micro-batch overlap"),
        (["--decode-context-parallel-size", "2"], "context parallelism"),
        (["--prefill-context-parallel-size", "2"], "context parallelism"),
        (["--kv-transfer-config", '{"kv_connector": "ExampleConnector", "kv_role": "kv_both"}'], "KV connector"),
        (["--kv-offloading-size", "1"], "KV connector"),
        (["--kv-sharing-fast-prefill"], "KV-sharing fast prefill"),
        (["--diffusion-config", '{"canvas_length": 4}'], "diffusion decoding"),
        (["--enable-hc-sp"], "sequence parallelism"),
        (["--enable-expert-parallel", "-tp", "2", "-dp", "2", "-asc", "1"], "sequence parallelism"),
        (["--api-server-count", "2"], "more than one API server"),
        (["--headless"], "without HTTP"),
    ],
)
def test_what_steering_has_no_test_for_is_refused_by_name(flags, named):
    (problem,) = launch.refusals(parsed(*flags))
    assert named in problem


def test_breakable_cuda_graphs_are_refused_with_the_variable_that_turns_them_off(monkeypatch):
    monkeypatch.setenv("VLLM_USE_BREAKABLE_CUDAGRAPH", "1")
    (problem,) = launch.refusals(parsed())
    assert "VLLM_USE_BREAKABLE_CUDAGRAPH=0" in problem


@pytest.mark.parametrize("flag", ["--worker-cls=x", "--scheduler-cls", "--additional_config", "--worker-extension-cls"])
def test_flags_that_the_command_sets_itself_are_refused(flag):
    result = CliRunner().invoke(cli.app, ["serve", "some/model", flag, "{}"])
    assert result.exit_code == 2
    assert "set by trait-service" in result.output


def test_variables_that_are_set_already_stay():
    current = {"VLLM_USE_AOT_COMPILE": "1", "VLLM_CPU_KVCACHE_SPACE": "9", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    assert environment.platform_environment(current, cuda=False, workers=1) == {}


def test_compiled_artifacts_are_saved_as_vllm_does_but_on_a_cpu():
    assert "VLLM_USE_AOT_COMPILE" not in environment.general_environment({}, model_is_folder=True)
    assert "VLLM_USE_AOT_COMPILE" not in environment.platform_environment({}, cuda=True, workers=1)
    assert environment.platform_environment({}, cuda=False, workers=1)["VLLM_USE_AOT_COMPILE"] == "0"


def test_a_folder_needs_no_hub():
    assert environment.general_environment({}, model_is_folder=True)["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in environment.general_environment({}, model_is_folder=False)


def test_int4_weights_are_served_in_bfloat16_on_a_cpu(tmp_path):
    assert environment.cpu_dtype(tmp_path) == "float32"
    config = tmp_path / "config.json"
    for bits, dtype in ((8, "float32"), (4, "bfloat16")):
        groups = {"group_0": {"weights": {"type": "int", "num_bits": bits}}}
        config.write_text(json.dumps({"quantization_config": {"config_groups": groups}}))
        assert environment.cpu_dtype(tmp_path) == dtype


def test_on_cuda_vllm_chooses_the_runner_unless_v1_is_asked_for():
    assert environment.platform_environment({}, cuda=True, workers=1) == {}
    assert environment.platform_environment({}, cuda=True, workers=1, v1=True) == {"VLLM_USE_V2_MODEL_RUNNER": "0"}


@pytest.mark.parametrize("asynchronous", [True, False])
def test_the_scheduler_fits_the_way_of_scheduling(asynchronous):
    words = launch.vllm_arguments("m", [], {}, EngineSettings(), cuda=True, eager=True, asynchronous=asynchronous)
    assert ("--async-scheduling" in words, "--no-async-scheduling" in words) == (asynchronous, not asynchronous)
    name = "TraitAsyncScheduler" if asynchronous else "TraitScheduler"
    assert words[words.index("--scheduler-cls") + 1] == f"trait_service.engine.scheduler.{name}"


@pytest.mark.parametrize(
    ("words", "size"), [([], 1), (["-pp", "2"], 2), (["--pipeline_parallel_size=4"], 4), (["-tp", "2"], 1)]
)
def test_a_pipeline_is_seen_by_either_of_its_flags(words, size):
    assert launch.size_of(words, launch.PIPELINE) == size


@pytest.mark.parametrize(
    ("cores", "workers", "bound"),
    [
        ([0, 1], 1, "0,1"),
        ([0, 1], 2, "0|1"),
        ([0], 2, "nobind"),
        ([2, 3, 5, 7], 1, "2,3,5,7"),
        (list(range(8)), 1, "1,2,3,4,5,6,7"),
        (list(range(9)), 2, "1,2,3,4|5,6,7,8"),
    ],
)
def test_cores_are_bound(cores, workers, bound):
    assert environment.bind_cores(cores, workers) == bound


@pytest.mark.parametrize(("gib", "space"), [(1, 1), (16, 4), (1000, 16)])
def test_the_kv_cache_takes_a_part_of_the_memory(gib, space):
    assert environment.kv_cache_gib(gib * 2**30) == space


def test_without_a_compiler_it_runs_eager_and_says_so(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    assert environment.runs_eager(None, cuda=False) is True
    assert "running eager" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "size"),
    [([], 1), (["-tp", "2"], 2), (["--tensor-parallel-size=4", "-pp=2"], 8), (["--data-parallel-size", "3"], 3)],
)
def test_the_workers_of_all_engines_are_counted(words, size):
    assert launch.world_size(words) == size


def test_the_settings_travel_as_json():
    argv = launch.vllm_arguments("m", [], {}, EngineSettings(bank_rows=7), cuda=True, eager=False)
    block = json.loads(argv[argv.index("--additional-config") + 1])
    assert block["trait_steering"]["bank_rows"] == 7


def test_every_setting_of_the_service_and_the_engine_is_an_option():
    command = typer.main.get_command(cli.app).commands["serve"]
    names = {name for param in command.params for name in param.opts}
    fields = set(ServiceSettings.model_fields) | set(EngineSettings.model_fields) - {"graph_version"}
    assert {f"--{field.replace('_', '-')}" for field in fields} <= names


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        (["--terms-per-layer", "3"], EngineSettings(terms_per_layer=3)),
        (["--capture-rows", "17", "--max-spool-bytes", "1000"], EngineSettings(capture_rows=17, max_spool_bytes=1000)),
        (["--bank-rows=2", "--max-results-waiting=5"], EngineSettings(bank_rows=2, max_results_waiting=5)),
        (
            ["--layer-rule", "mine.A=pair", "--layer-rule=mine.B=first"],
            EngineSettings(layer_rule=["mine.A=pair", "mine.B=first"]),
        ),
    ],
)
def test_the_engines_options_reach_its_workers(given, settings, served_with):
    assert EngineSettings.from_additional_config(served_with(*given).additional_config) == settings


def test_the_services_options_reach_the_endpoint_plugin(served_with, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    limits = ["--max-n", "5", "--max-completions", "6", "--max-vectors", "7", "--max-body-bytes", "2048"]
    args = served_with(*limits, "--vectors", "~/kept", "--log-requests", "--max-total-dose", "3.5")
    assert ServiceSettings.from_args(args) == ServiceSettings(
        max_n=5,
        max_completions=6,
        max_vectors=7,
        max_body_bytes=2048,
        vectors=tmp_path / "kept",
        log_requests=True,
        max_total_dose=3.5,
    )


def test_the_keys_file_may_come_from_the_environment(served_with, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAIT_KEYS_FILE", str(tmp_path / "keys.json"))
    assert ServiceSettings.from_args(served_with()).keys == tmp_path / "keys.json"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--max-n", "0"], "'--max-n'.*greater than or equal to 1"),
        (["--terms-per-layer", "33"], "'--terms-per-layer'.*less than or equal to 32"),
        (["--max-relative-dose", "inf"], "--max-relative-dose.*finite number"),
        (["--drain-seconds", "nan"], "'--drain-seconds'.*greater than or equal to 0"),
        (["--layer-rule", "Layer=both"], "--layer-rule.*'module.Class=rule' with one of the rules pair, first, single"),
    ],
)
def test_a_setting_outside_its_range_is_refused_with_its_option(given, named):
    result = CliRunner().invoke(cli.app, ["serve", "some/model", *given])
    assert result.exit_code == 2
    assert re.search(named, " ".join(result.output.replace("│", " ").split()))


def test_verify_refuses_a_layer_rule_as_serve_does():
    result = CliRunner().invoke(cli.app, ["verify", "some/model", "--layer-rule", "Layer=both"])
    assert result.exit_code == 2
    assert "--layer-rule" in result.output


def test_a_folder_that_does_not_exist_is_refused_with_the_bundled_models():
    result = CliRunner().invoke(cli.app, ["serve", "./nowhere"])
    assert result.exit_code == 1
    assert "smollm2, gemma3" in " ".join(result.output.split())


def test_both_plugins_are_installed_and_load():
    cli.load_plugins()
    from trait_service.engine.plugin import register
    from trait_service.http.plugin import TraitEndpoints

    groups = ("vllm.general_plugins", "vllm.endpoint_plugins")
    (general,), (endpoint,) = (entry_points(group=group, name="trait_steering") for group in groups)
    assert (general.load(), endpoint.load()) == (register, TraitEndpoints)


def test_a_missing_entry_point_stops_the_start(monkeypatch):
    monkeypatch.setattr(environment, "entry_points", lambda **_: [])
    with pytest.raises(RuntimeError, match="is not installed"):
        cli.load_plugins()


# ------------------------------------------------------------------------------------------------------- open addresses


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_an_address_that_others_reach_wants_a_key(host, tmp_path, monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.delenv("TRAIT_KEYS", raising=False)
    args = parsed("--host", host)
    (problem,) = cli.open_door(args, None, insecure=False)
    assert "trait-service key create" in problem
    assert cli.open_door(args, None, insecure=True) == []
    file = KeyFile(tmp_path / "keys.json")
    file.create("a", frozenset({"generate"}))
    assert cli.open_door(args, file.path, insecure=False) == []
    assert cli.open_door(parsed("--host", host, "--api-key", "secret"), None, insecure=False) == []


@pytest.mark.parametrize(
    "flags", [["--host", "127.0.0.1"], ["--host", "::1"], ["--host", "localhost"], ["--uds", "/x"]]
)
def test_an_address_of_this_machine_wants_none(flags):
    assert cli.open_door(parsed(*flags), None, insecure=False) == []


def test_keys_that_cannot_be_read_stop_the_start_even_if_insecure(tmp_path):
    (problem,) = cli.open_door(parsed("--host", "127.0.0.1"), tmp_path / "none.json", insecure=True)
    assert "cannot be read" in problem
