"""The command line: options from config's table, checks of the host, then somebody else's work.

`mount` ends by becoming the keeper (exec); what that starts is servecommand.py. Errors are one
line of what is wrong and one of what to do, on stderr; exit codes are in errors.py. Data go to
stdout.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from pylxcfs import __version__, log
from pylxcfs.cli import launch
from pylxcfs.cli import options as config
from pylxcfs.cli.kinds import FuseOptions, Kind, Switch
from pylxcfs.cli.options import ALIASES, BY_NAME, OPTIONS, Alias, Config, Option
from pylxcfs.errors import UsageError, UserError

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Value(click.ParamType[Any]):
    """An option's kind, as click wants it."""

    def __init__(self, kind: Kind[Any]) -> None:
        self.name = kind.metavar
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401  click's signature
        try:
            return self._kind.text(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _click_option(option: Option) -> Callable[[_Command], _Command]:
    text = f"{option.help}  [default: {option.default_text}; {option.env}]"
    if isinstance(option.kind, Switch):
        return click.option(*option.flags, option.name, default=None, help=text)
    return click.option(
        *option.flags,
        option.name,
        type=_Value(option.kind),
        metavar=option.kind.metavar,
        multiple=isinstance(option.kind, FuseOptions),
        help=text,
    )


def _click_alias(alias: Alias) -> Callable[[_Command], _Command]:
    return click.option(*alias.flags, _alias_key(alias), is_flag=True, help=alias.help)


def _alias_key(alias: Alias) -> str:
    return "alias_" + alias.flags[0].lstrip("-").replace("-", "_")


def _options(*names: str) -> Callable[[_Command], _Command]:
    """Add the options with these names (none given: all, and the aliases) and MOUNTPOINT."""

    def decorate(command: _Command) -> _Command:
        options = [option for option in OPTIONS if option.flags]
        if names:
            options = [BY_NAME[name] for name in names]
        else:
            for alias in reversed(ALIASES):
                command = _click_alias(alias)(command)
        for option in reversed(options):
            command = _click_option(option)(command)
        command = click.option(
            "--config",
            "config_file",
            type=_Value(BY_NAME["mountpoint"].kind),
            metavar="PATH",
            help=f"TOML file.  [default: {config.DEFAULT_FILE} if it exists; PYLXCFS_CONFIG]",
        )(command)
        argument = click.argument("mountpoint", required=False, type=_Value(_PATH))
        return argument(command)

    return decorate


_PATH = BY_NAME["mountpoint"].kind


def _load(context: click.Context) -> Config:
    """Return the configuration; what the command line does not say is looked up elsewhere."""
    given = {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    flags = {name: value for name, value in given.items() if name in BY_NAME}
    if "fuse_options" in flags:
        flags["fuse_options"] = tuple(item for items in flags["fuse_options"] for item in items)
    for alias in ALIASES:
        if alias.name and _alias_key(alias) in given:
            flags.setdefault(alias.name, alias.value)
    return config.load(flags, os.environ, context.params["config_file"])


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-v", "--version", message="%(prog)s %(version)s")
def cli() -> None:
    """Let each container read its own numbers in /proc and /sys.

    Exit codes: 0 done, 1 a bug, 2 usage or configuration, 3 something is missing on this
    machine, 4 the mountpoint cannot be used, 5 another instance runs.
    """


@cli.command(epilog=f"MOUNTPOINT is {BY_NAME['mountpoint'].default} unless given.")
@click.version_option(__version__, "-v", "--version", message="pylxcfs %(version)s")
@_options()
@click.pass_context
def mount(context: click.Context, /, **_: object) -> None:
    """Serve the files at MOUNTPOINT, in the foreground, until SIGTERM or SIGINT.

    SIGHUP reloads the configuration, SIGUSR1 replaces the server (after an upgrade), SIGUSR2
    switches between the containers' values and the host's, SIGQUIT logs stacks.
    """
    launch.become_keeper(_load(context))


@cli.command()
@click.argument("file")
@click.option("--pid", type=click.IntRange(1), required=True, help="The process that would read.")
@_options("cpu_view", "cpu_numbering", "disable_swap", "init_pid_method", "log_level")
@click.pass_context
def show(context: click.Context, /, file: str, pid: int, **_: object) -> None:
    """Print what process --pid would read from FILE, such as proc/meminfo, without a mount."""
    settings = _load(context)
    log.setup(settings.log_level)
    from pylxcfs.server import serve as daemon  # the other commands must work without it, and fast

    sys.stdout.buffer.write(daemon.show(settings, file, pid))


@cli.command()
@_options("pidfile", "runtime_dir")
@click.option("--unless-restart", metavar="UNIT", hidden=True, help="For its ExecStopPost.")
@click.pass_context
def unmount(context: click.Context, /, unless_restart: str | None, **_: object) -> None:
    """End what serves MOUNTPOINT and unmount it for good."""
    launch.unmount(_load(context), unless_restart)


def main() -> NoReturn:
    """Run the command; turn errors into two lines and an exit code."""
    try:
        code = cli.main(prog_name="pylxcfs", standalone_mode=False)
    except UserError as error:
        log.fail(error)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "pylxcfs"
        log.fail(UsageError(error.format_message(), f"see {where} --help"))
    except click.Abort:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
