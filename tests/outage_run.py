"""Takes Temporal and the database away under load, for minutes, and looks whether anybody notices.

    python -m tests.outage_run [--minutes 10] [--rate 20] [--both] [--replicas 1] [--folder FOLDER]

On this machine runs a real system: PostgreSQL, Temporal, the API in two processes, the control plane, an agent, and
llama-server with SmolLM2. Requests of all kinds come at a constant pace, streamed and whole: with a key without limits,
one with, one whose limit refuses some of them, one that was revoked, one that never was, and none; for models that are
there and for one that is not. Of the minutes, Temporal is away in the first third, the database in the second, both in
the last (`--both`: in all of them); then both come back.

Wanted: no request fails, no answer is wrong, nobody is let in who must not be, the limit admits what it must and no
more, and afterwards the database has exactly the requests and tokens, by key, that the replies themselves spoke of.
The last line is JSON; the exit code is 1 where something of that is not so. All that was started ends with the run.
"""

import argparse
import collections
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import httpx

from entrypoints.demo.model import fetch_demo_model
from tests.live.ledger import Account, accounts, differences, limit_faults, reached, recorded
from tests.live.load import Asked, Key, Load, Turn
from tests.live.long_run import add_folder_option, engine_folder, run_folder
from tests.live.questions import Question, models_question, questions, refused_question
from tests.live.system import LiveSystem
from tests.live.watch import Watch, metric, most

MODEL = "smol"
PROMPT = "Count from one to ten."
TOKENS = 4
QUEUE = 2000  # so many may wait: what is looked at is not how much two cores can do
PER_MINUTE = 12  # that the key may make whose limit is too small for what it asks
RECORDED_WITHIN_SECONDS = 120.0
STEADY_WITHIN_SECONDS = 180.0

_SINGLE = "SELECT key_id, count(*) AS requests, sum(input_tokens) AS input_tokens, "
_SINGLE += "sum(output_tokens) AS output_tokens FROM usage WHERE status = 200 GROUP BY key_id"
_HOURLY = "SELECT key_id, sum(requests) AS requests, sum(input_tokens) AS input_tokens, "
_HOURLY += "sum(output_tokens) AS output_tokens FROM usage_hour WHERE status_class = '2xx' GROUP BY key_id"


def make_turns(system: LiveSystem) -> list[Turn]:
    """The round of twenty requests: fourteen for the engine, the others for the door alone."""
    app, quiet = (Key(name, *system.new_key(name)) for name in ("app", "quiet"))
    enough = {"requests_per_minute": 100_000, "tokens_per_minute": 10_000_000, "concurrency": 500}
    limited = Key("limited", *system.new_key("limited", limits=enough))
    small = Key("small", *system.new_key("small", limits={"requests_per_minute": PER_MINUTE}, models=[MODEL]))
    revoked = Key("revoked", *system.new_key("revoked"))
    with system.api() as api:
        api.delete(f"/keys/{revoked.id}").raise_for_status()
    unknown = Key("unknown", "", f"sk-stoker-{'0' * 12}-{'a' * 43}")
    ask = questions(MODEL, tokens=TOKENS, prompt=PROMPT)

    def refused(name: str, *, status: int = 401, code: str = "invalid_api_key", model: str | None = None) -> Question:
        return refused_question(name, ask["chat"], status, code, model=model)

    return [
        Turn(ask["chat"], app),
        Turn(ask["chat streamed"], limited),
        Turn(refused("revoked key"), revoked),
        Turn(ask["text"], app),
        Turn(ask["message streamed"], app),
        Turn(ask["chat"], limited),
        Turn(ask["text"], small, may_refuse=True),
        Turn(ask["chat streamed"], app),
        Turn(refused("unknown key"), unknown),
        Turn(ask["response"], app),
        Turn(ask["text streamed"], limited),
        Turn(ask["chat streamed without usage"], quiet),
        Turn(models_question(MODEL), app),
        Turn(ask["message"], app),
        Turn(ask["chat streamed"], app),
        Turn(refused("no key"), Key("none", "", "")),
        Turn(ask["text streamed"], app),
        Turn(refused("model not allowed", status=403, code="model_not_allowed", model="other"), small),
        Turn(ask["chat"], app),
        Turn(refused("unknown model", status=404, code="model_not_found", model="nothing"), app),
    ]


def take_away(system: LiveSystem, load: Load, minutes: float, *, both: bool) -> dict[str, float]:
    """Does it; when each began and ended, and how long the database then took to catch up."""
    third = minutes * 60 / 3
    times = {"temporal_stopped": time.monotonic()}
    system.temporal.kill(hold=True)
    if not both:
        time.sleep(third)
        _say("Temporal comes back, the database goes")
        system.temporal.start()
    times["database_stopped"] = time.monotonic()
    system.postgres.stop()
    if not both:
        time.sleep(third)
        _say("Temporal goes too")
        system.temporal.kill(hold=True)
    times["both_stopped"] = time.monotonic()
    time.sleep(minutes * 60 if both else third)
    _say("both come back")
    system.temporal.start()
    system.postgres.start()
    times["back"] = time.monotonic()
    told = accounts(load.asked())
    within = minutes * 60 + RECORDED_WITHIN_SECONDS
    system.eventually(lambda: reached(told, _recorded(system, _SINGLE)), "all is recorded", seconds=within)
    times["caught_up"] = time.monotonic()
    return times


def _recorded(system: LiveSystem, query: str) -> dict[str, Account]:
    return recorded(system.rows(query))


