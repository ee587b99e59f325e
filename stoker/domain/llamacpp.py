"""The command line of llama.cpp's server, built from a placement."""

from stoker.domain.deployments import DeploymentSpec
from stoker.domain.estimation.cache import batch_sizes
from stoker.domain.estimation.estimate import PROMPT_CACHE
from stoker.domain.placement.types import Placement
from stoker.domain.units import MIB
from stoker.domain.workers import DeviceKind

LOG_LEVEL = 4  # the first that shows buffer sizes


def main_server_arguments(
    spec: DeploymentSpec,
    placement: Placement,
    *,
    model_path: str,
    alias: str,
    pooling: bool,
    host: str = "127.0.0.1",
) -> tuple[str, ...]:
    """llama-server's options (without the program) for `spec` on `placement`; the port is the system's choice.

    Nothing that llama-server would choose by itself is left to it: context, slots, layers and devices are those that
    were estimated and claimed. `pooling` says that the model's header names its way of pooling; otherwise embeddings
    are means over the tokens. The API key is not here: it travels in the environment.

    Raises ValueError when an accelerator of the placement has no name for --device.
    """
    options, estimate = spec.options, placement.estimate
    embeds = options.embeddings or pooling
    batch, micro_batch = batch_sizes(options, estimate.context_length, embedding=embeds)
    arguments = [
        *("--host", host, "--port", "0"),
        *("-m", model_path, "-a", alias),
        *("-c", str(estimate.context_length * estimate.slots), "-np", str(estimate.slots)),
        "--kv-unified" if embeds or options.kv_unified else "--no-kv-unified",  # see estimation.cache.cache_shape
        *("-b", str(batch), "-ub", str(micro_batch)),
        *("-ctk", options.cache_type.value, "-ctv", options.value_cache_type.value),
        *("-fa", "on" if options.flash_attention else "off", "-fit", "off"),
        *_device_arguments(placement),
        *("--cache-ram", str(PROMPT_CACHE // MIB), "-ctxcp", "0"),
        *("--metrics", "--no-ui", "-lv", str(LOG_LEVEL)),
    ]
    if options.threads is not None:
        arguments += ["-t", str(options.threads)]
    if embeds:
        arguments.append("--embeddings")
        if not pooling:
            arguments += ["--pooling", "mean"]
    return tuple(arguments)


def _device_arguments(placement: Placement) -> list[str]:
    """Layers a device, in the order of the placement's shares. A share of the CPU only books the host's RAM."""
    offloaded = [share for share in placement.shares if share.kind is not DeviceKind.CPU]
    if not offloaded:
        # `none` also keeps llama.cpp from using a GPU for long prompts, which it does without asking (op offload).
        return ["-ngl", "0", "--device", "none"]
    for share in offloaded:
        if not share.engine_name:
            raise ValueError(f"device {share.device} of {placement.worker} has no engine_name to give to --device")
    layers = [share.layers for share in offloaded]
    arguments = ["-ngl", str(sum(layers)), "--device", ",".join(share.engine_name for share in offloaded)]
    if len(offloaded) > 1:
        arguments += ["--tensor-split", ",".join(map(str, layers))]
    return arguments
