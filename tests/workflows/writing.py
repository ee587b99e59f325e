"""A workflow that only keeps one row as it is told to."""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from workflows.row_writer import RowWriter


@workflow.defn
class Writing:
    """Wants what it is told to want, until it is told to end."""

    def __init__(self) -> None:
        self._ended = False
        self._row = RowWriter[str](self._write)

    @workflow.signal
    def want(self, rows: list[str]) -> None:
        """One wish after the other, without a pause."""
        for row in rows:
            self._row.want(row)

    @workflow.signal
    def end(self) -> None:
        """No more wishes."""
        self._ended = True

    @workflow.run
    async def run(self) -> None:
        """Ends when the last wish is written."""
        await workflow.wait_condition(lambda: self._ended)
        await self._row.flush()

    async def _write(self, row: str) -> None:
        await workflow.execute_activity("write_row", row, start_to_close_timeout=timedelta(seconds=30))
