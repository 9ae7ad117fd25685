"""Every metric that is counted as things happen: its name, its labels, what it means; counts nothing by itself.

Names follow Prometheus' rules: base units, counters end in ``_total``. Their semantics are those of Triton's metrics,
with histograms in place of sums; those that begin with ``grpc_server_`` are the ones of all gRPC servers.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

# Each series of a histogram would come with a second one that says when it began, which nothing of ours looks at.
disable_created_metrics()  # type: ignore[no-untyped-call]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
ITEMS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
EVALUATIONS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
BYTES = tuple(1024.0 * 4**power for power in range(10))

RPC = ("grpc_type", "grpc_service", "grpc_method")
WORK = ("model", "method")


class Instruments:
    """The metrics of one server, in a registry of its own; `labels` are those of each, by its name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.labels: dict[str, tuple[str, ...]] = {}

        self.rpc_started = self._counter("grpc_server_started_total", "RPCs that began.", RPC)
        self.rpc_handled = self._counter(
            "grpc_server_handled_total",
            "RPCs that ended, whatever with. grpc_code is spelled as in Go, such as ResourceExhausted.",
            (*RPC, "grpc_code"),
        )
        self.rpc_handling = self._histogram(
            "grpc_server_handling_seconds", "Time from the begin of an RPC to its end, whatever it ended with.", RPC
        )
        self.rpc_received = self._counter("grpc_server_msg_received_total", "Messages that came.", RPC)
        self.rpc_sent = self._counter("grpc_server_msg_sent_total", "Messages that were sent.", RPC)
        self.received_bytes = self._histogram(
            "whylight_received_message_bytes", "Sizes of messages that came.", ("rpc",), BYTES
        )
        self.sent_bytes = self._histogram(
            "whylight_sent_message_bytes", "Sizes of messages that were sent.", ("rpc",), BYTES
        )

        self.requests = self._counter(
            "whylight_requests_total",
            "Requests that ended; each message of a stream is one. outcome is ok, invalid (wrong in itself), rejected "
            "(no room or no right: nothing was tried), cancelled (by its client), late (its deadline passed) or failed "
            "(by a fault of the server or of a plugin). Of a request that was answered, outcome and reason are "
            "those of its worst input, while code is OK.",
            ("rpc", *WORK, "outcome", "code", "reason"),
        )
        self.caller_requests = self._counter(
            "whylight_caller_requests_total",
            "Requests that ended, by the name of the token that they came with; none without tokens.",
            ("caller", "outcome"),
        )
        self.request_time = self._histogram(
            "whylight_request_seconds",
            "Time from a request to its answer, of requests whose outcome is ok.",
            ("rpc", *WORK),
        )
        self.open_requests = self._gauge("whylight_open_requests", "Requests that have no answer yet.", ("rpc",))
        self.inputs = self._counter(
            "whylight_inputs_total",
            "Inputs that ended, one by one, of requests that could be planned.",
            (*WORK, "outcome", "code", "reason"),
        )

        self.queue_time = self._histogram(
            "whylight_queue_seconds", "Time from the arrival of an input to the start of its batch.", WORK
        )
        self.compute_time = self._histogram(
            "whylight_compute_seconds",
            "Time from the start of its batch to the result of an input. The queue and this are all of its time.",
            WORK,
        )
        self.decode_time = self._histogram(
            "whylight_decode_seconds",
            "Time that decoding and transforming an input took; most of it while the batch before is computed.",
            ("model",),
        )
        self.method_time = self._histogram(
            "whylight_method_seconds",
            "Time that the batch of an explanation took in the model and this method.",
            WORK,
        )
        self.render_time = self._histogram(
            "whylight_render_seconds", "Time that drawing and encoding an explanation took.", WORK
        )

        self.batches = self._counter(
            "whylight_batches_total",
            "Batches that workers finished, by why they took no more inputs: full, worker_free (there was no more to "
            "take), max_delay or draining.",
            (*WORK, "reason"),
        )
        self.batch_size = self._histogram("whylight_batch_size_inputs", "Inputs in a batch.", WORK, ITEMS)
        self.batch_cost = self._histogram(
            "whylight_batch_cost_evaluations", "Model evaluations in a batch.", WORK, EVALUATIONS
        )
        self.batch_fill = self._histogram(
            "whylight_batch_fill_ratio",
            "Share of the bound that a batch came nearest to: of inputs, of evaluations or of bytes.",
            WORK,
            SHARES,
        )
        self.batch_time = self._histogram(
            "whylight_batch_seconds",
            "Time that a worker was busy with a batch: computing, and decoding that nothing else was computed beside.",
            WORK,
        )

        self.worker_starts = self._counter(
            "whylight_worker_starts_total", "Times that a worker came up. The first is no restart.", ("worker",)
        )
        self.worker_losses = self._counter(
            "whylight_worker_losses_total", "Times that a worker was lost, or could not be started again.", ("worker",)
        )
        self.worker_busy = self._counter(
            "whylight_worker_busy_seconds_total",
            "Time that the computing thread of a worker was at work. Its rate is the worker's load, at most 1.",
            ("worker",),
        )
        self.loop_delay = self._histogram(
            "whylight_event_loop_delay_seconds",
            "How late the front end got to what was due: when it is long, the front end is short of processor time.",
            (),
        )

    def _counter(self, name: str, help: str, labels: Sequence[str]) -> Counter:
        self.labels[name] = tuple(labels)
        return Counter(name, help, labels, registry=self._registry)

    def _gauge(self, name: str, help: str, labels: Sequence[str]) -> Gauge:
        self.labels[name] = tuple(labels)
        return Gauge(name, help, labels, registry=self._registry)

    def _histogram(self, name: str, help: str, labels: Sequence[str], buckets: Sequence[float] = SECONDS) -> Histogram:
        self.labels[name] = tuple(labels)
        return Histogram(name, help, labels, registry=self._registry, buckets=buckets)
