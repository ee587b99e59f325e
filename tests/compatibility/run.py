"""Runs every client's program against a running Stoker, and writes docs/compatibility.md.

    python -m tests.compatibility.run [NAME ...] [--folder .build/compatibility]

With names, only those clients run, and the others' rows stay as they were found last. The clients come from PyPI and
npm, as they are published today, each Python one into an environment of its own. The exit code is 1 where a check
failed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from entrypoints.demo.model import fetch_demo_model
from tests.compatibility.table import CLIENTS, DOCUMENT, ROWS, Client, Outcome, document
from tests.compatibility.tool_model import write_tool_model
from tests.e2e.system import System, running_system

REPOSITORY = Path(__file__).parents[2]
MODEL, TOOL_MODEL, EMBEDDING_MODEL, AGENT_MODEL = "smollm2", "smollm2-tools", "smollm2-embeddings", "smollm2-agent"
AGENT_CONTEXT = 49152  # tokens
PROGRAM_SECONDS = 1200
INSTALL_SECONDS = 600


class Environments:
    """Where the clients are installed."""

    def __init__(self, folder: Path) -> None:
        self.node = folder / "node"
        self._folder = folder
        own = REPOSITORY / ".build" / "uv" / "bin" / "uv"
        self._uv = shutil.which("uv") or str(own)

    def install(self, row: Client) -> str:
        """Installs the newest version of a client's packages; returns the client's."""
        return self._install_node(row) if row.in_node else self._install_python(row)

    def command(self, row: Client) -> list[str]:
        """What runs a client's program."""
        if row.program.endswith(".py"):
            python = sys.executable if row.in_node else str(self._python(row))
            return [python, str(CLIENTS / row.program)]
        for module in CLIENTS.glob("*.mjs"):  # modules are looked for beside the program
            shutil.copy(module, self.node)
        return ["node", row.program]

    def _python(self, row: Client) -> Path:
        return self._folder / row.package / "bin" / "python"

    def _install_python(self, row: Client) -> str:
        python = self._python(row)
        if not python.exists():
            _run(self._uv, "venv", "--quiet", "--python", sys.executable, str(python.parent.parent))
        packages = [row.package, *row.packages]
        _run(self._uv, "pip", "install", "--quiet", "--upgrade", "--python", str(python), *packages)
        told = f"import importlib.metadata; print(importlib.metadata.version({row.package!r}))"
        return _run(str(python), "-c", told).strip()

    def _install_node(self, row: Client) -> str:
        self.node.mkdir(parents=True, exist_ok=True)
        description = self.node / "package.json"
        if not description.exists():
            description.write_text('{"private": true, "type": "module"}')
        latest = [f"{package}@latest" for package in (row.package, *row.packages)]
        _run("npm", "install", "--no-audit", "--no-fund", "--no-update-notifier", "--silent", *latest, folder=self.node)
        found = json.loads((self.node / "node_modules" / row.package / "package.json").read_text())
        return str(found["version"])


def _run(*command: str, folder: Path | None = None) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return done.stdout


def deploy(system: System, models: Path, rows: list[Client]) -> None:
    """Has the models run that the rows ask."""
    plain, tools = fetch_demo_model(), models / "smollm2-tools.gguf"
    agents = [row for row in rows if row.package.startswith("@")]
    if agents:
        # all that an agent says about itself and its tools before the first word; one slot, so that it has all of it;
        # and the engine gives a sign of life after each piece of a long prompt
        options = {"context_length": AGENT_CONTEXT, "slots": 1, "batch": 256, "micro_batch": 256}
        body = {"name": AGENT_MODEL, "model": f"file:{models / 'smollm2-agent.gguf'}", "options": options}
        with system.api() as api:
            answer = api.post("/deployments", json=body)
            assert answer.is_success, answer.text
        system.running(AGENT_MODEL)
    if len(agents) < len(rows):
        system.cli("deploy", MODEL, "--model", f"file:{plain}", "--context", "4096")
        system.cli("deploy", TOOL_MODEL, "--model", f"file:{tools}", "--context", "4096")
        system.cli("deploy", EMBEDDING_MODEL, "--model", f"file:{plain}", "--context", "512", "--embeddings")


