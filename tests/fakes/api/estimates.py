"""`/api/v1/estimates`."""

from fastapi import FastAPI

from api.schemas.estimates import EstimateCreate, MemoryEstimateRead
from stoker.domain.estimation.assessment import Assessment, assess
from tests.builders import make_files, make_profile
from tests.fakes.api.state import ApiState


def add_routes(app: FastAPI, fake: ApiState) -> None:
    @app.post("/api/v1/estimates")
    async def create(body: EstimateCreate) -> MemoryEstimateRead:
        if fake.refusals:
            raise fake.refusals.pop(0)
        options = body.engine_options()
        found = assess(make_profile(), options, devices=body.devices, split=body.split or ())
        assert isinstance(found, Assessment)
        return MemoryEstimateRead.of(body.model, make_files(body.source()), make_profile(), options, found)