def settle(system: LiveSystem, asked: Sequence[Asked]) -> tuple[float, list[str]]:
    """Seconds from the load's end until the database has all that the replies spoke of; where it never has."""
    told, began = accounts(asked), time.monotonic()
    while True:
        found = [
            f"{table}: {difference}"
            for table, query in (("usage", _SINGLE), ("usage_hour", _HOURLY))
            for difference in differences(told, _recorded(system, query))
        ]
        seconds = time.monotonic() - began
        if not found or seconds > RECORDED_WITHIN_SECONDS:
            return seconds, found
        time.sleep(0.1)


def run(system: LiveSystem, minutes: float, rate: float, edge: float, *, both: bool) -> dict[str, Any]:
    """The whole of it, with `edge` seconds of load before and after; what was found."""
    turns = make_turns(system)
    system.eventually(lambda: _revocation_is_known(system, turns), "the API knows of all keys", seconds=10)
    [before] = system.running(MODEL)[:1]
    processes = system.api_pids()
    with Watch(system) as watch, Load(("127.0.0.1", system.port), turns, rate) as load:
        began = time.monotonic()
        time.sleep(edge)
        _say("Temporal goes" if not both else "both go")
        times = take_away(system, load, minutes, both=both)
        time.sleep(edge)
    asked = load.asked()
    seconds_until_equal, differing = settle(system, asked)
    steady = system.eventually(lambda: system.running(MODEL), "the deployment is shown", seconds=STEADY_WITHIN_SECONDS)
    [after] = steady[:1]
    lost_records = metric(httpx.get(f"{system.url}/metrics", trust_env=False).text, "stoker_usage_records_lost_total")
    away = watch.between(times["temporal_stopped"], times["back"])
    small = [one for one in asked if one.turn.key.name == "small" and one.turn.question.engine]
    found: dict[str, Any] = {
        "run": "outage",
        "minutes": minutes,
        "rate": rate,
        "both_all_the_time": both,
        "requests": len(asked),
        "requests_while_away": sum(times["temporal_stopped"] <= one.start < times["back"] for one in asked),
        "streamed": sum(bool(one.turn.question.body and one.turn.question.body.get("stream")) for one in asked),
        "failed": sum(one.lost for one in asked),
        "wrong": sum(not one.right and not one.lost for one in asked),
        "what_was_wrong": dict(
            collections.Counter(_told(one, times) for one in asked if not one.right).most_common(20)
        ),
        "refused_as_they_must_be": sum(
            one.right and not one.turn.question.engine and one.status >= 400 for one in asked
        ),
        "refused_by_the_small_limit": sum(one.refused for one in small),
        "let_in_by_the_small_limit": sum(one.status == 200 for one in small),
        "limit_faults": limit_faults(small, PER_MINUTE),
        "slowest_seconds": {
            phase: round(max((one.end - one.start for one in asked if start <= one.start < end), default=0.0), 3)
            for phase, (start, end) in _phases(times, began).items()
        },
        "usage_of_replies": {key_id: list(account) for key_id, account in accounts(asked).items()},
        "usage_differs": differing,
        "seconds_until_equal_after_the_load": round(seconds_until_equal, 2),
        "seconds_until_caught_up_after_the_outage": round(times["caught_up"] - times["back"], 2),
        "records_waiting_at_most": max((sample.waiting or 0 for sample in away), default=0),
        "records_lost": lost_records,
        "api_did_not_answer_probes": sum(not sample.live or sample.waiting is None for sample in watch.samples),
        "api_processes_stayed": system.api_pids() == processes,
        "engine_stayed": (after["pid"], after["incarnation"]) == (before["pid"], before["incarnation"]),
        "memory_mib": {phase: most(watch.between(start, end)) for phase, (start, end) in _phases(times, began).items()},
    }
    found["ok"] = not (
        found["failed"]
        or found["wrong"]
        or found["limit_faults"]
        or differing
        or lost_records
        or found["api_did_not_answer_probes"]
        or not found["api_processes_stayed"]
        or not found["engine_stayed"]
    )
    return found


def _revocation_is_known(system: LiveSystem, turns: Sequence[Turn]) -> bool:
    """Whether every process does: a new connection goes to any of them."""
    with httpx.Client(base_url=f"{system.url}/v1", trust_env=False, headers={"connection": "close"}) as client:
        keys = {turn.key.name: turn.key for turn in turns}
        for _ in range(6):
            for key in keys.values():
                opens = client.get("/models", headers=key.headers()).is_success
                if opens != bool(key.id and key.name != "revoked"):
                    return False
    return True


def _phases(times: dict[str, float], began: float) -> dict[str, tuple[float, float]]:
    return {
        "before": (began, times["temporal_stopped"]),
        "temporal_away": (times["temporal_stopped"], times["database_stopped"]),
        "database_away": (times["database_stopped"], times["both_stopped"]),
        "both_away": (times["both_stopped"], times["back"]),
        "after": (times["back"], times["back"] + 1e9),
    }


def _told(one: Asked, times: dict[str, float]) -> str:
    phase = next((name for name, (start, end) in _phases(times, 0.0).items() if start <= one.start < end), "?")
    return f"{phase}: {one.turn.question.name} ({one.turn.key.name}): {one.wrong[:300]}"


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Runs, and prints one JSON line at the end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--edge", type=float, default=60.0, help="seconds of load before and after")
    parser.add_argument("--both", action="store_true", help="take both away for all of the time")
    parser.add_argument("--replicas", type=int, default=1)
    add_folder_option(parser)
    args = parser.parse_args()
    model = fetch_demo_model()
    engine = engine_folder() / "llama-server"
    with (
        run_folder("outage", args.folder) as folder,
        LiveSystem(folder, processes=2, model_dirs=[model.parent], llama_server=engine) as system,
    ):
        system.deploy(MODEL, model, replicas=args.replicas, slots=4, queue=QUEUE)
        found = run(system, args.minutes, args.rate, args.edge, both=args.both)
    print(json.dumps(found))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