def ask(row: Client, environments: Environments, system: System) -> Outcome:
    """Installs a client and runs its program."""
    version = environments.install(row)
    environment = os.environ | {
        "STOKER_BASE_URL": system.url,
        "STOKER_API_KEY": system.admin_key,
        "STOKER_MODEL": MODEL,
        "STOKER_TOOL_MODEL": TOOL_MODEL,
        "STOKER_EMBEDDING_MODEL": EMBEDDING_MODEL,
        "STOKER_AGENT_MODEL": AGENT_MODEL,
        "STOKER_NODE_FOLDER": str(environments.node),
    }
    process = subprocess.Popen(
        environments.command(row),
        cwd=environments.node if row.program.endswith(".mjs") else None,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said, errors = process.communicate(timeout=PROGRAM_SECONDS)
    finally:
        process.terminate()  # not killed: it ends what it started
        process.wait()
    found = [json.loads(line) for line in said.splitlines() if line.startswith('{"check":')]
    failed = [f"{each['check']}: {each['note']}" for each in found if each["result"] == "failed"]
    if process.returncode or not found:
        failed.append(f"the program ended with {process.returncode}: {(errors or said)[-500:]}")
    return Outcome(
        version,
        passed=sum(each["result"] == "passed" for each in found),
        limited=tuple(f"{each['check']} ({each['note']})" for each in found if each["result"] == "limited"),
        failed=tuple(" ".join(each.split()) for each in failed),
    )


class Kept:
    """What was found last, for each client."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.outcomes: dict[str, Outcome] = {}
        if path.exists():
            self.outcomes = {name: Outcome.read(found) for name, found in json.loads(path.read_text()).items()}

    def keep(self, name: str, outcome: Outcome) -> None:
        """Another outcome."""
        self.outcomes[name] = outcome
        self._path.write_text(json.dumps({name: asdict(outcome) for name, outcome in self.outcomes.items()}, indent=1))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="clients, as the table names them; all of them where none is named")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".build" / "compatibility")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - {row.name for row in ROWS}:
        parser.error(f"no such client: {', '.join(sorted(unknown))}; there are {', '.join(row.name for row in ROWS)}")
    rows = [row for row in ROWS if row.name in chosen.names or not chosen.names]
    models = chosen.folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    write_tool_model(fetch_demo_model(), models / "smollm2-tools.gguf")
    write_tool_model(fetch_demo_model(), models / "smollm2-agent.gguf", AGENT_CONTEXT)
    data = chosen.folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    folders = ["--model-dir", str(models), "--model-dir", str(fetch_demo_model().parent)]
    kept = Kept(chosen.folder / "outcomes.json")
    outcomes: dict[str, Outcome] = {}
    with running_system(data, *folders) as system:
        deploy(system, models, rows)
        environments = Environments(chosen.folder)
        for row in rows:
            outcomes[row.name] = outcome = ask(row, environments, system)
            kept.keep(row.name, outcome)
            print(f"{row.name} {outcome.version}: {outcome.passed} passed", flush=True)
            for kind, names in (("limited", outcome.limited), ("failed", outcome.failed)):
                for name in names:
                    print(f"  {kind}: {name}", flush=True)
    if missing := [row.name for row in ROWS if row.name not in kept.outcomes]:
        print(f"The document stays as it is until these have run too: {', '.join(missing)}")
    else:
        DOCUMENT.write_text(document(kept.outcomes))
    failed = sum(len(outcome.failed) for outcome in outcomes.values())
    print(json.dumps({"clients": len(outcomes), "failed": failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
