"""GET /metrics, for Prometheus: what is asked and answered, how long it takes, and how full the engines are."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat.serve.answers import Answers

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Engines(Collector):
    """The engines' own counts, read when they are asked for."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers

    def collect(self) -> Iterator[Metric]:
        stats = self.answers.stats
        yield CounterMetricFamily("nanochat_prompt_tokens", "Tokens of the prompts begun", value=stats.prompt_tokens)
        yield CounterMetricFamily("nanochat_generated_tokens", "Tokens of the answers", value=stats.tokens)
        yield CounterMetricFamily("nanochat_engine_seconds", "Time that the engines worked", value=stats.seconds)
        yield GaugeMetricFamily("nanochat_waiting", "Samples that wait for a slot", value=stats.waiting)
        yield GaugeMetricFamily("nanochat_running", "Samples that are being computed", value=stats.running)
        yield GaugeMetricFamily("nanochat_slots", "Samples that can be computed at once", value=self.answers.slots)


class Meter:
    """What is counted and measured, in a registry of its own, so that a process may hold several apps."""

    def __init__(self, answers: Answers) -> None:
        self.registry = all_ = CollectorRegistry()
        all_.register(Engines(answers))
        self.requests = Counter("nanochat_requests", "Requests answered", ["route", "status"], registry=all_)
        first = Histogram("nanochat_first_token_seconds", "To an answer's first token", buckets=SECONDS, registry=all_)
        gap = Histogram("nanochat_between_events_seconds", "Between its events", buckets=SECONDS, registry=all_)
        answers.on_first, answers.on_gap = first.observe, gap.observe

    def routes(self) -> APIRouter:
        router = APIRouter()

        @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
        async def metrics() -> Response:
            return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

        return router


class Counted:
    """ASGI middleware: counts answers by route and status. Known routes only: whoever asks for a thousand paths must
    not make a thousand counters."""

    def __init__(self, app: ASGIApp, meter: Meter) -> None:
        self.app = app
        self.meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def seen(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                self.meter.requests.labels(route, message["status"]).inc()
            await send(message)

        await self.app(scope, receive, seen)
