"""One trace from the HTTP call to the workflow that placed the model, and to the process that serves it."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from api.request_spans import RequestSpans
from entrypoints.control_plane import WORKFLOWS
from stoker.domain.deployments import InstanceState
from stoker.domain.models import ModelSource
from stoker.temporal import workflow_runner
from stoker.tracing import Tracing
from tests.api.serving import Api, serving_api
from tests.api.test_deployments import PATH, removed
from tests.builders import write_tiny_llama
from tests.cluster import Cluster, eventually, eventually_async, temporal
from tests.fakes.collector import Collected, Collector, collecting
from tests.workflows.conftest import cpu_host

pytestmark = pytest.mark.anyio

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


def traceparent(trace: str = TRACE, *, sampled: bool = True) -> dict[str, str]:
    """The header of a client that traces."""
    return {"traceparent": f"00-{trace}-{PARENT}-{'01' if sampled else '00'}"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """For all tests of the module."""
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def tracing(collector: Collector) -> Iterator[Tracing]:
    """The processes' own, which is one here: they all run in this one."""
    made = Tracing(collector.url, "stoker-test")
    yield made
    made.close()


@pytest.fixture(scope="module")
async def cluster(tracing: Tracing, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Control plane and one host, traced."""
    async with temporal() as environment:
        client = Client(**environment.client.config() | {"interceptors": [tracing.interceptor]})
        async with Cluster(client, tmp_path_factory.mktemp("cluster")) as running:
            await running.add_host(cpu_host("w1"))
            yield running


@pytest.fixture(scope="module")
async def api(cluster: Cluster, tracing: Tracing) -> AsyncIterator[Api]:
    """The API of that cluster, traced."""
    async with serving_api(cluster.database, cluster.client, spans=RequestSpans(tracing.tracer)) as running:
        yield running


@pytest.fixture(scope="module")
def tiny_model(cluster: Cluster) -> ModelSource:
    """A model that the host can read and that the engine loads in a blink."""
    return ModelSource.parse(f"file:{write_tiny_llama(cluster.folder / 'tiny.gguf')}")


async def collected(collector: Collector, tracing: Tracing, trace: str, *names: str) -> list[Collected]:
    """The spans of a trace, as soon as those are there."""

    def look() -> list[Collected] | None:
        tracing.flush()
        spans = collector.of_trace(trace)
        return spans if set(names) <= {span.name for span in spans} else None

    return await eventually(look, lambda: [span.name for span in collector.of_trace(trace)])


async def trace_of(collector: Collector, tracing: Tracing, response: httpx.Response) -> list[Collected]:
    """The spans of the trace that a request without a trace of its own began."""
    path, method = response.request.url.path, response.request.method

    def look() -> Collected | None:
        tracing.flush()
        found = [s for s in collector.spans if s.attributes.get("url.path") == path and s.name.startswith(method)]
        return found[-1] if found else None

    span = await eventually(look, lambda: collector.spans)
    return collector.of_trace(span.trace)


async def test_one_trace_from_the_call_to_the_placement_and_the_process(
    api: Api, cluster: Cluster, tiny_model: ModelSource, collector: Collector, tracing: Tracing
) -> None:
    body = {"name": "traced", "model": str(tiny_model), "replicas": 1}
    made = await api.admin.post(PATH, json=body, headers=traceparent())
    assert made.status_code == 201
    await cluster.instances_in("traced", [InstanceState.RUNNING])
    way = ("POST /api/v1/deployments", "StartUpdateWithStartWorkflow:Deployment", "HandleUpdate:apply")
    way += ("StartChildWorkflow:Instance", "RunWorkflow:Instance", "StartActivity:place", "RunActivity:place")
    spans = {span.name: span for span in await collected(collector, tracing, TRACE, *way)}
    call = spans[way[0]]
    assert (call.parent, call.attributes["http.response.status_code"]) == (PARENT, 201)
    assert call.attributes["http.route"] == PATH
    assert spans["RunActivity:place"].attributes["temporalWorkflowID"].startswith("instance/traced-")
    parents = {span.id: span for span in spans.values()}
    lineage = ["RunActivity:place"]
    while (parent := parents.get(spans[lineage[-1]].parent)) is not None:
        lineage.append(parent.name)
    assert lineage[-1] == way[0], lineage

    # what follows from a change is of the change's own trace
    other = TRACE[::-1]
    changed = await api.admin.patch(f"{PATH}/traced", json={"options": {"slots": 2}}, headers=traceparent(other))
    assert changed.status_code == 200
    await collected(collector, tracing, other, "PATCH /api/v1/deployments/{name}", "HandleUpdate:apply", *way[3:])
    await cluster.instances_in("traced", [InstanceState.RUNNING], generation=2)
    await removed(api, cluster, "traced")
    # an endless activity's span comes when it ends
    ended = await collected(collector, tracing, TRACE, "RunActivity:serve_main")
    assert not any(span.failed for span in ended if span.name.startswith("HandleUpdate"))
    assert {span.trace for span in collector.named("RunActivity:place")} == {TRACE, other}


@pytest.mark.parametrize("traces", [True, False])
async def test_workflows_replay_alike_whether_tracing_is_on_or_was_turned_off(
    cluster: Cluster, tracing: Tracing, traces: bool
) -> None:
    """After the test before this one: its deployment, and both generations of its instance."""
    replayer = Replayer(
        workflows=WORKFLOWS,
        data_converter=pydantic_data_converter,
        workflow_runner=workflow_runner(),
        interceptors=[tracing.interceptor] if traces else [],
    )
    replayed = 0
    async for execution in cluster.client.list_workflows('StokerDeployment = "traced"'):
        history = await cluster.client.get_workflow_handle(execution.id, run_id=execution.run_id).fetch_history()
        assert "_tracer-data" in history.to_json()
        await replayer.replay_workflow(history)
        replayed += 1
    assert replayed >= 3


async def test_what_is_not_sampled_leaves_nothing(
    api: Api, cluster: Cluster, tiny_model: ModelSource, collector: Collector, tracing: Tracing
) -> None:
    trace = "1" * 32
    body = {"name": "unseen", "model": str(tiny_model), "replicas": 1}
    assert (await api.admin.post(PATH, json=body, headers=traceparent(trace, sampled=False))).status_code == 201
    await cluster.instances_in("unseen", [InstanceState.RUNNING])
    await removed(api, cluster, "unseen")
    tracing.flush()
    assert collector.of_trace(trace) == []
    assert "unseen" not in str(collector.named("RunActivity:place"))


async def test_a_question_to_a_model(
    api: Api, cluster: Cluster, tiny_model: ModelSource, collector: Collector, tracing: Tracing
) -> None:
    trace = "2" * 32
    body = {"name": "asked", "model": str(tiny_model), "replicas": 1}
    assert (await api.admin.post(PATH, json=body)).status_code == 201
    (instance,) = await cluster.instances_in("asked", [InstanceState.RUNNING])
    question: dict[str, Any] = {"model": "asked", "prompt": "nobody else reads this", "max_tokens": 4, "stream": True}

    async def ask() -> httpx.Response | None:
        answer = await api.admin.post("/v1/completions", json=question, headers=traceparent(trace))
        return answer if answer.status_code == 200 else None

    answer = await eventually_async(ask, "an answer")
    assert "[DONE]" in answer.text
    spans = await collected(collector, tracing, trace, "text_completion asked")
    span = next(span for span in spans if span.name == "text_completion asked" and not span.failed)
    call = next(one for one in spans if one.id == span.parent)
    assert (call.name, call.parent) == ("POST /v1/completions", PARENT)
    assert call.attributes["http.response.status_code"] == 200
    first = span.attributes.pop("gen_ai.response.time_to_first_chunk")
    assert 0 < first <= (span.end - span.begin) / 1e9
    assert span.attributes.pop("gen_ai.usage.input_tokens") > 0
    span.attributes.pop("gen_ai.usage.cache_read.input_tokens")
    assert span.attributes == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "stoker",
        "gen_ai.request.model": "asked",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "asked",
        "gen_ai.usage.output_tokens": 4,
        "stoker.instance": instance.instance_id,
    }
    assert "nobody else reads this" not in str(collector.spans)
    await removed(api, cluster, "asked")


async def test_a_question_that_reaches_no_model(api: Api, collector: Collector, tracing: Tracing) -> None:
    trace = "3" * 32
    answer = await api.admin.post(
        "/v1/completions", json={"model": "nobody", "prompt": "x"}, headers=traceparent(trace)
    )
    assert answer.status_code == 404
    (span,) = await collected(collector, tracing, trace, "POST")
    assert (span.attributes["http.response.status_code"], span.attributes["url.path"]) == (404, "/v1/completions")
    assert not span.failed, "the fault is the client's"


async def test_what_begins_here_is_recorded_and_routine_is_not(
    api: Api, collector: Collector, tracing: Tracing
) -> None:
    assert (await api.anyone.get("/livez")).status_code == 200
    assert (await api.anyone.post("/api/v1/workers/w1/report", json={})).status_code == 422
    missing = await api.admin.get(f"{PATH}/nobody")
    (span,) = await trace_of(collector, tracing, missing)
    assert (span.name, span.parent) == ("GET /api/v1/deployments/{name}", "")
    assert span.attributes["http.response.status_code"] == 404
    paths = {span.attributes.get("url.path") for span in collector.spans}
    assert not paths & {"/livez", "/api/v1/workers/w1/report"}


async def test_a_key_that_is_typed_as_an_id_is_in_no_span(api: Api, collector: Collector, tracing: Tracing) -> None:
    trace = "4" * 32
    await api.admin.delete("/api/v1/keys/sk-stoker-0123456789ab-secret", headers=traceparent(trace))
    (span,) = await collected(collector, tracing, trace, "DELETE /api/v1/keys/{key_id}")
    assert span.attributes["url.path"] == "/api/v1/keys/sk-stoker-0123456789ab-[redacted]"


@pytest.mark.parametrize("header", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", "\xff" * 300])
async def test_a_header_that_names_no_trace(api: Api, header: str) -> None:
    answer = await api.admin.get(f"{PATH}/nobody", headers={b"traceparent": header.encode("latin-1")})
    assert answer.status_code == 404
