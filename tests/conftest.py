"""Fixtures for every test: no network but loopback, running gateways over fakes, databases of both kinds."""

from __future__ import annotations

import ipaddress
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.database import connect, migrate
from tests.fakes.house import BASE, House, open_house
from tests.fakes.serving import Background, eventually
from tests.fakes.vllm import FakeVLLM

_POSTGRES = "postgresql://postgres@127.0.0.1:5432"


def _stay_on_loopback(event: str, arguments: tuple[object, ...]) -> None:
    if event != "socket.connect":
        return
    address = arguments[1]
    if not isinstance(address, tuple):
        return  # a path: Unix sockets go nowhere
    host = str(address[0])
    try:
        inside = ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = host == "localhost"
    if not inside:
        raise PermissionError(f"a test tried to reach {address}: tests stay on loopback")


def pytest_configure() -> None:
    """From here on this process connects to loopback only. An audit hook can't be taken back, nor need be."""
    sys.addaudithook(_stay_on_loopback)


@pytest.fixture(scope="session")
def background() -> Iterator[Background]:
    """The loop on which fake engines live."""
    loop = Background()
    yield loop
    loop.close()


@pytest.fixture
def start_vllm(background: Background) -> Iterator[Callable[..., FakeVLLM]]:
    """Starts fake vLLM servers that end with the test."""
    with ExitStack() as stack:

        def start(**options: object) -> FakeVLLM:
            engine = FakeVLLM(**options)
            background.run(engine.start())
            stack.callback(lambda: background.run(engine.stop()))
            return engine

        yield start


def _entry(engine: FakeVLLM, name: str) -> dict[str, object]:
    return {"kind": "vllm", "name": name, "base_model": engine.base_model, "url": engine.url}


@pytest.fixture(scope="session")
def _shared_vllm(background: Background) -> Iterator[FakeVLLM]:
    engine = FakeVLLM()
    background.run(engine.start())
    yield engine
    background.run(engine.stop())


@pytest.fixture(scope="session")
def _shared_house(_shared_vllm: FakeVLLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = open_house(tmp_path_factory.mktemp("house"), [_entry(_shared_vllm, "one")])
    house.server.until_ready()
    yield house
    house.server.close()


@pytest.fixture
def engine(_shared_vllm: FakeVLLM) -> FakeVLLM:
    """The fake engine behind `house`, well and with an empty memory."""
    _shared_vllm.reset()
    return _shared_vllm


@pytest.fixture
def house(_shared_house: House, engine: FakeVLLM) -> Iterator[House]:
    """A running gateway over one fake vLLM, shared by the session; after each test nothing is left in flight."""
    _shared_house.server.until_ready()
    yield _shared_house
    engine.reset()
    eventually(lambda: _shared_house.server.inflight == 0, what="an empty pool")
    eventually(lambda: engine.running == 0, what="an idle engine")


@pytest.fixture
def make_house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    """Opens gateways of a test's own over fake engines; they close with the test."""
    with ExitStack() as stack:

        def make(*engines: FakeVLLM, ready: bool = True, **options: object) -> House:
            entries = [_entry(engine, f"engine-{n}") | options for n, engine in enumerate(engines, 1)]
            house = open_house(tmp_path / f"house-{uuid.uuid4().hex[:6]}", entries)
            stack.callback(house.server.close)
            if ready:
                house.server.until_ready()
            return house

        yield make


@pytest.fixture(scope="session")
def echo_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A running gateway over the product's own echo engine."""
    entry = {"kind": "echo", "name": "echo", "base_model": BASE}
    house = open_house(tmp_path_factory.mktemp("echo"), [entry])
    house.server.until_ready()
    yield house
    house.server.close()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """An empty PostgreSQL database of this session's own. Without a server: skip, but fail where CI is set."""
    base = os.environ.get("REPERTORY_TEST_POSTGRES", _POSTGRES)
    admin = sa.create_engine(
        sa.make_url(base).set(drivername="postgresql+psycopg", database="postgres"),
        isolation_level="AUTOCOMMIT",
        connect_args={"connect_timeout": 5},
    )
    name = f"repertory_test_{uuid.uuid4().hex[:12]}"
    try:
        with admin.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
    except sa.exc.OperationalError as error:
        admin.dispose()
        reason = f"no PostgreSQL at {base} (set REPERTORY_TEST_POSTGRES): {error.orig}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    yield sa.make_url(base).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database without tables, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    url: str = request.getfixturevalue("postgres_url")
    engine = connect(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    engine.dispose()
    return url


@pytest.fixture
def db(empty_url: str) -> Iterator[sa.Engine]:
    """A migrated database, once of each kind."""
    engine = connect(empty_url)
    migrate(engine)
    yield engine
    engine.dispose()
