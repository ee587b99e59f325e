"""Decisions of placement as REST reads them: where an instance is, or would be, and why it is nowhere."""

from typing import Any, Self

from pydantic import BaseModel, Field

from api.schemas.memory import EstimateRead
from stoker.domain.placement.types import Placement, Rejection, Tier, Unplaceable

TIER_NAMES = {
    Tier.ONE_DEVICE: "one GPU",
    Tier.ONE_WORKER: "GPUs of one worker",
    Tier.SEVERAL_WORKERS: "GPUs of several workers",
    Tier.PART_ON_CPU: "one worker, part on its CPU",
    Tier.PART_ON_CPU_SEVERAL_WORKERS: "several workers, part on a CPU",
    Tier.CPU: "one worker's CPU",
    Tier.CPU_SEVERAL_WORKERS: "CPUs of several workers",
}
"""What the ways of placing a model are called, wherever people read of them."""


class ShareRead(BaseModel):
    """What one device holds for the instance."""

    worker: str = Field(description="Whose device it is.")
    device: str
    kind: str
    layers: int = Field(description="Offloaded layers, the output layer counted as one; 0: it only books RAM.")
    claimed_bytes: int


class PlacementRead(BaseModel):
    """Where the instance is, and why there."""

    worker: str = Field(description="Where the main server runs.")
    workers: list[str] = Field(description="The main server's, then those that lend it devices.")
    tier: Tier = Field(
        description="Which way of placing a model it is; they are tried in the order of the enumeration."
    )
    shares: list[ShareRead] = Field(description="Those with layers first, in the order in which the engine has them.")
    claimed_bytes: int
    estimate: EstimateRead
    reason: str
    warning: str = Field(description="What may go wrong, because it was asked for so; empty: nothing.")

    @classmethod
    def of(cls, placement: Placement) -> Self:
        """The placement with its shares."""
        return cls(
            worker=placement.worker,
            workers=list(placement.workers),
            tier=placement.tier,
            shares=[
                ShareRead(
                    worker=placement.worker_of(share),
                    device=share.device,
                    kind=share.kind,
                    layers=share.layers,
                    claimed_bytes=share.claim,
                )
                for share in placement.shares
            ],
            claimed_bytes=placement.claimed,
            estimate=EstimateRead.of(placement.estimate),
            reason=placement.reason,
            warning=placement.warning,
        )


class RejectionRead(BaseModel):
    """Why one worker or device was refused."""

    rule: str
    tier: Tier | None = Field(description="For which way of placing a model; null: for all.")
    worker: str
    device: str
    message: str
    needed_bytes: int
    available_bytes: int
    short_bytes: int

    @classmethod
    def of(cls, rejection: Rejection) -> Self:
        """One refusal."""
        return cls(
            rule=rejection.rule,
            tier=rejection.tier,
            worker=rejection.worker,
            device=rejection.device,
            message=rejection.message,
            needed_bytes=rejection.needed,
            available_bytes=rejection.available,
            short_bytes=rejection.short,
        )


class TierRead(BaseModel):
    """Why one way of placing a model has no place, where it came nearest."""

    tier: Tier
    rule: str
    message: str
    short_bytes: int = Field(description="Bytes missing there; 0 when it is not about memory.")
    layers: int = Field(description="Most layers that it could have held on devices.")
    of_layers: int


class SuggestionRead(BaseModel):
    """A change that was verified to make it fit now."""

    text: str
    changes: dict[str, Any] = Field(description="Fields of the deployment, dotted, and the values to give them.")


class PendingRead(BaseModel):
    """Why the instance waits, and what would let it start."""

    summary: str
    tiers: list[TierRead] = Field(description="Those that the deployment allows, in their order.")
    rejections: list[RejectionRead] = Field(description="The nearest miss first.")
    more: dict[str, int] = Field(description="How many more refusals there are, by rule.")
    suggestions: list[SuggestionRead]
    reserved: list[str] = Field(description="Devices that are kept free for it, as WORKER/DEVICE: it has waited long.")

    @classmethod
    def of(cls, why: Unplaceable) -> Self:
        """The whole explanation."""
        return cls(
            summary=why.summary,
            tiers=[
                TierRead(
                    tier=tier.tier,
                    rule=tier.rule,
                    message=tier.message,
                    short_bytes=tier.short,
                    layers=tier.layers,
                    of_layers=tier.of_layers,
                )
                for tier in why.tiers
            ],
            rejections=[RejectionRead.of(rejection) for rejection in why.rejections],
            more={str(rule): count for rule, count in why.more.items()},
            suggestions=[SuggestionRead(text=one.text, changes=dict(one.changes)) for one in why.suggestions],
            reserved=[f"{device.worker}/{device.device}" for device in why.reserved],
        )
