"""The Prometheus metrics of one process, in a registry of their own; names and help texts are in docs/operations.md."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_CYCLE_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
"""From one Redis round trip on loopback (0.2 ms) to a server that is in trouble (5 s)."""


class Metrics:
    """Everything a process counts. One instance per process, handed to whoever reports."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        # consumer
        self.lag_seconds = Gauge("cdc_counter_lag_seconds", "Age of the oldest unapplied commit", registry=registry)
        self.backlog_bytes = Gauge("cdc_counter_backlog_bytes", "WAL not yet applied", registry=registry)
        self.retained_wal_bytes = Gauge(
            "cdc_counter_retained_wal_bytes", "WAL that the slot makes the server keep", registry=registry
        )
        self.fuse_blown = Gauge(
            "cdc_counter_fuse_blown", "1 from when the slot was dropped for its WAL until it streams", registry=registry
        )
        self.unconfirmed_seconds = Gauge(
            "cdc_counter_unconfirmed_seconds",
            "How long applied commits have waited to be as durable as redis.confirm asks",
            registry=registry,
        )
        self.streaming = Gauge("cdc_counter_streaming", "1 while the slot is being streamed", registry=registry)
        self.transactions = Counter("cdc_counter_transactions", "Transactions applied", registry=registry)
        self.deltas = Counter("cdc_counter_deltas", "Deltas applied", registry=registry)
        self.batches = Counter("cdc_counter_batches", "Batches applied, one script call each", registry=registry)
        self.cycle_seconds = Histogram(
            "cdc_counter_cycle_seconds", "From a batch's close to its reply", buckets=_CYCLE_BUCKETS, registry=registry
        )
        self.reconnects = Counter(
            "cdc_counter_reconnects", "Connections lost and tried again", ["to"], registry=registry
        )
        self.broken_counters = Counter(
            "cdc_counter_broken_captures", "Firings whose deltas could not be computed", ["counter"], registry=registry
        )
        self.rebuilds = Counter(
            "cdc_counter_rebuilds", "Epochs begun because tallies could not be continued", ["reason"], registry=registry
        )
        # verifying
        self.verifications = Counter(
            "cdc_counter_verifications", "Counters compared with a recount", ["counter", "verdict"], registry=registry
        )
        self.keys_compared = Counter("cdc_counter_keys_compared", "Keys compared", ["counter"], registry=registry)
        self.mismatched_keys = Counter(
            "cdc_counter_mismatched_keys", "Keys found to be wrong", ["counter"], registry=registry
        )
        self.repaired_keys = Counter("cdc_counter_repaired_keys", "Keys repaired", ["counter"], registry=registry)
        self.verified_at = Gauge(
            "cdc_counter_verified_timestamp_seconds",
            "When a counter was last found exact",
            ["counter"],
            registry=registry,
        )
        # gateway
        self.clients = Gauge("cdc_counter_clients", "Socket.IO clients connected", registry=registry)
        self.subscriptions = Gauge("cdc_counter_subscriptions", "Subscriptions of all clients", registry=registry)
        self.events_sent = Counter("cdc_counter_events", "Socket.IO events sent", ["event"], registry=registry)
        self.clients_refused = Counter(
            "cdc_counter_clients_refused", "Connections and subscriptions refused", ["reason"], registry=registry
        )
        self.http_requests = Counter(
            "cdc_counter_http_requests", "HTTP requests answered", ["route", "status"], registry=registry
        )

    def exposition(self) -> bytes:
        """Return the Prometheus text exposition of this process's metrics."""
        return generate_latest(self.registry)
