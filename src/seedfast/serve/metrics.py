"""What the server counts, in the format of Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "seedfast_requests", "Answered requests.", ["endpoint", "status"], registry=self.registry
        )
        self.cancelled = Counter("seedfast_cancelled", "Requests whose client left.", registry=self.registry)
        self.tokens = Counter("seedfast_tokens", "Tokens of prompts and texts.", ["kind"], registry=self.registry)
        self.seconds = Histogram(
            "seedfast_request_seconds",
            "From a request to the end of its text.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first = Histogram(
            "seedfast_first_piece_seconds",
            "From a request to the first piece of its text.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.rows = Histogram(
            "seedfast_batch_rows",
            "Rows of a shared evaluation of the network.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self.running = Gauge("seedfast_running", "Texts that are being written.", registry=self.registry)
        self.waiting = Gauge("seedfast_waiting", "Texts that wait for a slot.", registry=self.registry)

    def page(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)
