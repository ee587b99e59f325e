"""Whether the devices that a deployment names are what they are called."""

from collections.abc import Sequence

from api.deps import ApiContext
from api.errors import FieldError, ProblemError
from api.schemas.devices import kind_faults
from stoker.storage.workers import Workers


async def check_devices(context: ApiContext, devices: Sequence[str], *, field: str = "devices") -> None:
    """Raises ProblemError for devices that a worker has, but of another kind than was written."""
    if not any(":" in device for device in devices):
        return
    statuses = await context.read(lambda session, now: Workers(session, now).all())
    faults = kind_faults(devices, {status.worker.name: status.worker for status in statuses})
    if faults:
        errors = [FieldError(field=field, message=fault) for fault in faults]
        raise ProblemError("invalid_request", "; ".join(f"{field}: {fault}" for fault in faults), errors=errors)
