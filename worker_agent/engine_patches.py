"""What our build of llama.cpp changes in its source: as little as can be, each change with its reason."""

from pathlib import Path

from stoker.domain.base import Value
from worker_agent.engine_options import EngineInstallError


class Patch(Value):
    """One text in one file of the source, which stands there exactly once, and what takes its place."""

    file: str  # from the source's folder
    before: str
    after: str


_WAIT = "condition_results.wait_for(lock, std::chrono::seconds(timeout))"
_QUEUE = "tools/server/server-queue.cpp"

PATCHES = (
    # Whether a client has gone is looked up when a wait of `timeout` seconds ends with nothing. Each result for another
    # client begins that wait anew: beside a stream, whoever asked for an answer in one piece held its slot to the end.
    # Now the wait has one deadline, and a second is two looks.
    Patch(
        file=_QUEUE,
        before="const std::unordered_set<int> & id_tasks, int timeout) {\n    while (true) {\n",
        after="const std::unordered_set<int> & id_tasks, int timeout) {\n"
        "    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(500 * timeout);\n"
        "    while (true) {\n",
    ),
    Patch(file=_QUEUE, before=_WAIT, after="condition_results.wait_until(lock, deadline)"),
)


def apply_patches(source: Path, patches: tuple[Patch, ...] = PATCHES) -> None:
    """Changes the source. Raises EngineInstallError where it is not the source that the patches were made for."""
    for patch in patches:
        path = source / patch.file
        text = path.read_text() if path.is_file() else ""
        if (found := text.count(patch.before)) != 1:
            raise EngineInstallError(f"the source's {patch.file} has {found} places for our change, not one")
        path.write_text(text.replace(patch.before, patch.after))
