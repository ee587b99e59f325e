"""A group of commands that lists when it is told nothing else."""

from typing import Any

from typer.core import TyperGroup


class ListsByDefault(TyperGroup):
    """`stoker workers -o json` is `stoker workers ls -o json`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts `ls` in front where no command stands."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["ls", *args]
        return super().parse_args(ctx, args)
