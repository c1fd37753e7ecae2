"""The Helm chart, rendered by Helm and held against Kubernetes' schemas: what a cluster would be told. No cluster ran it."""

import json

import pytest
import yaml
from deploy_harness import CHART, WITHOUT_SCHEMA, library, one, render

EVERYTHING = {
    "autoscaling": {"kind": "keda"},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboard": {"enabled": True},
    "extraArgs": ["--tensor-parallel-size", "4"],
    "networkPolicy": {"directClients": [{"podSelector": {"matchLabels": {"app": "sweeps"}}}]},
    "imagePullSecrets": [{"name": "registry"}],
    "nodeSelector": {"gpu": "h100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "priorityClassName": "high",
    "runtimeClassName": "nvidia",
    "podAnnotations": {"a": "b"},
    "extraEnv": [{"name": "NCCL_DEBUG", "value": "WARN"}],
}
CHOICES = {
    "defaults": {},
    "hpa": {"autoscaling": {"kind": "hpa"}},
    "everything": EVERYTHING,
    "no router": {"router": {"enabled": False}},
    "given claims": {"vectors": {"existingClaim": "nfs"}, "modelCache": {"existingClaim": "weights"}},
}


def replica(values=None):
    return one(render(values), "Deployment", "demo")


def container(deployment):
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    return only


def test_helm_finds_nothing_to_complain_of():
    report = library("helm_python").lint(CHART, strict=True)
    complaints = [message for message in report["messages"] if message["error"] != "icon is recommended"]
    assert (complaints, report["errors"]) == ([], [])


@pytest.mark.parametrize("kubernetes", ["1.29", "1.37"])
@pytest.mark.parametrize("choice", CHOICES)
def test_every_object_fits_kubernetes_own_schema(choice, kubernetes):
    validation = library("kubernetes_validate")
    objects = render(CHOICES[choice])
    assert len(objects) >= 5
    for each in objects:
        if each["kind"] not in WITHOUT_SCHEMA:
            validation.validate(each, kubernetes, strict=True)


def test_an_object_that_does_not_fit_is_found():
    validation = library("kubernetes_validate")
    broken = replica()
    container(broken)["ports"][0]["containerPort"] = "eight thousand"
    with pytest.raises(validation.ValidationError, match="containerPort"):
        validation.validate(broken, "1.37", strict=True)


@pytest.mark.parametrize(
    "values",
    [
        {"replicas": 0},
        {"replica": 2},
        {"model": ""},
        {"autoscaling": {"kind": "cpu"}},
        {"drain": {"requestSeconds": -1}},
        {"router": {"policy": "fastest"}},
        {"extraArgs": ["--host=127.0.0.1"]},
        {"keys": {"existingSecret": ""}},
        {"probes": {"startup": {"periodSeconds": 0}}},
    ],
)
def test_a_value_outside_its_range_is_refused_before_anything_is_rendered(values):
    with pytest.raises(library("helm_python").HelmError):
        render(values)


def test_every_value_is_described_and_every_description_has_its_value():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}
    for name, value in values.items():
        described = schema["properties"][name]
        assert described["description"], name
        if isinstance(value, dict) and "properties" in described:
            assert set(value) == set(described["properties"]), name


def test_probes_ask_our_health_routes():
    service = container(replica())
    paths = {name: service[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {
        "startupProbe": "/v1/health/ready",
        "readinessProbe": "/v1/health/ready",
        "livenessProbe": "/v1/health/live",
    }


def test_a_replica_is_given_time_to_end_its_requests():
    deployment = replica({"drain": {"preStopSeconds": 20, "requestSeconds": 100}})
    service = container(deployment)
    assert service["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "20"]
    assert "--drain-seconds=100" in service["args"]
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 150


def test_replicas_scale_on_vllms_queue_and_then_have_no_fixed_number():
    hpa = one(render({"autoscaling": {"kind": "hpa"}}), "HorizontalPodAutoscaler", "demo")
    (metric,) = hpa["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "vllm_num_requests_waiting"
    (trigger,) = one(render({"autoscaling": {"kind": "keda"}}), "ScaledObject", "demo")["spec"]["triggers"]
    assert trigger["metadata"]["query"] == 'sum(vllm:num_requests_waiting{namespace="prod",pod=~"demo-.*"})'
    assert replica()["spec"]["replicas"] == 2
    assert "replicas" not in replica({"autoscaling": {"kind": "hpa"}})["spec"]


def test_every_pod_runs_without_root_and_without_privileges():
    pods = [each for each in render(EVERYTHING) if each["kind"] == "Deployment"]
    assert len(pods) == 2
    for pod in pods:
        spec = pod["spec"]["template"]["spec"]
        assert (spec["securityContext"]["runAsNonRoot"], spec["securityContext"]["runAsUser"]) == (True, 10001)
        security = container(pod)["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}


def test_all_replicas_share_one_writable_folder_of_vectors():
    objects = render()
    assert one(objects, "PersistentVolumeClaim", "demo-vectors")["spec"]["accessModes"] == ["ReadWriteMany"]
    volumes = {volume["name"]: volume for volume in replica()["spec"]["template"]["spec"]["volumes"]}
    assert volumes["vectors"]["persistentVolumeClaim"]["claimName"] == "demo-vectors"
    assert "--vectors=/data/vectors" in container(replica())["args"]
    given = render({"vectors": {"existingClaim": "nfs"}})
    assert not [each for each in given if each["kind"] == "PersistentVolumeClaim"]


def test_only_the_router_prometheus_and_named_clients_reach_a_replica():
    policy = one(render(EVERYTHING), "NetworkPolicy", "demo-replicas")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (rule,) = policy["ingress"]
    labels = [peer.get("podSelector", peer.get("namespaceSelector"))["matchLabels"] for peer in rule["from"]]
    assert [label.get("app.kubernetes.io/component") for label in labels] == ["router", None, None]
    assert labels[1:] == [{"app": "sweeps"}, {"kubernetes.io/metadata.name": "monitoring"}]
    assert one(render({"networkPolicy": {"allowDownloads": False}}), "NetworkPolicy", "demo-replicas")["spec"][
        "egress"
    ] == [{"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}]


def test_the_router_looks_for_pods_with_the_labels_that_replicas_have():
    router = container(one(render(), "Deployment", "demo-router"))
    wanted = dict(word.split("=") for word in router["args"][router["args"].index("--selector") + 1 :])
    assert wanted.items() <= replica()["spec"]["template"]["metadata"]["labels"].items()


def test_the_service_and_every_selector_find_their_pods():
    objects = render(EVERYTHING)
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in objects if each["kind"] == "Deployment"]
    for each in objects:
        selector = each["spec"].get("selector") if "spec" in each else None
        if selector:
            labels = selector.get("matchLabels", selector)
            assert any(labels.items() <= pod.items() for pod in pods), each["metadata"]["name"]
