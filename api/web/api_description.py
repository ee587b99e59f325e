"""`/docs`: the management API for people. All of it is ours: no other host's script runs where an administrator is."""

from fastapi import Request, Response

from api.web.api_view import operations_of, shapes_of
from api.web.rendering import render
from api.web.route import page_router
from api.web.session import token_of, visitor_of

router = page_router()


@router.get("/docs")
async def show_api(request: Request) -> Response:
    """What OpenAPI tells programs. Nobody needs to be signed in for it: it is the same for all."""
    # Who is signed in has their pages in the bar, all the same.
    request.state.visitor = visitor_of(request.app.state.context, token_of(request))
    document = request.app.openapi()
    return render(
        request,
        "api.html",
        title=document["info"]["title"],
        operations=operations_of(document),
        shapes=shapes_of(document),
    )
