"""A group of commands whose modules are imported only when they run, and whose errors are one line.

`genesis --help` must answer at once, so a group lists its commands from a static table instead of
importing them.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from genesis.errors import GenesisError, nearest_names, printable

__all__ = ["Commands"]

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


class Commands(click.Group):
    """A lazy group.

    Args:
        name: Name of the group.
        commands: Name -> ("module:command", one line of help); modules of this package.
        **attributes: Passed on to click.Group.
    """

    def __init__(
        self, name: str, commands: Mapping[str, tuple[str, str]], **attributes: Any
    ) -> None:
        super().__init__(name, **attributes)
        self.lazy = dict(commands)
        self.context_settings["help_option_names"] = ["-h", "--help"]
        self.context_settings["max_content_width"] = 100
        self.params.append(
            click.Option(
                ["--debug"],
                is_flag=True,
                envvar="GENESIS_DEBUG",
                expose_value=False,
                callback=_remember_debug,
                help="Show the traceback of an error.",
            )
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module, __package__), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.lazy and not args[0].startswith("-"):
            ctx.fail(f"no such command '{args[0]}'; {nearest_names(args[0], self.lazy)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.lazy.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        session = extra.setdefault("obj", {"debug": False})
        try:
            status = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as help_text:
            click.echo(help_text.format_message(), err=True)
            sys.exit(help_text.exit_code)
        except Exception as error:
            if session["debug"]:
                traceback.print_exception(error)
            # What others have named themselves commands no terminal.
            click.echo(f"error: {printable(_describe(error))}", err=True)
            sys.exit(_exit_status(error))
        sys.exit(status if isinstance(status, int) else 0)


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    """Tell `main`, which outlives the context, whether tracebacks are wanted."""
    session = ctx.ensure_object(dict)
    session["debug"] = value or session.get("debug", False)


def _exit_status(error: Exception) -> int:
    """Exit status for an error."""
    if isinstance(error, click.Abort):
        return INTERRUPTED
    return error.exit_code if isinstance(error, click.ClickException) else 1


def _describe(error: Exception) -> str:
    """An error in words, on one line."""
    match error:
        case click.UsageError(ctx=click.Context() as ctx):
            message = error.format_message().rstrip(".")
            return f"{message[:1].lower()}{message[1:]}; see '{ctx.command_path} --help'"
        case click.ClickException():
            return error.format_message()
        case click.Abort():
            return "interrupted"
        case GenesisError():
            return str(error)
        case MemoryError():
            return "out of memory; use fewer rows, a smaller batch size or lower --max-categories"
        case OSError(strerror=str() as reason, filename=str() as path):
            return f"cannot use '{path}'; got {reason[:1].lower()}{reason[1:]}"
        case OSError(strerror=str() as reason):
            return f"the system refused; got {reason[:1].lower()}{reason[1:]}"
    return f"unexpected {type(error).__name__}: {error}; run 'genesis --debug …' to see where"
