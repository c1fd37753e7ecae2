"""A collector of OpenTelemetry spans: real OTLP over HTTP, kept in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import listening_at
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class SpanCollector:
    """The spans that have arrived.

    Attributes:
        raw: Every request's bytes.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.raw: list[bytes] = []

    def spans(self) -> list[Any]:
        found = []
        for data in list(self.raw):
            for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
                found += [span for scope in resource.scope_spans for span in scope.spans]
        return found


@contextmanager
def collecting() -> Iterator[SpanCollector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.raw.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

    with listening_at(Handler) as url:
        collector = SpanCollector(f"{url}/v1/traces")
        yield collector


def attributes(span: Any) -> dict[str, Any]:
    """By name; lists as lists."""

    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        if kind == "array_value":
            return [plain(item) for item in value.array_value.values]
        return getattr(value, kind) if kind else None

    return {entry.key: plain(entry.value) for entry in span.attributes}
