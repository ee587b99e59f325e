"""What an operator sees afterwards, of a whole system: one trace through all its processes, and who changed what."""

import json
from pathlib import Path

from tests.e2e.system import eventually, running_system
from tests.fakes.collector import Collected, collecting


def test_one_trace_through_all_processes_and_an_audit_log(tmp_path: Path, tiny: Path) -> None:
    with collecting() as collector:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
        with running_system(tmp_path / "data", "--model-dir", str(tiny.parent), environment=environment) as system:
            system.cli("deploy", "tiny", "--model", f"file:{tiny}")
            system.running("tiny")
            eventually(lambda: system.answers("tiny"), system.logs)
            system.cli("scale", "tiny", "0")
            table = system.cli("audit", "--object", "deployment/tiny").stdout
            entries = json.loads(system.cli("audit", "-o", "json").stdout)

            def question() -> list[Collected]:
                return [span for span in collector.named("text_completion tiny") if not span.failed]

            eventually(question, lambda: [span.name for span in collector.spans])
        # the last spans come as the processes end, that of the engine's own activity too
        (place,) = collector.named("RunActivity:place")
        spans = collector.of_trace(place.trace)
        names = {(span.service, span.name) for span in spans}
        assert {
            ("stoker-api", "POST /api/v1/deployments"),
            ("stoker-control-plane", "HandleUpdate:apply"),
            ("stoker-control-plane", "RunActivity:place"),
            ("stoker-worker", "RunActivity:serve_main"),
        } <= names, names
        ids = {span.id for span in spans}
        assert [span.name for span in spans if span.parent not in ids] == ["POST /api/v1/deployments"]
    assert [(entry["action"], entry["status"]) for entry in entries if entry["object"] == "deployment/tiny"] == [
        ("update_deployment", 200),
        ("create_deployment", 201),
    ]
    assert "replicas 1 -> 0" in table
    assert {entry["object"].split("/")[0] for entry in entries} == {"deployment", "worker"}, "the worker has joined"
