"""`/api/v1/workers/{name}/certificate`, and what a report's answer says of the revoked."""

import asyncio

import httpx
import pytest
import structlog

from api.routes.certificates import MOST_LIVING
from stoker.certificates import CertificateFacts, check_issued, new_key_and_request, worker_holder
from stoker.domain.reports import CertificateAnswer, CertificateRequest, ReportAnswer
from stoker.storage.certificates import Certificates
from stoker.storage.removal import remove_worker
from tests.api.serving import JOIN_TOKEN, Api
from tests.api.test_deployments import problem_of
from tests.builders import make_worker

pytestmark = pytest.mark.anyio


async def ask(api: Api, name: str, request: str, credential: str = "") -> httpx.Response:
    """As an agent asks for a certificate."""
    return await api.anyone.post(
        f"/api/v1/workers/{name}/certificate",
        json=CertificateRequest(request=request).model_dump(),
        headers={"authorization": f"Bearer {credential or api.credentials.get(name, '')}"},
    )


async def certified(api: Api, name: str) -> CertificateFacts:
    """A certificate of a worker that has joined."""
    key, request = new_key_and_request(worker_holder(name))
    response = (await ask(api, name, request)).raise_for_status()
    answer = CertificateAnswer.model_validate_json(response.content)
    assert answer.authority == api.context.authority.certificate
    return check_issued(answer.certificate, authority_pem=answer.authority, key_pem=key, holder=worker_holder(name))


async def revoked(api: Api, name: str) -> tuple[str, ...]:
    """Who is revoked, as a worker is told."""
    response = (await api.report(make_worker(name=name))).raise_for_status()
    return ReportAnswer.model_validate_json(response.content).revoked


async def test_a_worker_gets_a_certificate_of_its_own_name_and_no_other(lone_api: Api) -> None:
    await lone_api.join(make_worker(name="cert-1"))
    facts = await certified(lone_api, "cert-1")
    assert facts.holder == "worker/cert-1"
    _, for_other = new_key_and_request("server")
    answer = CertificateAnswer.model_validate_json((await ask(lone_api, "cert-1", for_other)).content)
    assert "stoker://" not in answer.certificate
    again = await certified(lone_api, "cert-1")
    assert again.serial != facts.serial
    assert await revoked(lone_api, "cert-1") == (), "a renewal revokes nothing"


async def test_it_is_for_who_has_the_workers_credential(lone_api: Api) -> None:
    for name in ("cert-mine", "cert-other"):
        await lone_api.join(make_worker(name=name))
    _, request = new_key_and_request("worker/cert-mine")
    key = lone_api.admin.headers["authorization"].removeprefix("Bearer ")
    for wrong in (lone_api.credentials["cert-other"], JOIN_TOKEN, key, "nonsense"):
        problem_of(await ask(lone_api, "cert-mine", request, wrong), 401, "worker_replaced")
    problem_of(await ask(lone_api, "cert-nobody", request, "nonsense"), 401, "unauthorized")


@pytest.mark.parametrize("request_pem", ["", "nonsense", "x" * 9000])
async def test_what_is_no_request_is_refused_in_words(lone_api: Api, request_pem: str) -> None:
    await lone_api.join(make_worker(name="cert-wrong"))
    problem = problem_of(await ask(lone_api, "cert-wrong", request_pem), 422, "invalid_request")
    assert [error.field for error in problem.errors] == ["request"]
    assert "request" in problem.detail


async def test_an_agent_that_asks_without_end_is_told_to_stop(lone_api: Api) -> None:
    await lone_api.join(make_worker(name="cert-many"))
    context, holder = lone_api.context, worker_holder("cert-many")
    _, request = new_key_and_request(holder)
    with context.database.write() as session:
        now = context.clock()
        for _ in range(MOST_LIVING - 1):
            Certificates(session, now).add(holder, context.authority.issue(request, holder, now))
    assert (await ask(lone_api, "cert-many", request)).status_code == 200
    problem = problem_of(await ask(lone_api, "cert-many", request), 429, "too_many_certificates")
    assert "'cert-many' has 64 certificates" in problem.detail
    await lone_api.join(make_worker(name="cert-few"))
    await certified(lone_api, "cert-few")


async def test_all_workers_are_told_who_is_revoked_and_one_that_was_gets_nothing(lone_api: Api) -> None:
    for name in ("cert-stays", "cert-goes"):
        await lone_api.join(make_worker(name=name))
        await certified(lone_api, name)
    first, second = [await certified(lone_api, "cert-goes") for _ in range(2)]
    before = set(await revoked(lone_api, "cert-stays"))

    def remove() -> None:
        with lone_api.context.database.claiming() as session:
            remove_worker(session, lone_api.context.clock(), "cert-goes", force=False)

    await asyncio.to_thread(remove)
    news = set(await revoked(lone_api, "cert-stays")) - before
    assert {first.serial, second.serial} < news
    assert len(news) == 3
    _, request = new_key_and_request("worker/cert-goes")
    problem = problem_of(await ask(lone_api, "cert-goes", request), 401, "worker_removed")
    assert "'cert-goes' was removed from this cluster" in problem.detail
    problem_of(await lone_api.report(make_worker(name="cert-goes")), 401, "worker_removed")

    await lone_api.join(make_worker(name="cert-goes"))  # by whoever has a token
    back = await certified(lone_api, "cert-goes")
    assert back.serial not in await revoked(lone_api, "cert-goes")


async def test_one_that_was_removed_before_it_had_a_certificate_is_told_so(lone_api: Api) -> None:
    await lone_api.join(make_worker(name="cert-none"))

    def remove() -> None:
        with lone_api.context.database.claiming() as session:
            remove_worker(session, lone_api.context.clock(), "cert-none", force=False)

    await asyncio.to_thread(remove)
    problem_of(await lone_api.report(make_worker(name="cert-none")), 401, "worker_removed")


async def test_no_key_is_logged(lone_api: Api) -> None:
    await lone_api.join(make_worker(name="cert-quiet"))
    with structlog.testing.capture_logs() as logged:
        facts = await certified(lone_api, "cert-quiet")
    (entry,) = (entry for entry in logged if entry["event"] == "certificate_issued")
    assert (entry["worker"], entry["serial"]) == ("cert-quiet", facts.serial)
    assert "PRIVATE" not in str(logged)
