"""Two data-parallel engines behind one server answer, steer and report like one engine."""

import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import safetensors.numpy
from service_harness import serving
from trait_core.schema import ServiceInfo
from vector_fixtures import random_vector

pytestmark = pytest.mark.engine

LAYER = 12
N_VECTORS = 4
N_REQUESTS = 16
TOPICS = ["rain", "a violin", "the harbour", "chess"]


def register_vectors(http: httpx.Client) -> None:
    info = ServiceInfo.model_validate(http.get("/v1/steering").raise_for_status().json())
    for seed in range(N_VECTORS):
        http.put(f"/v1/vectors/parallel-{seed}", content=random_vector(info, seed).to_bytes()).raise_for_status()


def ask(http: httpx.Client, i: int) -> dict:
    """Every fourth request is not steered; the others have a vector, a coefficient and a prompt of their own."""
    body = {
        "messages": [{"role": "user", "content": f"Tell me {i} facts about {TOPICS[i % 4]}."}],
        "max_tokens": 12,
        "temperature": 0,
        "logprobs": True,
    }
    if i % 4:
        body["steering"] = {"terms": [{"vector": f"parallel-{i % N_VECTORS}", "coefficient": 1 + i / 10}]}
    return http.post("/v1/chat/completions", json=body).raise_for_status().json()


def activations(http: httpx.Client) -> dict[str, np.ndarray]:
    inputs = [{"text": f"{topic}. It was a long day, and nobody came to see it."} for topic in TOPICS]
    body = {"inputs": inputs, "positions": ["all[:]"]}
    return safetensors.numpy.load(http.post("/v1/activations", json=body).raise_for_status().content)


def results(url: str) -> tuple[list[dict], dict[str, np.ndarray], str]:
    with httpx.Client(base_url=url, timeout=300) as http, ThreadPoolExecutor(N_REQUESTS) as pool:
        register_vectors(http)
        answers = list(pool.map(lambda i: ask(http, i), range(N_REQUESTS)))
        return answers, activations(http), http.get("/metrics").text


@pytest.fixture(scope="module")
def one(service_url):
    return results(service_url)


@pytest.fixture(scope="module")
def two(smollm2_path, tmp_path_factory):
    flags = ["--data-parallel-size", "2", "--max-model-len", "512", "--max-num-seqs", "16"]
    with serving(smollm2_path, tmp_path_factory.mktemp("parallel"), *flags) as url:
        yield results(url)


def test_both_engines_had_requests(two):
    finished = {"0": 0.0, "1": 0.0}
    for line in two[2].splitlines():
        if line.startswith("vllm:request_success_total"):
            finished[re.search(r'engine="(\d)"', line).group(1)] += float(line.split()[-1])
    assert min(finished.values()) > 0, finished


def test_every_answer_equals_the_single_engines(one, two):
    for i, (left, right) in enumerate(zip(one[0], two[0], strict=True)):
        single, parallel = (answer["choices"][0]["logprobs"]["content"] for answer in (left, right))
        assert [entry["token"] for entry in single] == [entry["token"] for entry in parallel], f"request {i}"
        differences = [abs(a["logprob"] - b["logprob"]) for a, b in zip(single, parallel, strict=True)]
        assert max(differences) < 1e-3, f"request {i}"


def test_every_steered_answer_has_its_whole_report(one, two):
    for i, (left, right) in enumerate(zip(one[0], two[0], strict=True)):
        assert left.get("steering") == right.get("steering")
        if i % 4:
            usage = right["usage"]
            assert right["steering"]["positions"]["prompt"] == usage["prompt_tokens"]
            assert right["steering"]["positions"]["generated"] == usage["completion_tokens"] - 1


def test_activations_equal_the_single_engines(one, two):
    assert one[1].keys() == two[1].keys()
    for name, single in one[1].items():
        np.testing.assert_allclose(two[1][name], single, rtol=1e-3, atol=1e-3)
