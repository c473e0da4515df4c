"""What Prometheus reads at /metrics: requests, their times, the line, batches and tokens."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from slidekick.apps.serving.work import Worker

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)


class Metrics:
    """Counters of one server."""

    def __init__(self, worker: Worker) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter("slidekick_requests", "Requests answered", ["route", "status"], **own)
        self.seconds = Histogram("slidekick_request_seconds", "Time to the end", ["route"], buckets=SECONDS, **own)
        self.tokens = Counter("slidekick_tokens", "Tokens of the generalist", ["kind"], **own)
        self.steps = Counter("slidekick_tool_calls", "Tool calls that ran", ["tool"], **own)
        Gauge("slidekick_waiting", "Questions in line", **own).set_function(lambda: worker.waiting)
        Gauge("slidekick_answering", "Questions being answered", **own).set_function(lambda: worker.going)
        Gauge("slidekick_batch_seconds", "Time of a batch, running mean", **own).set_function(lambda: worker.took_s)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
