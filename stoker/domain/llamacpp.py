"""The command lines of llama.cpp's programs, built from a placement."""

from collections.abc import Sequence

from stoker.domain.base import WorkerName
from stoker.domain.deployments import DeploymentSpec
from stoker.domain.estimation.cache import batch_sizes
from stoker.domain.estimation.estimate import PROMPT_CACHE
from stoker.domain.placement.types import DeviceShare, Placement, Tier
from stoker.domain.units import MIB
from stoker.domain.workers import DeviceKind

LOG_LEVEL = 4  # the first that shows buffer sizes

_CPU_COMPUTES = frozenset({Tier.PART_ON_CPU, Tier.PART_ON_CPU_SEVERAL_WORKERS, Tier.CPU, Tier.CPU_SEVERAL_WORKERS})
"""Where a batch of many micro-batches gains nothing and takes minutes: whoever looks whether the engine still computes
sees each batch only when it is done."""


def main_server_arguments(
    spec: DeploymentSpec,
    placement: Placement,
    *,
    model_path: str,
    alias: str,
    pooling: bool,
    host: str = "127.0.0.1",
    rpc: Sequence[str] = (),
) -> tuple[str, ...]:
    """llama-server's options (without the program) for `spec` on `placement`; the port is the system's choice.

    Nothing that llama-server would choose by itself is left to it: context, slots, layers and devices are those that
    were estimated and claimed. `pooling` says that the model's header names its way of pooling; otherwise embeddings
    are means over the tokens. The API key is not here: it travels in the environment.

    `rpc`: where the RPC servers of `rpc_peers` are reached, as HOST:PORT and in their order. The prompt cache is off
    then: keeping a prompt would fetch its state over the network, and saving it has aborted servers (llama.cpp #26529).

    Raises ValueError when an accelerator of the placement has no name for --device, or `rpc` does not fit `rpc_peers`.
    """
    options, estimate = spec.options, placement.estimate
    embeds = options.embeddings or pooling
    batch, micro_batch = batch_sizes(options, estimate.context_length, embedding=embeds)
    if placement.tier in _CPU_COMPUTES:
        batch = max(micro_batch, options.slots)
    arguments = [
        *("--host", host, "--port", "0"),
        *("-m", model_path, "-a", alias),
        *("-c", str(estimate.context_length * estimate.slots), "-np", str(estimate.slots)),
        "--kv-unified" if embeds or options.kv_unified else "--no-kv-unified",  # see estimation.cache.cache_shape
        *("-b", str(batch), "-ub", str(micro_batch)),
        *("-ctk", options.cache_type.value, "-ctv", options.value_cache_type.value),
        *("-fa", "on" if options.flash_attention else "off", "-fit", "off"),
        *_device_arguments(placement, rpc),
        *("--cache-ram", "0" if rpc else str(PROMPT_CACHE // MIB), "-ctxcp", "0"),
        *("--metrics", "--no-ui", "-lv", str(LOG_LEVEL)),
    ]
    if options.threads is not None:
        arguments += ["-t", str(options.threads)]
    if embeds:
        arguments.append("--embeddings")
        if not pooling:
            arguments += ["--pooling", "mean"]
    return tuple(arguments)


def rpc_server_arguments(
    placement: Placement, worker: WorkerName, *, port: int, threads: int | None = None
) -> tuple[str, ...]:
    """ggml-rpc-server's options (without the program) for what `worker` lends to the placement's main server.

    It listens on loopback only: it has no authentication. `threads`: of its CPU; None: its own choice. Raises
    ValueError when the worker lends nothing, or an accelerator of its has no name for --device.
    """
    devices = rpc_devices(placement, worker)
    if not devices:
        raise ValueError(f"{worker} lends no device to the main server on {placement.worker}")
    arguments = ("--host", "127.0.0.1", "--port", str(port), "--device", ",".join(devices))
    return arguments if threads is None else (*arguments, "--threads", str(threads))


def rpc_peers(placement: Placement) -> tuple[WorkerName, ...]:
    """The workers that lend devices to the main server's, in the order of --rpc: that of their first devices."""
    owners = (placement.worker_of(share) for share in placement.offloaded)
    return tuple(dict.fromkeys(owner for owner in owners if owner != placement.worker))


def rpc_devices(placement: Placement, worker: WorkerName) -> tuple[str, ...]:
    """What `worker` lends, under its own engine's names and in the placement's order; its CPU is `CPU`."""
    return tuple(
        "CPU" if share.kind is DeviceKind.CPU else _own_name(placement, share)
        for share in placement.offloaded
        if placement.worker_of(share) == worker
    )


def engine_devices(placement: Placement) -> tuple[str, ...]:
    """What the main server calls the placement's devices, in their order.

    llama.cpp counts the devices behind all RPC servers together, in the order of --rpc and of each server's --device
    (ggml_backend_rpc_add_server): the second server's first device is `RPC2` where the first has two.
    """
    before, begins = 0, {}
    for peer in rpc_peers(placement):
        begins[peer] = before
        before += len(rpc_devices(placement, peer))
    names = []
    for share in placement.offloaded:
        owner = placement.worker_of(share)
        if owner == placement.worker:
            names.append(_own_name(placement, share))
        else:
            names.append(f"RPC{begins[owner]}")
            begins[owner] += 1
    return tuple(names)


def _own_name(placement: Placement, share: DeviceShare) -> str:
    if not share.engine_name:
        owner = placement.worker_of(share)
        raise ValueError(f"device {share.device} of {owner} has no engine_name to give to --device")
    return share.engine_name


def _device_arguments(placement: Placement, rpc: Sequence[str]) -> list[str]:
    """Layers a device, in the order of the placement's shares. A share of the CPU only books the host's RAM.

    Where layers stay on the host, these are the model's first: llama.cpp counts -ngl from the output layer backwards.
    --rpc acts where it stands: before the devices that it adds are named.
    """
    if len(peers := rpc_peers(placement)) != len(rpc):
        raise ValueError(f"{len(rpc)} RPC servers for a placement whose peers are {', '.join(peers) or 'none'}")
    offloaded = placement.offloaded
    if not offloaded:
        # `none` also keeps llama.cpp from using a GPU for long prompts, which it does without asking (op offload).
        return ["-ngl", "0", "--device", "none"]
    layers = [share.layers for share in offloaded]
    arguments = ["--rpc", ",".join(rpc)] if rpc else []
    arguments += ["-ngl", str(sum(layers)), "--device", ",".join(engine_devices(placement))]
    if len(offloaded) > 1:
        arguments += ["--tensor-split", ",".join(map(str, layers))]
    # For long prompts llama.cpp would copy weights that stay on the host to a GPU: memory that nobody estimated. Of a
    # model that is whole on devices only looked-up rows stay on the host, and these are never copied.
    return [*arguments, "--no-op-offload"]
