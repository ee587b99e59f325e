"""All pages together. Beside the management API, in the same application, with nothing in front of it."""

from fastapi import APIRouter

from api.web import (
    api_description,
    deployments,
    deployments_activity,
    deployments_new,
    files,
    fleet,
    keys,
    model_routes,
    playground,
    sign_in,
    static_files,
    usage,
    what_if,
    workers,
)
from api.web.live import Topic, live_router

PAGES = (
    sign_in,
    fleet,
    workers,
    what_if,
    files,
    model_routes,
    keys,
    usage,
    deployments_new,
    deployments_activity,
    deployments,
    playground,
    api_description,
)
"""Modules with a `router`, and those that change by themselves with `TOPICS`."""


def web_router() -> APIRouter:
    """The web page's routes."""
    topics: dict[str, Topic] = {}
    for page in PAGES:
        topics |= getattr(page, "TOPICS", {})
    router = APIRouter()
    router.include_router(static_files.router)
    for page in PAGES:
        router.include_router(page.router)
    router.include_router(live_router(topics))
    return router
