"""Engines on other hosts: the pool's connections through their gateways."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from api.agents import WAY, agents_client
from api.openai.connection import ClosedError, ConnectError
from api.openai.upstream import Pool
from stoker.certificates import Authority
from stoker.mesh.identity import MeshIdentity
from stoker.mesh.ways import GatewayService
from stoker.mesh.wire import SERVER
from tests.api.openai.recordings import recorded, recorded_body
from tests.api.openai.serving import until
from tests.fakes.engine import FakeEngine, Gate, Hang, Send, answer
from tests.worker_agent.mesh.cluster import Gateway, Mesh
from tests.worker_agent.mesh.folders import NOW, revoke

pytestmark = pytest.mark.anyio
SERVICE = "main/chat-x.1"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with ExitStack() as stack:
        yield Mesh(tmp_path_factory.mktemp("mesh"), stack)


@pytest.fixture(scope="module")
def gateway(mesh: Mesh) -> Gateway:
    return mesh.gateway("w2", host="127.0.0.2")


@pytest.fixture(scope="module")
def server(mesh: Mesh) -> Path:
    """The folder of the API's identity."""
    return mesh.member("server")


@pytest.fixture
async def pool(server: Path) -> AsyncIterator[Pool]:
    pool = Pool(MeshIdentity(server))
    yield pool
    await pool.aclose()
    assert pool.open_connections == 0


async def granted(gateway: Gateway, engine: FakeEngine, pool: Pool) -> GatewayService:
    """The way to an engine, as soon as the gateway knows of it."""
    way = GatewayService(gateway.host, gateway.port, "w2", SERVICE)
    gateway.grants.withdraw(SERVICE)

    async def is_granted() -> bool:
        try:
            connection = await pool.connect(way, 5)
        except ConnectError:
            return False
        connection.close()
        return True

    async with asyncio.timeout(30):
        while await is_granted():  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.05)
        gateway.grants.grant(SERVICE, engine.address[1], [SERVER])
        while not await is_granted():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return way


async def test_a_request_and_its_answer_go_through(gateway: Gateway, pool: Pool) -> None:
    async with FakeEngine([Send(recorded("chat"))]) as engine:
        way = await granted(gateway, engine, pool)
        for _ in range(5):
            exchange = pool.exchange(way, "POST", "/v1/chat/completions", [(b"authorization", b"Bearer k")], b"{}")
            await exchange.start()
            assert await exchange.read_all(10_000) == recorded_body("chat")
            assert pool.open_connections == 1, "it is kept, as any other"
        assert engine.requests[-1].headers["authorization"] == "Bearer k"


async def test_a_large_body_and_a_large_answer(gateway: Gateway, pool: Pool) -> None:
    large = bytes(range(256)) * 32_768  # 8 MiB
    async with FakeEngine([Send(answer(large))]) as engine:
        way = await granted(gateway, engine, pool)
        exchange = pool.exchange(way, "POST", "/", [], large)
        await exchange.start()
        assert await exchange.read_all(len(large)) == large
        assert engine.requests[-1].body == large


async def test_giving_up_is_felt_by_the_engine(gateway: Gateway, pool: Pool) -> None:
    async with FakeEngine([Hang()]) as engine:
        way = await granted(gateway, engine, pool)
        exchange = pool.exchange(way, "POST", "/")
        starting = asyncio.create_task(exchange.start())
        await until(lambda: bool(engine.requests))
        exchange.abort()
        await asyncio.gather(starting, return_exceptions=True)
        await engine.until(lambda it: it.gone > 0)


async def test_a_withdrawn_engine_ends_what_runs(gateway: Gateway, pool: Pool) -> None:
    async with FakeEngine([Gate()]) as engine:
        way = await granted(gateway, engine, pool)
        exchange = pool.exchange(way, "POST", "/")
        starting = asyncio.create_task(exchange.start())
        await until(lambda: bool(engine.requests))
        gateway.grants.withdraw(SERVICE)
        async with asyncio.timeout(10):
            with pytest.raises(ClosedError):
                await starting


async def test_what_is_not_granted_was_never_asked(gateway: Gateway, pool: Pool) -> None:
    way = GatewayService(gateway.host, gateway.port, "w2", "main/other.1")
    with pytest.raises(ConnectError, match=r"the gateway of w2 refuses main/other\.1: no such service for you"):
        await pool.exchange(way, "POST", "/").start()


async def test_another_workers_gateway_is_not_taken(gateway: Gateway, pool: Pool) -> None:
    way = GatewayService(gateway.host, gateway.port, "w3", SERVICE)
    with pytest.raises(ConnectError, match="is another's: its certificate names worker/w2"):
        await pool.exchange(way, "POST", "/").start()


async def test_a_revoked_gateway_is_not_taken(gateway: Gateway, mesh: Mesh, server: Path) -> None:
    revoke(server, mesh.serials["worker/w2"])
    pool = Pool(MeshIdentity(server))
    try:
        with pytest.raises(ConnectError, match="shows a certificate that was revoked"):
            await pool.exchange(GatewayService(gateway.host, gateway.port, "w2", SERVICE), "POST", "/").start()
    finally:
        revoke(server)
        await pool.aclose()


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        ("stranger", "do not know each other|closed the connection"),
        ("believes another authority", "do not know each other: CERTIFICATE_VERIFY_FAILED"),
        ("nobody yet", "there is no certificate in"),
        ("none", "no identity that a gateway would know"),
    ],
)
async def test_without_an_identity_that_holds_nothing_is_reached(
    gateway: Gateway, mesh: Mesh, tmp_path: Path, who: str, reason: str
) -> None:
    other = Mesh(tmp_path, ExitStack())
    folders = {
        "stranger": lambda: other.member("server", authority=other.authority, known=mesh.authority),
        "believes another authority": lambda: other.member(
            "server", authority=mesh.authority, known=Authority.new(NOW)
        ),
        "nobody yet": lambda: tmp_path / "empty",
    }
    pool = Pool(MeshIdentity(folders[who]()) if who in folders else None)
    with pytest.raises(ConnectError, match=reason):
        await pool.exchange(GatewayService(gateway.host, gateway.port, "w2", SERVICE), "POST", "/").start()
    await pool.aclose()
    assert pool.open_connections == 0


async def test_a_host_that_is_away(pool: Pool) -> None:
    way = GatewayService("127.0.0.2", 1, "w2", SERVICE)
    with pytest.raises(ConnectError, match=r"the gateway of w2 \(127\.0\.0\.2:1\) cannot be reached"):
        await pool.exchange(way, "POST", "/").start()


async def test_agents_are_asked_the_same_way(gateway: Gateway, pool: Pool) -> None:
    async with FakeEngine([Send(answer(b"line\n"))]) as agent:
        through = await granted(gateway, agent, pool)
        async with agents_client(pool) as client:
            for way in (through, agent.address):
                found = await client.get(
                    "http://agent/logs/chat-x",
                    params={"tail": 3},
                    headers={"authorization": "k"},
                    extensions={WAY: way},
                )
                assert (found.status_code, found.text) == (200, "line\n")
                assert agent.requests[-1].path == "/logs/chat-x?tail=3"
                assert agent.requests[-1].headers["authorization"] == "k"
            with pytest.raises(httpx.ConnectError, match=r"main/other\.1"):
                await client.get("http://agent/", extensions={WAY: through._replace(service="main/other.1")})
