"""cmake and ninja: progress, the log, and what is said when they break."""

import time
from pathlib import Path

import pytest

from tests.worker_agent.fake_build import NINJA, fake_sdist, fake_tools, has_ended
from worker_agent.engine_build import build, build_environment, explain_failure
from worker_agent.engine_options import TARGETS, EngineInstallError
from worker_agent.engine_source import BuildTools, unpack_source


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Unpacked source."""
    return unpack_source(fake_sdist(tmp_path), tmp_path / "llama.cpp")


def run(
    tools: BuildTools, source: Path, folder: Path, silent_seconds: float = 60.0
) -> tuple[Path, list[tuple[int, int]]]:
    """A build in `folder`; where its programs are, and the steps that were told."""
    steps: list[tuple[int, int]] = []
    programs = build(
        tools,
        source,
        folder / "build",
        flags=["-DX=1"],
        jobs=3,
        log_path=folder / "log",
        report=lambda done, total: steps.append((done, total)),
        silent_seconds=silent_seconds,
    )
    return programs, steps


def test_a_build_tells_its_steps_and_leaves_programs_and_a_log(source: Path, tmp_path: Path) -> None:
    programs, steps = run(fake_tools(tmp_path), source, tmp_path)
    assert {path.name for path in programs.iterdir()} == set(TARGETS)
    assert steps == [(1, 3), (2, 3), (3, 3)]
    log = (tmp_path / "log").read_text()
    assert log.startswith("-- Configuring done\n[1/3] Building")
    assert "-DX=1" in (tmp_path / "build" / "arguments").read_text()


def test_ninja_is_told_jobs_and_targets(source: Path, tmp_path: Path) -> None:
    run(fake_tools(tmp_path, ninja=NINJA + 'echo "arguments: $@"\n'), source, tmp_path)
    assert f"-j 3 {' '.join(TARGETS)}" in (tmp_path / "log").read_text()


BROKEN = """#!/bin/sh
echo "[1/9] Building CXX object a.o"
echo "FAILED: b.o"
echo "b.cpp:7:1: error: 'nonsense' does not name a type"
echo "b.cpp:9:1: error: and so on"
echo "ninja: build stopped: subcommand failed."
exit 1
"""


def test_a_broken_build_names_its_first_error_and_the_log(source: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineInstallError) as raised:
        run(fake_tools(tmp_path, ninja=BROKEN), source, tmp_path)
    lines = str(raised.value).splitlines()
    assert lines[0] == "the build broke (ninja ended with 1): b.cpp:7:1: error: 'nonsense' does not name a type"
    assert lines[-2:] == ["  ninja: build stopped: subcommand failed.", f"The whole log: {tmp_path / 'log'}"]
    assert "error: and so on" in (tmp_path / "log").read_text()


def test_a_source_that_cmake_refuses(source: Path, tmp_path: Path) -> None:
    cmake = "#!/bin/sh\necho 'CMake Error at CMakeLists.txt:2 (project):'\necho '  No CMAKE_CXX_COMPILER'\nexit 1\n"
    with pytest.raises(EngineInstallError, match=r"cmake ended with 1\): CMake Error at CMakeLists\.txt:2"):
        run(fake_tools(tmp_path, cmake=cmake), source, tmp_path)


def test_a_tool_that_cannot_be_run(source: Path, tmp_path: Path) -> None:
    tools = fake_tools(tmp_path)
    tools.ninja.chmod(0o644)
    with pytest.raises(EngineInstallError, match=r"ninja cannot be run: Permission denied"):
        run(tools, source, tmp_path)


SILENT = """#!/bin/sh
sleep 600 & echo "[1/2] pid $!"
wait
"""


def test_a_build_that_says_nothing_is_ended_with_all_its_processes(source: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineInstallError, match="it printed nothing for 0 s"):
        run(fake_tools(tmp_path, ninja=SILENT), source, tmp_path, silent_seconds=0.3)
    assert_gone(tmp_path)


def test_ctrl_c_ends_the_compilers_too(source: Path, tmp_path: Path) -> None:
    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(
            fake_tools(tmp_path, ninja=SILENT),
            source,
            tmp_path / "build",
            flags=[],
            jobs=1,
            log_path=tmp_path / "log",
            report=interrupt,
        )
    assert_gone(tmp_path)


def assert_gone(folder: Path) -> None:
    """The process that SILENT started ends."""
    pid = int((folder / "log").read_text().split("pid ")[1])
    deadline = time.monotonic() + 10
    while not has_ended(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_output_without_line_ends_does_not_stop_a_build(source: Path, tmp_path: Path) -> None:
    tools = fake_tools(tmp_path, ninja=NINJA + "head -c 300000 /dev/zero | tr '\\0' x; printf '\\377 last'\n")
    run(tools, source, tmp_path)
    assert (tmp_path / "log").read_text().endswith("\ufffd last")


@pytest.mark.parametrize(
    ("lines", "first", "advice"),
    [
        (["[1/2] x", "a.cpp:1: fatal error: foo.h: No such file"], "a.cpp:1: fatal error: foo.h: No such file", ""),
        (["ld: cannot find -lcuda", "collect2: error: ld"], "ld: cannot find -lcuda", ""),
        (
            ["g++: fatal error: Killed signal terminated program cc1plus"],
            "g++: fatal error: Killed signal terminated program cc1plus",
            "try --jobs 1",
        ),
        (["a.s: error: No space left on device"], "error: No space left on device", "The disk is full"),
        (
            [
                "CMake Error at /x/Test.cmake:65 (message):",
                "  The C compiler",
                "",
                '    "/bin/false"',
                "-- Bye",
                "  no",
            ],
            'CMake Error at /x/Test.cmake:65 (message): The C compiler "/bin/false"',
            "",
        ),
        (["[5/9] Building error.cpp.o -DERROR_COUNT=1"], "", ""),
        ([], "", "The log is empty."),
    ],
)
def test_what_is_said_of_a_failure(lines: list[str], first: str, advice: str) -> None:
    text = explain_failure(lines, "ninja ended with 1", Path("/logs/x.log"))
    head, *rest = text.splitlines()
    assert head.endswith(first) if first else head == "the build broke (ninja ended with 1)"
    assert advice in "\n".join(rest)
    assert rest[-1] == "The whole log: /logs/x.log"


def test_a_long_log_is_shown_by_its_end() -> None:
    text = explain_failure([f"line {number} {'x' * 1000}" for number in range(1000)], "it ended", Path("/l"))
    assert len(text) < 6000
    assert "line 999" in text
    assert "line 900" not in text


def test_the_environment_cannot_change_what_is_built_and_holds_no_secret(tmp_path: Path) -> None:
    given = {
        "PATH": "/bin",
        "CXX": "clang++",
        "CMAKE_CXX_FLAGS": "-march=native",
        "NINJA_STATUS": "x",
        "PYTHONPATH": "/x",
        "CUDACXX": "/cuda/bin/nvcc",
        "https_proxy": "http://proxy",
        "HF_TOKEN": "secret",
        "STOKER_WORKER__JOIN_TOKEN": "secret",
    }
    made = build_environment(given, tmp_path)
    assert made == {
        "PATH": "/bin",
        "CXX": "clang++",
        "CUDACXX": "/cuda/bin/nvcc",
        "https_proxy": "http://proxy",
        "NINJA_STATUS": "[%f/%t] ",
        "LC_ALL": "C",
        "GIT_CEILING_DIRECTORIES": str(tmp_path),
    }
