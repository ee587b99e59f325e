"""What an undo goes back to."""

from datetime import UTC, datetime

import pytest

from stoker.domain.revisions import Revision, RevisionState, undone_by
from tests.builders import make_spec

SUPERSEDED, ROLLED_BACK = RevisionState.SUPERSEDED, RevisionState.ROLLED_BACK


def revision(generation: int, *, slots: int, ran: bool = True) -> Revision:
    spec = make_spec(options={"slots": slots})
    return Revision(
        deployment="llama",
        generation=generation,
        instances_generation=generation,
        spec=spec,
        state=SUPERSEDED if ran else ROLLED_BACK,
        ran=ran,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("revisions", "expected"),
    [
        ([], None),
        ([revision(1, slots=1)], None),
        ([revision(1, slots=1), revision(2, slots=2)], 1),
        ([revision(2, slots=2), revision(1, slots=1)], 1),
        ([revision(1, slots=1), revision(2, slots=2, ran=False), revision(3, slots=3)], 1),
        # after a roll-back: what was rolled back never ran, and the one before it is what is there
        ([revision(1, slots=1), revision(2, slots=2, ran=False), revision(3, slots=1)], None),
        ([revision(1, slots=3), revision(2, slots=1), revision(3, slots=2, ran=False), revision(4, slots=1)], 1),
        # an undo of an undo
        ([revision(1, slots=1), revision(2, slots=2), revision(3, slots=1)], 2),
        # what is wanted now may never have run
        ([revision(1, slots=1), revision(2, slots=2, ran=False)], 1),
    ],
)
def test_undone_by(revisions: list[Revision], expected: int | None) -> None:
    found = undone_by(revisions)
    assert (found.generation if found is not None else None) == expected
