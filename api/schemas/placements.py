"""Questions of what would be, if, as REST asks and answers them."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from api.schemas.deployments import DeploymentCreate
from api.schemas.reasons import PendingRead, PlacementRead
from stoker.domain.base import DEPLOYMENT_NAME_PATTERN, DNS_LABEL_PATTERN
from stoker.domain.placement.types import Placement, Unplaceable
from stoker.domain.placement.what_if import Drained, Machine, Move, Simulation

_MOST_MACHINES = 64

WorkerNameField = Annotated[str, Field(pattern=DNS_LABEL_PATTERN)]


class PlacementsCreate(BaseModel):
    """What is to be placed, or emptied, and on which machines: those of today, some more, or some less."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "deployment": {"name": "smol", "model": "hf:bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M"},
                "add": ["2x80GiB+256GiB"],
            }
        },
    )

    deployment: DeploymentCreate | None = Field(
        default=None, description="A deployment that would be made; or, of the name of one that is there, changed."
    )
    name: Annotated[str, Field(pattern=DEPLOYMENT_NAME_PATTERN)] | None = Field(
        default=None, description="A deployment that is there: as if all its instances were placed anew."
    )
    drain: WorkerNameField | None = Field(default=None, description="A worker that would be drained.")
    add: list[Annotated[str, Field(max_length=100)]] = Field(
        default_factory=list,
        max_length=_MOST_MACHINES,
        description="Machines that would join: 4x24GiB, or 2x80GiB+256GiB with so much RAM.",
    )
    without: list[WorkerNameField] = Field(
        default_factory=list, max_length=10_000, description="Workers that would be gone."
    )

    @field_validator("add")
    @classmethod
    def _are_machines(cls, value: list[str]) -> list[str]:
        for text in value:
            Machine.parse(text)
        return value

    @model_validator(mode="after")
    def _asks_one_thing(self) -> Self:
        given = [field for field in ("deployment", "name", "drain") if getattr(self, field) is not None]
        if len(given) != 1:
            raise ValueError(
                "give exactly one of deployment (what would be deployed), name (of a deployment that is there) and "
                f"drain (a worker's name); given: {' and '.join(given) or 'none of them'}"
            )
        return self

    def machines(self) -> list[Machine]:
        """The machines that would join."""
        return [Machine.parse(text) for text in self.add]


class MoveRead(BaseModel):
    """One instance of a worker that is drained: where it would go, or why nowhere."""

    instance: str
    deployment: str
    placement: PlacementRead | None
    pending: PendingRead | None

    @classmethod
    def of(cls, move: Move) -> Self:
        """One of `drained`'s."""
        outcome = move.outcome
        return cls(
            instance=move.instance_id,
            deployment=move.deployment,
            placement=PlacementRead.of(outcome) if isinstance(outcome, Placement) else None,
            pending=PendingRead.of(outcome) if isinstance(outcome, Unplaceable) else None,
        )


class WhatIfRead(BaseModel):
    """What would be. Nothing of it is claimed, or kept."""

    fits: bool = Field(description="Whether everything has a place.")
    placements: list[PlacementRead] = Field(description="Of each replica in turn, as far as there is room.")
    unplaceable: PendingRead | None = Field(description="Why the next replica has none.")
    moves: list[MoveRead] = Field(description="Of the drained worker's instances, in the order in which they choose.")

    @classmethod
    def of_simulation(cls, found: Simulation) -> Self:
        """Replicas of one deployment."""
        return cls(
            fits=found.fits,
            placements=[PlacementRead.of(placement) for placement in found.placements],
            unplaceable=PendingRead.of(found.unplaceable) if found.unplaceable is not None else None,
            moves=[],
        )

    @classmethod
    def of_drain(cls, found: Drained) -> Self:
        """Instances of one worker."""
        return cls(fits=found.fits, placements=[], unplaceable=None, moves=[MoveRead.of(move) for move in found.moves])
