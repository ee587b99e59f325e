"""What we hold the door to, as ratios to the other proxies of the same run, or as limits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

_AIMS: Sequence[tuple[str, float, Callable[[Mapping[tuple[str, str], Mapping[str, Any]]], float]]] = (
    ("requests of nginx's at 64 connections, at least", 0.15, lambda of: _ratio(of, "small-64", "nginx")),
    ("unpaced streams of nginx's, at least", 0.5, lambda of: _ratio(of, "streams-64", "nginx")),
    ("requests of LiteLLM's at 64 connections, at least", 100, lambda of: _ratio(of, "small-64", "litellm")),
    ("unpaced streams of LiteLLM's, at least", 100, lambda of: _ratio(of, "streams-64", "litellm")),
    (
        "ms to the first token of 64 paced streams, p50, at most",
        1.0,
        lambda of: of["stoker", "paced-64"]["ttft_p50_ms"],
    ),
    (
        "ms to the first token of 64 paced streams, p99, at most",
        3.0,
        lambda of: of["stoker", "paced-64"]["ttft_p99_ms"],
    ),
    ("ms of CPU a small request, at most", 0.1, lambda of: of["stoker", "small-64"]["cpu_ms"]),
    ("MiB resident, at most", 80, lambda of: max(row["rss_mib"] for (name, _), row in of.items() if name == "stoker")),
)


def aims(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each aim that was measured: what it is, what was found, and whether it is reached."""
    by_name = {(str(row["proxy"]), str(row["case"])): row for row in rows}
    found: dict[str, dict[str, Any]] = {}
    for name, aim, measure in _AIMS:
        try:
            value = measure(by_name)
        except (KeyError, ValueError, ZeroDivisionError):  # not measured in this run
            continue
        reached = value <= aim if name.endswith("at most") else value >= aim
        found[name] = {"aim": aim, "found": round(value, 3), "reached": reached}
    return found


def _ratio(of: Mapping[tuple[str, str], Mapping[str, Any]], case: str, other: str) -> float:
    return float(of["stoker", case]["rps"]) / float(of[other, case]["rps"])
