"""What every domain value is made of: frozen, compared by content, safe to send through Temporal as JSON."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class Value(BaseModel):
    """A frozen value. Unknown fields are ignored, so that an older reader survives a newer writer's payload."""

    model_config = ConfigDict(frozen=True, extra="ignore")


DNS_LABEL_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
DNS_LABEL_HINT = "lower-case letters, digits and '-', starting and ending with a letter or digit, at most 63"

DEPLOYMENT_NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$"
DEPLOYMENT_NAME_HINT = DNS_LABEL_HINT.replace("63", "48")

DeploymentName = Annotated[str, StringConstraints(pattern=DEPLOYMENT_NAME_PATTERN)]
"""A DNS label of at most 48 characters: an instance's id is the name and a suffix, and must be a DNS label too."""

WorkerName = Annotated[str, StringConstraints(pattern=DNS_LABEL_PATTERN)]
InstanceId = str
DeviceId = str
Bytes = Annotated[int, Field(ge=0)]
