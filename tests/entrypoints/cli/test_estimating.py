"""`stoker estimate`: read here, without a server; only a file that is elsewhere is asked for there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.errors import ProblemError
from tests.builders import write_tiny_llama
from tests.entrypoints.cli.conftest import Stoker, StokerProcess
from tests.fakes.api import FakeApi
from tests.fakes.hub import FakeHub
from tests.fakes.web import FakeWeb
from tests.stoker.test_local_models import write_projector

PATH = "/api/v1/estimates"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "tiny.gguf", layers=3, head_size=32)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    folder = tmp_path / "hub" / "acme" / "tiny"
    folder.mkdir(parents=True)
    write_tiny_llama(folder / "tiny-F16.gguf", max_tensors_per_file=8)
    with FakeHub(tmp_path / "hub") as running:
        yield running


def hub_settings(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), **quiet}


def answer(stoker: Stoker, *arguments: str) -> dict[str, Any]:
    done = stoker("estimate", *arguments, "-o", "json")
    assert done.exit_code == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    return read


def test_a_path_is_read_here(api: FakeApi, stoker: Stoker, model: Path) -> None:
    read = answer(stoker, str(model))
    assert set(read) == {"model", "options", "devices", "host", "caution", "savings"}
    assert read["model"] | {"files": None} == {
        "source": f"file:{model}",
        "revision": None,
        "name": "Tiny",
        "architecture": "llama",
        "file_type": "F16",
        "parameters": read["model"]["parameters"],
        "context_length": 2048,
        "block_count": 3,
        "size_bytes": model.stat().st_size,
        "files": None,
    }
    (device,) = read["devices"]
    assert set(device) == {"layers", "weights", "kv", "compute", "overhead", "total"}
    assert device["layers"] == 4
    assert device["total"] == device["weights"] + device["kv"] + device["compute"] + device["overhead"]
    host = read["host"]
    assert set(host) == {"weights", "kv", "compute", "output", "overhead", "total"}
    assert host["total"] == sum(size for part, size in host.items() if part != "total")
    assert read["options"]["context_length"] == 2048
    assert all(set(saving) == {"change", "option", "value", "saved"} for saving in read["savings"])
    assert api.requests == []


def test_a_relative_path_and_a_file_source_say_the_same(
    stoker: Stoker, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    assert answer(stoker, "tiny.gguf") == answer(stoker, f"file:{model}") == answer(stoker, "./x/../tiny.gguf")


def test_a_link_keeps_its_name(stoker: Stoker, model: Path) -> None:
    blob = model.rename(model.with_name("0123abcd"))
    model.symlink_to(blob)
    assert answer(stoker, str(model))["model"]["source"] == f"file:{model}"


def test_shards_are_one_model(stoker: Stoker, tmp_path: Path) -> None:
    first = write_tiny_llama(tmp_path / "split.gguf", max_tensors_per_file=8)
    read = answer(stoker, str(first))
    assert len(read["model"]["files"]) == 3
    assert read["model"]["size_bytes"] == sum(path.stat().st_size for path in tmp_path.glob("split-*"))


def test_a_hub_source_is_read_here_and_its_headers_once(
    stoker_process: StokerProcess, hub: FakeHub, tmp_path: Path
) -> None:
    env = hub_settings(hub, tmp_path)
    first = stoker_process("estimate", "hf:acme/tiny:F16", "-o", "json", env=env)
    assert (first.returncode, first.stderr) == (0, "")
    read = json.loads(first.stdout)
    assert (read["model"]["source"], read["model"]["revision"]) == ("hf:acme/tiny:F16", hub.commit("acme/tiny"))
    hub.forget()
    assert stoker_process("estimate", "hf:acme/tiny:F16", "-o", "json", env=env).stdout == first.stdout
    assert [request.path.partition("?")[0] for request in hub.requests] == ["/api/models/acme/tiny"]


def test_what_the_hub_does_not_have(stoker_process: StokerProcess, hub: FakeHub, tmp_path: Path) -> None:
    env = hub_settings(hub, tmp_path)
    done = stoker_process("estimate", "hf:acme/none", env=env)
    assert (done.returncode, done.stdout) == (3, "")
    assert "no model acme/none; if it is private, set HF_TOKEN here to a token for it" in done.stderr


def test_a_web_address_is_read_here(stoker: Stoker, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeWeb(model.parent) as web:
        refused = stoker("estimate", f"{web.url}/tiny.gguf")
        assert (refused.exit_code, web.asked) == (4, [])
        assert "only https is taken. Where that is wanted, set STOKER_URLS__ALLOW_PRIVATE=true" in refused.stderr
        monkeypatch.setenv("STOKER_URLS__ALLOW_PRIVATE", "true")
        assert answer(stoker, f"{web.url}/tiny.gguf")["model"]["block_count"] == 3


def test_the_options_are_those_of_the_engine(stoker: Stoker, model: Path) -> None:
    flags = ("--ctx", "512", "--parallel", "2", "--cache-type-k", "q8_0", "--cache-type-v", "f16", "--no-flash-attn")
    read = answer(stoker, str(model), *flags, "--ubatch", "64", "--batch", "128", "--kv-unified")
    assert read["options"] == {
        "context_length": 512,
        "slots": 2,
        "cache_type": "q8_0",
        "cache_type_v": "f16",
        "flash_attention": False,
        "kv_unified": True,
        "batch": 128,
        "micro_batch": 64,
        "threads": None,
        "embeddings": False,
    }


@pytest.mark.parametrize(
    ("flags", "layers"),
    [
        ((), [4]),
        (("--devices", "0"), []),
        (("--devices", "2"), [2, 2]),
        (("--split", "3,1"), [3, 1]),
        (("--split", "1, 2, 1", "--devices", "3"), [1, 2, 1]),
    ],
)
def test_where_the_layers_go(stoker: Stoker, model: Path, flags: tuple[str, ...], layers: list[int]) -> None:
    assert [device["layers"] for device in answer(stoker, str(model), *flags)["devices"]] == layers


def test_for_people(stoker: Stoker, model: Path) -> None:
    done = stoker("estimate", str(model), "--devices", "2", "--cache-type-v", "bf16")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Tiny: llama, F16, ")
    assert lines[1] == "served with 4 slots of 2048 tokens, f16/bf16 KV cache, micro-batches of 512, flash attention"
    rows = [line.split() for line in lines[3:7]]
    assert [row[0] for row in rows[1:]] == ["GPU", "GPU", "RAM"]
    assert [row[2] for row in rows[1:3]] == ["2", "2"]
    assert rows[3][1] == "-"
    at = lines.index("It would take less with")
    assert any("half the context" in line and "--ctx 1024" in line and "saves" in line for line in lines[at:])
    assert any("q8_0 values" in line and "--cache-type-v q8_0" in line for line in lines[at:])


def test_on_the_cpu_alone_and_without_flash_attention(stoker: Stoker, model: Path) -> None:
    done = stoker("estimate", str(model), "--devices", "0", "--no-flash-attn", "--parallel", "1", "--kv-unified")
    lines = done.stdout.splitlines()
    assert lines[1] == "served with 1 slot of 2048 tokens, one f16 KV cache, micro-batches of 512, no flash attention"
    assert [line.split()[:2] for line in lines[4:5]] == [["RAM", "4"]]
    assert not any(line.startswith("GPU") for line in lines)


def test_what_stands_beside_the_model(stoker: Stoker, model: Path) -> None:
    alone = answer(stoker, str(model))
    projector = write_projector(model.with_name("mmproj.gguf"))
    seeing = answer(stoker, str(model), "--mmproj", str(projector))
    assert seeing["devices"][0]["weights"] == alone["devices"][0]["weights"] + 2 * 64 * 64
    drafted = answer(stoker, str(model), "--draft", f"file:{model}")
    assert drafted["devices"][0]["kv"] == 2 * alone["devices"][0]["kv"]
    wrong = stoker("estimate", str(model), "--mmproj", str(model))
    assert (wrong.exit_code, "says clip" in wrong.stderr) == (1, True)
    wrong = stoker("estimate", str(model), "--draft", "hf:x")
    assert (wrong.exit_code, wrong.stderr) == (2, "error: --draft 'hf:x': hf:x must name a repository as ORG/REPO\n")


# --- what is elsewhere ------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_here_is_read_by_the_workers(api: FakeApi, stoker: Stoker) -> None:
    done = stoker("estimate", "file:/nowhere/here.gguf", "--ctx", "4096", "--devices", "3", "-o", "json")
    assert done.exit_code == 0
    assert done.stderr == "/nowhere/here.gguf is not on this machine: asking the workers\n"
    assert api.bodies("POST", PATH) == [
        {"model": "file:/nowhere/here.gguf", "options": {"context_length": 4096}, "devices": 3}
    ]
    assert len(json.loads(done.stdout)["devices"]) == 3


@pytest.mark.parametrize(("code", "exit_code"), [("file_not_found", 3), ("no_worker", 1), ("unsupported_model", 1)])
def test_what_the_workers_refuse(code: str, exit_code: int, api: FakeApi, stoker: Stoker) -> None:
    api.refusals = [ProblemError(code, "this is why")]
    done = stoker("estimate", "file:/nowhere/here.gguf")
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert "error: this is why" in done.stderr.splitlines()


# --- what is wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "exit_code", "error"),
    [
        (("nowhere.gguf",), 3, "there is no file "),
        (("tiny.bin",), 2, "SOURCE 'file:"),
        (("",), 2, "SOURCE '': '' is no model source: write file:/path/to/model.gguf, hf:ORG/REPO"),
        (("hf:repo",), 2, "SOURCE 'hf:repo': hf:repo must name a repository as ORG/REPO"),
        (("MODEL", "--split", "2,x"), 2, "--split '2,x': write the layers of each device, like 16,15"),
        (("MODEL", "--split", ""), 2, "--split '': write the layers of each device"),
        (("MODEL", "--split", "0,4"), 2, "--split 0: Input should be greater than or equal to 1"),
        (("MODEL", "--split", "2,1"), 1, "split 2,1 places 3 layers, and the model has 4: 3 and the output layer"),
        (("MODEL", "--split", "2,2", "--devices", "3"), 2, "devices is 3 and split names 2: give one of the two"),
        (("MODEL", "--devices", "16"), 2, "--devices 16: Input should be less than or equal to 15"),
        (("MODEL", "--devices", "9"), 1, "devices is 9: this model has 4 layers"),
        (("MODEL", "--ctx", "1"), 2, "--ctx 1: Input should be greater than or equal to 128"),
        (("MODEL", "--ctx", "4096"), 1, "--ctx 4096 is more than the 2048 tokens"),
        (
            ("MODEL", "--cache-type-k", "q8_0", "--no-flash-attn"),
            1,
            "values of the type q8_0 need flash attention: set --flash-attn, or --cache-type-v to f16",
        ),
        (("MODEL", "--cache-type-k", "q9"), 2, "Invalid value for '--cache-type-k'"),
    ],
)
def test_wrong_questions(
    arguments: tuple[str, ...], exit_code: int, error: str, api: FakeApi, stoker: Stoker, model: Path
) -> None:
    done = stoker("estimate", *(str(model) if argument == "MODEL" else argument for argument in arguments))
    assert (done.exit_code, done.stdout) == (exit_code, ""), done.stderr
    assert done.stderr.startswith(f"error: {error}")
    assert api.requests == []


def test_what_is_no_model(stoker: Stoker, tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<html>")
    (tmp_path / "folder.gguf").mkdir()
    done = stoker("estimate", str(tmp_path / "page.gguf"))
    assert (done.exit_code, "begins with b'<htm'" in done.stderr) == (1, True)
    done = stoker("estimate", str(tmp_path / "folder.gguf"))
    assert (done.exit_code, "cannot be read" in done.stderr) == (3, True)


def test_as_a_process_without_a_server(stoker_process: StokerProcess, model: Path, tmp_path: Path) -> None:
    done = stoker_process("estimate", str(model), "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["model"]["block_count"] == 3
    assert not (tmp_path / "data").exists(), "what is here leaves nothing behind"
