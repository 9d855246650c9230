"""What is counted, for Prometheus. No label has values that a client could make up."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counters of one server."""

    def __init__(self):
        self._registry = registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"diffvis_{name}", what, labels, registry=registry)

        def seconds(name: str, what: str) -> Histogram:
            name = f"diffvis_{name}_seconds"
            return Histogram(name, what, ["path"], registry=registry, buckets=_SECONDS)

        self.requests = counter("requests", "Responses by status", "code")
        self.first_token = seconds("first_token", "From arrival to the first id, by encode path")
        self.encode = seconds("encode", "Encoding the new pictures of a request, by path")
        self.recomputed = Histogram(
            "diffvis_recomputed_share",
            "Share of a full encode that was done for a new picture",
            registry=registry,
            buckets=(0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0),
        )
        self.positions = counter("positions", "Positions of prompts", "kind")
        self.pictures = counter("pictures", "Pictures of requests by what was known", "known")
        self.reused = counter("reused", "Answers, and pictures' features, of before", "kind")
        self.sessions = counter("session_choices", "Sessions taken, by why", "why")
        self.compilations = counter("compilations", "Programs compiled after the start")
        self.cancelled = counter("cancelled", "Requests that nobody waited for any more")
        self.failed_logins = counter("failed_logins", "Requests without a valid key")

    def gauge(self, name: str, what: str, value: Callable[[], float]) -> None:
        """A number that is asked for when somebody looks."""
        Gauge(f"diffvis_{name}", what, registry=self._registry).set_function(value)

    def answered(self, told: dict[str, Any], first_token_s: float) -> None:
        """Counts one answer, by what it tells of itself."""
        path = told.get("path", "elsewhere")
        self.first_token.labels(path).observe(first_token_s)
        self.reused.labels("answer").inc(path == "answer")
        self.reused.labels("features").inc(told.get("features_reused", 0))
        if path not in ("known", "answer", "elsewhere"):
            self.encode.labels(path).observe(told["encode_ms"] / 1e3)
            self.recomputed.observe(told["recomputed"])
        self.positions.labels("prefilled").inc(told["prefilled"])
        self.positions.labels("kept").inc(told["positions"] - told["prefilled"])
        self.sessions.labels(told.get("session_choice", "none")).inc()
        for known, count in told.get("pictures", {}).items():
            self.pictures.labels(known).inc(count)
        self.compilations.inc(told["compiled"])

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self._registry)
