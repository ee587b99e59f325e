"""The file of `stoker apply`: what is wrong with it, and that what is written is read back."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrypoints.cli.cluster_file import parse, read_cluster_file, written
from entrypoints.cli.errors import CliError, ExitCode
from stoker.domain.cluster_plan import ClusterSpec
from stoker.domain.deployments import CacheType, EngineOptions, Strategy
from stoker.domain.model_routes import Fallback, RouteSpec, RouteTarget
from tests.builders import make_spec

SMALLEST = "version: 1\ndeployments:\n- {name: smol, model: 'hf:org/repo:Q4_K_M'}\n"


def test_only_what_is_not_the_default_is_written() -> None:
    spec = ClusterSpec(
        deployments=(
            make_spec(name="smol", options=EngineOptions(slots=8), min_compute_capability="8.0"),
            make_spec(name="big", model="hf:org/big", replicas=0),
        ),
        routes=(RouteSpec(name="gpt-4o", targets=(RouteTarget(deployment="big"),)),),
    )
    assert written(spec) == (
        "version: 1\n"
        "deployments:\n"
        "- name: big\n"
        "  model: hf:org/big\n"
        "  replicas: 0\n"
        "- name: smol\n"
        "  model: hf:bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M\n"
        "  options:\n"
        "    slots: 8\n"
        "  min_compute_capability: '8.0'\n"
        "routes:\n"
        "- name: gpt-4o\n"
        "  targets:\n"
        "  - deployment: big\n"
    )


labels = st.from_regex(r"\A[A-Za-z0-9]([A-Za-z0-9._/-]{0,8}[A-Za-z0-9])?\Z")
specs = st.builds(
    make_spec,
    name=st.sampled_from(("a", "b", "on", "1", "1e3")),
    replicas=st.integers(0, 1000),
    strategy=st.sampled_from(Strategy),
    worker_selector=st.dictionaries(labels, labels, max_size=3),
    devices=st.sampled_from(((), (("box-1", "gpu0"), ("1", "cpu")))),
    min_compute_capability=st.sampled_from((None, "8.0", "10.0")),
    gpu_layers=st.sampled_from((None, 0, 12)),
    options=st.builds(
        EngineOptions,
        context_length=st.none() | st.integers(128, 4096),
        cache_type=st.sampled_from(CacheType),
        flash_attention=st.booleans(),
    ),
)
routes = st.builds(
    RouteSpec,
    name=st.sampled_from(("gpt-4o", "org/name", "1.0", "null", "12:30")),
    targets=st.sampled_from(((RouteTarget(deployment="a"),), (RouteTarget(deployment="b", weight=9),))),
    fallbacks=st.sampled_from(((), (Fallback(deployment="b", statuses=(503,)),))),
)


@settings(max_examples=40)
@given(
    deployments=st.lists(specs, unique_by=lambda each: each.name),
    leads=st.lists(routes, unique_by=lambda each: each.name),
)
def test_what_is_written_is_read_back(deployments: list[object], leads: list[RouteSpec]) -> None:
    spec = ClusterSpec.model_validate({"deployments": deployments, "routes": leads})
    read = parse(written(spec), "file").spec
    assert {each.name: each for each in read.deployments} == {each.name: each for each in spec.deployments}
    assert {each.name: each for each in read.routes} == {each.name: each for each in spec.routes}
    assert written(read) == written(spec)


def test_devices_are_sent_as_they_were_written() -> None:
    text = "version: 1\ndeployments:\n- {name: a, model: 'hf:o/r', devices: ['box:cuda:0'], priority: 0}\n"
    read = parse(text, "file")
    assert read.bodies() == {"a": {"name": "a", "model": "hf:o/r", "devices": ["box:cuda:0"]}}
    assert read.spec.deployments[0].devices == (("box", "gpu0"),)


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("", ["f.yaml: it is empty"]),
        ("[]", ["f.yaml:1: the file: write fields: version, deployments, routes"]),
        ("deployments: []", ["f.yaml:1: version: Field required"]),
        ("version: 2", ["f.yaml:1: version 2: Input should be 1"]),
        ("version: 1\ndeployments:\n", ["f.yaml:2: deployments: Input should be a valid list"]),
        ("version: 1\nkeys: []", ["f.yaml:2: keys: there is no such field"]),
        ("version: 1\nversion: 1", ["f.yaml:2: 'version' stands here twice"]),
        ("version: 1\n  x: [", ["f.yaml:2: no valid YAML: mapping values are not allowed here"]),
        (
            f"{SMALLEST}  priority: high\n",
            ["f.yaml:4: no valid YAML: while parsing a block mapping: expected <block end>, but found"],
        ),
        (
            "version: 1\ndeployments:\n- name: Smol\n  model: smol\n  options:\n    slots: 0\n    slot: 1\n",
            [
                "f.yaml:3: deployments.0.name 'Smol': write lower-case letters, digits and '-'",
                "f.yaml:4: deployments.0.model 'smol': 'smol' is no model source: write file:/path/to/model.gguf",
                "f.yaml:6: deployments.0.options.slots 0: Input should be greater than or equal to 1",
                "f.yaml:7: deployments.0.options.slot 1: there is no such field",
            ],
        ),
        (
            "version: 1\ndeployments:\n- name: a\n  model: hf:o/r\n  min_compute_capability: 8.0\n"
            "  worker_selector:\n    rack: 7\n    on: x\n    zone: off\n",
            [
                "rack 7: Input should be a valid string, and YAML reads this as a number: write it in quotes",
                "[key] True: Input should be a valid string, and YAML reads this as a truth value: write it in quotes",
                "f.yaml:9: deployments.0.worker_selector.zone False: Input should be a valid string, and YAML reads",
                "f.yaml:5: deployments.0.min_compute_capability 8.0: Input should be a valid string, and YAML reads",
            ],
        ),
        (
            "version: 1\nroutes:\n- name: r\n  targets: []\n- name: s\n  targets: [{deployment: a, weight: 0}]\n"
            "- name: t\n  targets: [{deployment: a}]\n  fallbacks:\n  - {deployment: a, statuses: [400]}\n",
            [
                "f.yaml:4: routes.0.targets: List should have at least 1 item",
                "f.yaml:6: routes.1.targets: all weights are 0",
                "f.yaml:10: routes.2.fallbacks.0.statuses: [400] cannot lead to another model",
            ],
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, errors: list[str]) -> None:
    with pytest.raises(CliError) as caught:
        parse(text, "f.yaml")
    assert caught.value.code is ExitCode.USAGE
    assert len(caught.value.messages) == len(errors)
    for message, begins in zip(caught.value.messages, errors, strict=True):
        assert begins in message


def test_many_errors_are_not_all_told() -> None:
    entries = "".join(f"- {{name: d{number}, model: x}}\n" for number in range(50))
    with pytest.raises(CliError) as caught:
        parse(f"version: 1\ndeployments:\n{entries}", "f.yaml")
    assert len(caught.value.messages) == 21
    assert caught.value.messages[-1] == "and 30 more"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xe9")
    for name, reason in (("missing", "No such file or directory"), ("latin", "it is no UTF-8 text"), (".", "Is a dir")):
        with pytest.raises(CliError, match=reason) as caught:
            read_cluster_file(str(tmp_path / name))
        assert caught.value.code is ExitCode.USAGE
    with pytest.raises(CliError, match="at most"):
        parse(" " * (2**23 + 1), "f.yaml")
