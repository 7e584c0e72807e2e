"""The metrics of the server, for Prometheus.

Names, units and labels follow the conventions of Prometheus: base units, ``_total`` for counters, and no label with
values that a client could choose.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import psutil
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from bitnet_chat.backends.pool import Slot
from bitnet_chat.conversation import ToolCall
from bitnet_chat.errors import FinishReason
from bitnet_chat.events import Completed, Event, Failed, TextDelta, ThinkingDelta
from bitnet_chat.server.model_manager import ModelManager
from bitnet_chat.version import __version__

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_RATES = (1.0, 2.0, 5.0, 10.0, 20.0, 35.0, 50.0, 75.0, 100.0, 200.0, 500.0, 1000.0)


class Metrics:
    """The metrics of one server, in their own registry. All methods must be called on the event loop."""

    def __init__(self, model_manager: ModelManager, running: Callable[[], int] = lambda: 0) -> None:
        """``running``: returns the number of waiting and running replies."""
        self.registry = CollectorRegistry()
        by_model = ("model",)
        self._requests = Counter(
            "bitnet_chat_http_requests",
            "HTTP requests answered",
            ("api", "status"),
            registry=self.registry,
        )
        self._replies = Counter(
            "bitnet_chat_replies", "Replies ended, by finish reason", ("model", "reason"), registry=self.registry
        )
        self._prompt_tokens = Counter("bitnet_chat_prompt_tokens", "Prompt tokens", by_model, registry=self.registry)
        self._tokens = Counter("bitnet_chat_generated_tokens", "Generated tokens", by_model, registry=self.registry)
        self._first = Histogram(
            "bitnet_chat_time_to_first_token_seconds",
            "Time from a request to the first text of its reply, queue included",
            by_model,
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._rate = Histogram(
            "bitnet_chat_tokens_per_second",
            "Generation rate of one reply, prefill excluded",
            by_model,
            registry=self.registry,
            buckets=_RATES,
        )
        self._waited = Histogram(
            "bitnet_chat_queue_wait_seconds",
            "Time from a request to the assignment of a backend",
            by_model,
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._yields = Counter(
            "bitnet_chat_yields",
            "Low-priority replies that yielded to interactive ones",
            by_model,
            registry=self.registry,
        )
        self._restarts = Counter(
            "bitnet_chat_engine_restarts", "Engine restarts after a crash", by_model, registry=self.registry
        )
        self._cached = Counter(
            "bitnet_chat_cached_replies", "Replies replayed from the cache", by_model, registry=self.registry
        )
        for name in model_manager.names:  # series begin at 0, so that rates are right from the first event
            for counter in (self._prompt_tokens, self._tokens, self._yields, self._restarts, self._cached):
                counter.labels(name)
        self._model_manager = model_manager
        self._shared_restarts: dict[str, int] = {}
        """Counted restarts, by model, of processes that serve several slots."""
        self.registry.register(_Collector(model_manager, running))

    def count_request(self, api: str, status: int) -> None:
        self._requests.labels(api, str(status)).inc()

    def reply(self, model: str) -> ReplyMetrics:
        """Return the metrics of a reply; its request arrives now."""
        return ReplyMetrics(self, model)

    def count_yield(self, model: str) -> None:
        self._yields.labels(model).inc()

    def count_replay(self, model: str) -> None:
        self._cached.labels(model).inc()

    def count_restarts(self, model: str, slot: Slot) -> None:
        """Count the restarts of the engine of a slot since the last call."""
        count, known = slot.backend.status().restarts, slot.restarts
        if self._model_manager.pools[model].source.shared:
            known = self._shared_restarts.get(model, 0)
            self._shared_restarts[model] = count
        if count > known:
            self._restarts.labels(model).inc(count - known)
        slot.restarts = count

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the format of the ``Accept`` header, and the media type."""
        for model, pool in self._model_manager.pools.items():
            for slot in pool.seats:
                self.count_restarts(model, slot)
        encode, kind = choose_encoder(accept)
        return encode(self.registry), kind


class ReplyMetrics:
    """Metrics of one reply."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics, self._model = metrics, model
        self._asked = time.monotonic()
        self._is_assigned = self._has_text = False

    def on_assigned(self) -> None:
        """Observe the waiting time: a backend is assigned to the reply."""
        if not self._is_assigned:
            self._is_assigned = True
            self._metrics._waited.labels(self._model).observe(time.monotonic() - self._asked)

    def on_event(self, event: Event) -> None:
        if not self._has_text and isinstance(event, TextDelta | ThinkingDelta | ToolCall):
            self._has_text = True
            self._metrics._first.labels(self._model).observe(time.monotonic() - self._asked)

    def on_end(self, end: Completed | Failed) -> None:
        reason: FinishReason = end.error.reason if isinstance(end, Failed) else end.reason
        self._metrics._replies.labels(self._model, str(reason)).inc()
        if isinstance(end, Completed):
            self._metrics._prompt_tokens.labels(self._model).inc(end.stats.prompt_tokens or 0)
            self._metrics._tokens.labels(self._model).inc(end.stats.tokens)
            if (rate := end.stats.tokens_per_second) is not None:
                self._metrics._rate.labels(self._model).observe(rate)


class _Collector(Collector):
    """Values that are computed at each scrape."""

    def __init__(self, model_manager: ModelManager, running: Callable[[], int]) -> None:
        self._model_manager, self._running = model_manager, running
        self._process = psutil.Process()
        self._started = self._process.create_time()

    def collect(self) -> Iterable[Metric]:
        info = GaugeMetricFamily("bitnet_chat_build_info", "Version of the server", labels=("version",))
        info.add_metric((__version__,), 1)
        yield info
        yield GaugeMetricFamily("bitnet_chat_replies_running", "Waiting and running replies", value=self._running())
        waiting = GaugeMetricFamily("bitnet_chat_queue_length", "Requests waiting for a backend", labels=("model",))
        busy = GaugeMetricFamily("bitnet_chat_backends_busy", "Backends with a running reply", labels=("model",))
        loaded = GaugeMetricFamily("bitnet_chat_backends_loaded", "Backends", labels=("model",))
        memory = GaugeMetricFamily(
            "bitnet_chat_backend_memory_bytes", "Resident memory of the engines", labels=("model",)
        )
        for model, pool in self._model_manager.pools.items():
            waiting.add_metric((model,), pool.waiting)
            busy.add_metric((model,), pool.busy)
            loaded.add_metric((model,), len(pool.backends))
            memory.add_metric((model,), pool.memory)
        yield from (waiting, busy, loaded, memory)
        yield GaugeMetricFamily(
            "process_resident_memory_bytes",
            "Resident memory of the server itself",
            value=self._process.memory_info().rss,
        )
        yield GaugeMetricFamily(
            "process_start_time_seconds", "Start time of the server, since 1970", value=self._started
        )
