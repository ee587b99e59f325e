"""A group of commands that lists when it is told nothing else."""

from typing import Any

from typer.core import TyperGroup


class ListsByDefault(TyperGroup):
    """`stoker workers -o json` is `stoker workers ls -o json`, and so is `stoker workers list -o json`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts `ls` in front where no command stands."""
        if not args and ctx.resilient_parsing:  # a shell asks which commands there are
            return super().parse_args(ctx, args)
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["ls", *args]
        return super().parse_args(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; people type both words for a listing."""
        return super().get_command(ctx, cmd_name) or (super().get_command(ctx, "ls") if cmd_name == "list" else None)
