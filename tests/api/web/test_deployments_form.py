"""The form of a deployment: what its texts mean, and what is said of those that mean nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import FieldError
from api.schemas.deployments import DeploymentCreate, OptionsWrite
from api.web.deployments_form import FIELDS, change_of, empty_form, faults_by_field, form_of, read_deployment
from stoker.domain.deployments import CacheType, Strategy

NAMED = {"name": "smol", "model": "hf:org/repo:Q4_K_M", "flash_attention": "on", "distributed": "on"}
"""What a form has in it that nobody touched but for name and model."""


def body_of(**texts: str) -> DeploymentCreate:
    body, faults = read_deployment(NAMED | texts)
    assert body is not None, faults
    return body


def test_what_is_left_empty_has_the_apis_default() -> None:
    assert body_of() == DeploymentCreate(name="smol", model="hf:org/repo:Q4_K_M")
    assert body_of(slots="", context_length=" ", devices="", priority="") == body_of()


@pytest.mark.parametrize(
    ("texts", "changed"),
    [
        ({"replicas": "0"}, {"replicas": 0}),
        ({"replicas": " 3 "}, {"replicas": 3}),
        ({"priority": "-5"}, {"priority": -5}),
        ({"worker_selector": "zone=a, gpu=h100"}, {"worker_selector": {"zone": "a", "gpu": "h100"}}),
        ({"devices": "box-1:cuda:0 box-2/gpu1"}, {"devices": ["box-1:cuda:0", "box-2/gpu1"]}),
        ({"tensor_split": "12, 11,10"}, {"tensor_split": [12, 11, 10]}),
        ({"gpu_layers": "0"}, {"gpu_layers": 0}),
        ({"distributed": ""}, {"distributed": False}),
        ({"cpu_offload": "on"}, {"cpu_offload": True}),
        ({"strategy": "binpack"}, {"strategy": Strategy.BINPACK}),
        ({"min_compute_capability": "8.0"}, {"min_compute_capability": "8.0"}),
        ({"min_replicas": "0", "max_replicas": "3"}, {"min_replicas": 0, "max_replicas": 3}),
        ({"idle_timeout": "60"}, {"idle_timeout": 60}),
        ({"csrf": "of the page"}, {}),
    ],
)
def test_each_field_is_read_as_what_it_is(texts: dict[str, str], changed: dict[str, object]) -> None:
    assert body_of(**texts) == DeploymentCreate(name="smol", model="hf:org/repo:Q4_K_M", **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("texts", "changed"),
    [
        ({"context_length": "4096", "slots": "2"}, {"context_length": 4096, "slots": 2}),
        ({"cache_type": "q8_0"}, {"cache_type": CacheType.Q8_0}),
        ({"flash_attention": ""}, {"flash_attention": False}),
        ({"embeddings": "on"}, {"embeddings": True}),
    ],
)
def test_options_of_the_engine_are_its_options(texts: dict[str, str], changed: dict[str, object]) -> None:
    assert body_of(**texts).options == OptionsWrite(**changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("texts", "field", "told"),
    [
        ({"name": ""}, "name", "lower-case"),
        ({"name": "Smol Model"}, "name", "lower-case"),
        ({"model": ""}, "model", "no model source"),
        ({"model": "smol.gguf"}, "model", "hf:ORG/REPO"),
        ({"slots": "many"}, "slots", "must be an integer"),
        ({"slots": "0"}, "slots", "greater than or equal to 1"),
        ({"context_length": "5"}, "context_length", "128"),
        ({"devices": "box-1"}, "devices", "WORKER:KIND:INDEX"),
        ({"worker_selector": "zone"}, "worker_selector", "pattern"),
        ({"tensor_split": "3,x"}, "tensor_split", "must be an integer"),
        ({"tensor_split": "3,4", "gpu_layers": "9"}, "tensor_split", "its sum is 7 and gpu_layers is 9"),
        ({"overcommit": "on"}, "overcommit", "only chosen devices"),
        ({"min_replicas": "3", "max_replicas": "2"}, "max_replicas", "min_replicas"),
        ({"cache_type": "q9"}, "cache_type", "q8_0"),
    ],
)
def test_what_is_wrong_stands_beside_its_field(texts: dict[str, str], field: str, told: str) -> None:
    body, faults = read_deployment(NAMED | texts)
    assert body is None
    assert list(faults) == [field]
    assert told in faults[field]


def test_all_faults_are_told_at_once() -> None:
    _, faults = read_deployment({"name": "A", "model": "x", "slots": "0", "devices": "one two"})
    assert set(faults) == {"name", "model", "slots", "devices"}


def test_faults_of_the_api_find_their_fields() -> None:
    errors = [
        FieldError(field="options.slots", message="too many"),
        FieldError(field="devices.0", message="no such device"),
        FieldError(field="devices.1", message="no such device"),
        FieldError(field="deployment.devices", message="of another kind"),
    ]
    assert faults_by_field(errors) == {"slots": "too many", "devices": "no such device; of another kind"}


def test_an_empty_form_shows_what_would_be_taken() -> None:
    shown = empty_form()
    assert (shown["replicas"], shown["slots"], shown["cache_type"]) == ("1", "4", "f16")
    assert (shown["flash_attention"], shown["embeddings"]) == ("on", "")
    assert not {"name", "model"} & shown.keys()
    assert shown.keys() <= set(FIELDS)


BODIES = st.builds(
    DeploymentCreate,
    name=st.just("smol"),
    model=st.sampled_from(["hf:org/repo", "file:/models/a b.gguf"]),
    replicas=st.integers(0, 1000),
    options=st.builds(
        OptionsWrite,
        context_length=st.none() | st.integers(128, 10**6),
        slots=st.integers(1, 256),
        cache_type=st.sampled_from(CacheType),
        cache_type_v=st.none() | st.sampled_from(CacheType),
        flash_attention=st.booleans(),
        kv_unified=st.booleans(),
        threads=st.none() | st.integers(1, 1024),
        embeddings=st.booleans(),
    ),
    strategy=st.sampled_from(Strategy),
    worker_selector=st.dictionaries(st.sampled_from(["zone", "gpu"]), st.sampled_from(["a", "h100/x"])),
    devices=st.lists(st.sampled_from(["box-1:cuda:0", "box-2/gpu1"]), unique=True),
    distributed=st.booleans(),
    cpu_offload=st.booleans(),
    gpu_layers=st.none() | st.integers(0, 100),
    min_compute_capability=st.none() | st.just("8.0"),
    priority=st.integers(-1000, 1000),
    min_replicas=st.none() | st.integers(0, 3),
    max_replicas=st.none() | st.integers(3, 9),
    idle_timeout=st.integers(5, 3600),
    queue=st.integers(0, 1000),
)


@given(BODIES)
def test_a_form_filled_from_a_deployment_reads_as_that_deployment(body: DeploymentCreate) -> None:
    assert read_deployment(form_of(body)) == (body, {})


@given(BODIES, BODIES)
def test_a_change_makes_a_deployment_what_the_form_says(before: DeploymentCreate, after: DeploymentCreate) -> None:
    assert change_of(after).merged(before.spec()) == after


@given(st.dictionaries(st.sampled_from(FIELDS), st.text(max_size=40)))
def test_no_text_is_too_odd_to_be_answered(texts: dict[str, str]) -> None:
    body, faults = read_deployment(texts)
    assert (body is None) == bool(faults)
    assert faults.keys() <= set(FIELDS) | {"body"}
