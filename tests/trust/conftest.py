"""One service for all attacks. How many requests each sends is set by the long targets of the Makefile."""

from collections.abc import Iterator

import pytest
from fake_collector import SpanCollector, collecting
from trust_harness import Target, target


@pytest.fixture(scope="session")
def collector() -> Iterator[SpanCollector]:
    with collecting() as found:
        yield found


@pytest.fixture(scope="session")
def attacked(smollm2_path, tmp_path_factory, collector) -> Iterator[Target]:
    """A reply has at most 16 tokens there: attacks are many, not long."""
    flags = ("--max-in-flight", "256", "--override-generation-config", '{"max_new_tokens": 16}')
    flags += (
        "--hook-points",
        "attn_out,mlp_out",
        "--enable-prompt-tokens-details",
        "--otlp-traces-endpoint",
        collector.url,
    )
    environment = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_BSP_SCHEDULE_DELAY": "500"}
    with target(smollm2_path, tmp_path_factory.mktemp("attacked"), *flags, **environment) as found:
        yield found
