"""Deployments, for people."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from api.schemas.deployments import DeploymentRead, OptionsWrite
from entrypoints.cli.client import read_as
from entrypoints.cli.output import age, cell, fields, table
from entrypoints.cli.views.instances import instance_description, placed_on
from stoker.domain.deployments import InstanceState
from stoker.domain.naming import deployment_workflow_id
from stoker.domain.scaling import is_autoscaled, replica_bounds
from stoker.domain.units import format_bytes

STATE_STYLES = {
    "running": "green",
    "progressing": "cyan",
    "pending": "yellow",
    "failed": "red",
    "stopped": "dim",
    "deleting": "dim",
}
_MODEL_CHARACTERS = 32


def deployments_table(items: Sequence[Any]) -> Table:
    """`stoker ps`."""
    made = table("NAME", "MODEL", "STATE", "READY", "AGE", "MESSAGE")
    for column in made.columns[:-1]:
        column.no_wrap = True
    for item in items:
        read = read_as(DeploymentRead, item)
        made.add_row(
            cell(read.name),
            cell(short_model(read.model)),
            cell(read.state, STATE_STYLES.get(read.state, "")),
            cell(f"{read.running} of {range_of(read)}" if range_of(read) else f"{read.running}/{read.wanted}"),
            cell(age(read.created_at)),
            cell(read.message),
        )
    return made


def range_of(read: DeploymentRead) -> str:
    """`0..3`: how many replicas demand may ask for; empty where it has no say."""
    spec = read.spec()
    return "{}..{}".format(*replica_bounds(spec)) if is_autoscaled(spec) else ""


def short_model(source: str, characters: int = _MODEL_CHARACTERS) -> str:
    """The source, cut in its middle when it is long: both ends tell models apart."""
    if len(source) <= characters:
        return source
    head = characters // 3
    return f"{source[:head]}…{source[head + 1 - characters :]}"


def outcome(read: DeploymentRead) -> RenderableType:
    """What `deploy` and `scale` end with: the state, and where each instance is."""
    lines: list[Text] = [
        Text.assemble(
            cell(read.name),
            " is ",
            cell(read.state, STATE_STYLES.get(read.state, "")),
            f": {read.running} of {read.wanted} running" if read.wanted else "",
        )
    ]
    for instance in read.instances if read.wanted else ():
        if instance.state is InstanceState.RUNNING and instance.placement is not None:
            lines.append(cell(f"  {instance.id} on {placed_on(instance.placement)}"))
    if read.running and read.wanted:
        lines.append(cell(f"  try it: stoker chat {read.name}" if not read.options.embeddings else ""))
    return Group(*(line for line in lines if line.plain))


def deployment_description(read: DeploymentRead) -> RenderableType:
    """`stoker describe`: all that is known."""
    made = fields()
    info = read.model_info
    made.add_row("Deployment", cell(read.name))
    made.add_row("State", Text.assemble(cell(read.state, STATE_STYLES.get(read.state, "")), cell(f": {read.message}")))
    made.add_row("Replicas", cell(f"{read.running} running of {read.wanted}"))
    if between := range_of(read):
        made.add_row("", cell(f"{between}, as requests need; fewer when they have sufficed for {read.idle_timeout} s"))
    made.add_row("Model", cell(read.model))
    if info.revision:
        made.add_row("Revision", cell(info.revision))
    made.add_row(
        "What it is",
        cell(
            f"{info.architecture}, {_count(info.parameters)} parameters, {info.layers} layers, {info.file_type}, "
            f"trained on {info.trained_context_length} tokens"
        ),
    )
    made.add_row("Size", cell(f"{format_bytes(info.size_bytes)} in {len(info.files)} file{_s(len(info.files))}"))
    for file in info.files:
        digest = f"  sha256 {file.sha256}" if file.sha256 else ""
        made.add_row("", cell(f"{file.path}  {format_bytes(file.size_bytes)}{digest}"))
    made.add_row("Options", cell(_options(read.options)))
    made.add_row("Placement", cell(_placement_rules(read)))
    made.add_row("Queue", cell(f"{read.queue} request{_s(read.queue)} may wait for a slot"))
    made.add_row("Generation", cell(read.generation))
    made.add_row("Created", cell(f"{read.created_at:%Y-%m-%d %H:%M:%S %Z}, {age(read.created_at)} ago"))
    made.add_row("Changed", cell(f"{read.updated_at:%Y-%m-%d %H:%M:%S %Z}, {age(read.updated_at)} ago"))
    made.add_row("Workflow", cell(deployment_workflow_id(read.name)))
    parts: list[RenderableType] = [made]
    for instance in read.instances:
        described = Padding(instance_description(instance), (0, 0, 0, 2))
        parts += [Text(), cell(f"Instance {instance.id}", "bold"), described]
    return Group(*parts)


def _options(options: OptionsWrite) -> str:
    context = options.context_length if options.context_length is not None else "chosen by Stoker"
    parts = [
        f"context {context}",
        f"slots {options.slots}",
        f"KV cache {options.cache_type}",
        f"batch {options.batch}/{options.micro_batch}",
    ]
    if options.cache_type_v not in (None, options.cache_type):
        parts.append(f"its values {options.cache_type_v}")
    if options.kv_unified:
        parts.append("one KV cache for all slots")
    if not options.flash_attention:
        parts.append("no flash attention")
    if options.threads is not None:
        parts.append(f"threads {options.threads}")
    if options.embeddings:
        parts.append("embeddings")
    return ", ".join(parts)


def _placement_rules(read: DeploymentRead) -> str:
    parts = [str(read.strategy)]
    parts += [f"{key}={value}" for key, value in sorted(read.worker_selector.items())]
    if read.devices:
        parts.append(f"only {' '.join(read.devices)}")
    parts.append("CPUs may compute layers" if read.cpu_offload else "no CPU offload")
    if not read.distributed:
        parts.append("on one worker")
    if read.gpu_layers is not None:
        parts.append(f"{read.gpu_layers} layers on devices")
    if read.tensor_split:
        parts.append(f"split {','.join(map(str, read.tensor_split))}")
    if read.min_compute_capability is not None:
        parts.append(f"compute capability {read.min_compute_capability} at least")
    if read.overcommit:
        parts.append("overcommitted where memory does not suffice")
    if read.priority:
        parts.append(f"priority {read.priority}")
    return ", ".join(parts)


def _count(number: int) -> str:
    """134515008 → 135 M: three significant figures."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _s(count: int) -> str:
    return "" if count == 1 else "s"
