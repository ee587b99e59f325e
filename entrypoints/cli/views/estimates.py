"""`stoker estimate`, for people."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.schemas.deployments import OptionsWrite
from api.schemas.estimates import EstimatedModelRead, MemoryEstimateRead, SavingRead
from entrypoints.cli.estimating import OPTION_FLAGS
from entrypoints.cli.output import cell, table
from stoker.domain.units import format_bytes


def estimate_view(read: MemoryEstimateRead) -> RenderableType:
    """The model, the memory of each device and of the host, and what would change it most."""
    parts: list[RenderableType] = [
        Text.assemble(cell(read.model.name or read.model.source, "bold"), cell(f": {_described(read.model)}")),
        cell(f"served with {_options(read.options)}"),
        Text(),
        _memory(read),
    ]
    if read.caution:
        parts += [Text(), cell(f"caution: {read.caution}", "yellow")]
    if read.savings:
        parts += [Text(), cell("It would take less with"), _savings(read.savings)]
    return Group(*parts)


def _memory(read: MemoryEstimateRead) -> Table:
    made = table("", "LAYERS", "WEIGHTS", "KV CACHE", "COMPUTE", "OUTPUT", "OVERHEAD", "TOTAL")
    for column in made.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for number, device in enumerate(read.devices):
        sizes = (device.weights, device.kv, device.compute)
        made.add_row(
            cell(f"GPU {number}"),
            cell(device.layers),
            *(cell(format_bytes(size)) for size in sizes),
            cell("-"),
            cell(format_bytes(device.overhead)),
            cell(format_bytes(device.total), "bold"),
        )
    host = read.host
    layers = read.model.block_count + 1 - sum(device.layers for device in read.devices)
    made.add_row(
        cell("RAM"),
        cell(layers or "-"),
        *(cell(format_bytes(size)) for size in (host.weights, host.kv, host.compute, host.output, host.overhead)),
        cell(format_bytes(host.total), "bold"),
    )
    return made


def _savings(savings: list[SavingRead]) -> Table:
    made = table("CHANGE", "FLAG", "SAVES")
    made.show_header = False
    made.columns[2].justify = "right"
    for saving in savings:
        flag = OPTION_FLAGS.get(saving.option, saving.option)
        written = flag if saving.value is True else f"{flag} {saving.value}"
        made.add_row(cell(f"  {saving.change}"), cell(written), cell(f"saves {format_bytes(saving.saved)}"))
    return made


def _described(model: EstimatedModelRead) -> str:
    count = len(model.files)
    parts = [
        model.architecture,
        model.file_type,
        f"{model.parameters / 1e9:.3g} B parameters" if model.parameters >= 10**9 else "",
        f"{model.parameters / 1e6:.3g} M parameters" if 0 < model.parameters < 10**9 else "",
        f"{model.block_count} layers",
        f"trained on {model.context_length} tokens" if model.context_length else "",
        f"{format_bytes(model.size_bytes)} in {count} file{'' if count == 1 else 's'}",
    ]
    return ", ".join(part for part in parts if part)


def _options(options: OptionsWrite) -> str:
    values = f"/{options.cache_type_v}" if options.cache_type_v not in (None, options.cache_type) else ""
    parts = [
        f"{options.slots} slot{'' if options.slots == 1 else 's'} of {options.context_length} tokens",
        f"{'one ' if options.kv_unified else ''}{options.cache_type}{values} KV cache",
        f"micro-batches of {options.micro_batch}",
        "flash attention" if options.flash_attention else "no flash attention",
    ]
    return ", ".join(parts + ["embeddings"] * options.embeddings)
