"""Templates become pages."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from api.errors import STATUS_BY_CODE, ProblemError
from api.web.forms import TOKEN_FIELD
from api.web.navigation import entries_for, home_of, is_current
from api.web.static_files import static
from stoker.domain.units import format_bytes, format_count
from stoker.version import VERSION

NOTICE_COOKIE, THEME_COOKIE = "stoker_notice", "stoker_theme"
THEMES = ("auto", "light", "dark")

_NOTICE_SECONDS = 60
_LONGEST_NOTICE = 500  # characters


def render(
    request: Request, template: str, /, *, status: int = 200, live: Sequence[str] = (), **values: Any
) -> HTMLResponse:
    """The page that `template` makes of `values`, for whoever is signed in.

    `live`: the topics that it listens to. The template also has `visitor`, `path`, `now`, and the functions of
    `_ENVIRONMENT`.
    """
    visitor = getattr(request.state, "visitor", None)
    theme = request.cookies.get(THEME_COOKIE, "auto")
    notice = "" if "hx-request" in request.headers else unquote(request.cookies.get(NOTICE_COOKIE, ""))
    made = _ENVIRONMENT.get_template(template).render(
        visitor=visitor,
        entries=entries_for(visitor.key.role) if visitor is not None else (),
        home=home_of(visitor.key.role) if visitor is not None else "/sign-in",
        path=request.url.path,
        here=request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        now=request.app.state.context.clock(),
        theme=theme if theme in THEMES else "auto",
        notice=notice,
        live_topics=",".join(live),
        **values,
    )
    response = HTMLResponse(made, status_code=status)
    if notice:
        response.delete_cookie(NOTICE_COOKIE, httponly=True, samesite="strict")
    return response


def redirect(request: Request, path: str, notice: str = "") -> Response:
    """To `path`, whose page says `notice` on top: what was done, never a secret."""
    if "hx-request" in request.headers:
        response = Response(headers={"hx-redirect": path})
    else:
        response = RedirectResponse(path, status_code=303)
    if notice:
        value = quote(notice[:_LONGEST_NOTICE])
        response.set_cookie(NOTICE_COOKIE, value, max_age=_NOTICE_SECONDS, httponly=True, samesite="strict")
    return response


def problem_status(problem: ProblemError) -> int:
    """The status of a page that shows it."""
    return STATUS_BY_CODE[problem.code]


def age_of(moment: datetime, now: datetime) -> str:
    """How long ago `moment` was: `12 s`, `3 min`, `2 h`, `5 d`; what is to come counts from now on."""
    seconds = abs((now - moment).total_seconds())
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size * (2 if unit == "d" else 1):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def seconds_text(seconds: float | None) -> str:
    """A short time for people: `81 ms`, `1.46 s`, `3.2 min`; None: unknown."""
    if seconds is None:
        return "\N{EN DASH}"
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 99.5 else f"{seconds / 60:.3g} min"


@pass_context
def _when(context: Context, moment: datetime | None) -> Markup:
    """A `<time>` that shows the age and has the moment for machines, and in its title."""
    if moment is None:
        return Markup("\N{EN DASH}")
    moment = moment.astimezone(UTC)
    age, to_come = age_of(moment, context["now"]), moment > context["now"]
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        moment.isoformat(timespec="seconds"),
        f"{moment:%Y-%m-%d %H:%M:%S} UTC",
        f"in {age}" if to_come else f"{age} ago",
    )


@pass_context
def _csrf(context: Context) -> Markup:
    """The hidden field that each form has."""
    return Markup('<input type="hidden" name="{}" value="{}">').format(TOKEN_FIELD, context["visitor"].form_token)


def _live(section: str, topic: str, address: str) -> Markup:
    """The attributes, id included, of a section whose content is fetched again from `address` when the topic changes.

    The section itself stays: what has changed while it was being fetched waits in it, and is fetched after that.
    """
    return Markup(
        'id="{0}" hx-get="{1}" hx-select="#{0} > *" hx-trigger="live:{2} from:body" hx-swap="innerHTML"'
        ' hx-sync="this:queue last"'
    ).format(section, address, topic)


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(static=static, csrf=_csrf, live=_live, when=_when, is_current=is_current, version=VERSION)
    made.globals.update(themes=THEMES)
    made.filters.update(bytes=format_bytes, count=format_count, seconds=seconds_text, whole=lambda n: f"{n:,}")
    return made


_ENVIRONMENT = _environment()
