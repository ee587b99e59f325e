"""What each model answers now: its requests and tokens a second, from two looks at the server's `/metrics`."""

from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Counts:
    """What the server had counted for one model at one moment."""

    requests: float = 0.0
    tokens_in: float = 0.0
    tokens_out: float = 0.0
    running: float = 0.0
    queued: float = 0.0


@dataclass(frozen=True)
class Look:
    """One look at `/metrics`, at a moment in monotonic seconds."""

    at: float
    models: dict[str, Counts] = field(default_factory=dict)


@dataclass(frozen=True)
class Rate:
    """Per second; `running` and `queued` requests now."""

    requests: float
    tokens_in: float
    tokens_out: float
    running: int
    queued: int


_FIELDS = {
    "stoker_requests_total": "requests",
    "stoker_requests_running": "running",
    "stoker_requests_queued": "queued",
}
_TOKEN_FIELDS = {"in": "tokens_in", "out": "tokens_out"}


def read_counts(text: str, at: float) -> Look:
    """The counts in a `/metrics` text. Raises ValueError for what is none."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            model = sample.labels.get("model", "")
            name = _FIELDS.get(sample.name)
            if sample.name == "stoker_tokens_total":
                name = _TOKEN_FIELDS.get(sample.labels.get("direction", ""))
            if model and name is not None:
                counts = found.setdefault(model, {})
                counts[name] = counts.get(name, 0.0) + sample.value
    return Look(at, {model: Counts(**counts) for model, counts in found.items()})


def rates(before: Look, now: Look) -> dict[str, Rate]:
    """By model. A server that was started anew counts from 0: what it has counted since is taken."""
    seconds = max(now.at - before.at, 1e-3)

    def per_second(was: float, is_now: float) -> float:
        return (is_now - was if is_now >= was else is_now) / seconds

    found = {}
    for model, counts in now.models.items():
        was = before.models.get(model, Counts())
        found[model] = Rate(
            requests=per_second(was.requests, counts.requests),
            tokens_in=per_second(was.tokens_in, counts.tokens_in),
            tokens_out=per_second(was.tokens_out, counts.tokens_out),
            running=int(counts.running),
            queued=int(counts.queued),
        )
    return found
