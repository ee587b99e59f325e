"""What a form sent, checked to come from one of our own pages."""

import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qs

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError

from api.errors import FieldError, ProblemError, field_errors
from api.web.session import PageDep, is_from_our_page

M = TypeVar("M", bound=BaseModel)

TOKEN_FIELD, TOKEN_HEADER = "csrf", "x-csrf-token"
_MOST_FIELDS = 1000


class Form:
    """The fields of a form, as text. What was left empty counts as not given."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self._fields = fields

    def __contains__(self, name: str) -> bool:
        return bool(self.get(name))

    def get(self, name: str, default: str = "") -> str:
        """The field's text without the blanks around it."""
        return next(iter(self.all(name)), default)

    def all(self, name: str) -> list[str]:
        """All values of a field that may be there several times, those that are not empty."""
        return [text for value in self._fields.get(name, []) if (text := value.strip())]

    def words(self, name: str) -> list[str]:
        """The items of a field with several, divided by commas or blanks."""
        return self.get(name).replace(",", " ").split()

    def number(self, name: str) -> int | str | None:
        """A whole number; None: not given. What is none is returned as it is, for a schema to refuse by name."""
        text = self.get(name).replace("_", "")
        return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text or None

    def values(self) -> dict[str, str]:
        """All fields, to show them again."""
        return {name: self.get(name) for name in self._fields if name != TOKEN_FIELD}


def checked(schema: type[M], values: Mapping[str, Any]) -> M:
    """One of the API's schemas from a form's values. Raises ProblemError with a FieldError for each that is wrong."""
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        fields = field_errors(error.errors())
        raise ProblemError("invalid_request", _together(fields), errors=fields) from error


def refused_field(name: str, value: str, message: str) -> ProblemError:
    """A refusal because of one field."""
    fields = [FieldError(field=name, message=message, value=value)]
    return ProblemError("invalid_request", _together(fields), errors=fields)


def _together(fields: Iterable[FieldError]) -> str:
    return "; ".join(f"{field.field}: {field.message}" for field in fields)


async def read_form(request: Request) -> Form:
    """The fields of any form of ours. Raises ProblemError for one that another site sent."""
    if not is_from_our_page(request):
        raise ProblemError("forbidden", "this form was not sent by a page of this server: open the page, and try again")
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise ProblemError("invalid_request", "a form's content is application/x-www-form-urlencoded")
    try:
        text = (await request.body()).decode()
        return Form(parse_qs(text, keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS))
    except ValueError as error:
        raise ProblemError("invalid_request", f"the form could not be read: {error}") from error


async def _form(request: Request, visitor: PageDep) -> Form:
    form = await read_form(request)
    token = request.headers.get(TOKEN_HEADER) or form.get(TOKEN_FIELD)
    if not secrets.compare_digest(token.encode(), visitor.form_token.encode()):
        raise ProblemError("forbidden", "this form belongs to another session: open the page again, and repeat it")
    return form


FormDep = Annotated[Form, Depends(_form)]
"""The fields of a form that whoever is signed in sent from our own page."""
