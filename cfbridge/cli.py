"""What can be said to cfbridge on a command line? The words; what they do is in `cfbridge.commands`, read when asked.

Exit codes: 0 done, 1 refused, 2 usage, 3 unavailable or degraded. `--help` must stay under 150 ms and a question to the
bridge under 400, so nothing here imports more than click and the standard library.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from egress.values import RefusedError, Unavailable, printable

REFUSED, USAGE, UNAVAILABLE = 1, 2, 3

_WORDS: Mapping[str, tuple[str, str]] = {
    "serve": ("daemons:serve", "Run the bridge."),
    "agent": ("daemons:agent", "Run the agent of a cell."),
    "demo": ("others:demo", "Bring up a foundation in a box and play a story in it."),
    "sim": ("simulated:sim", "Change the simulated foundation of the box."),
    "status": ("reading:status", "Say in one line whether all is well, and why not."),
    "foundation": ("reading:foundation", "Cloud Foundries that are looked at."),
    "held": ("holding:held", "What foundations withdrew, too much to be believed at once."),
    "cell": ("reading:cell", "Cells and how far they are."),
    "org": ("reading:org", "Orgs and their networks."),
    "pool": ("reading:pool", "Address pools."),
    "policy": ("reading:policy", "Network policies that cf made (read-only)."),
    "asg": ("reading:asg", "Security groups that cf made (read-only)."),
    "workload": ("reading:workload", "Containers and virtual machines."),
    "rule": ("editing:rule", "Every rule, in the order of evaluation."),
    "review": ("reading:review", "Rules that somebody should look at."),
    "vm": ("editing:vm", "Virtual machines next to the containers."),
    "group": ("editing:group", "Groups that rules name."),
    "tag": ("editing:tag", "Our own tags of orgs, spaces, apps and machines."),
    "explain": ("explaining:explain", "Say whether a connection passes, by which rule, and what would allow it."),
    "plan": ("publishing:plan", "Show what a policy file would change."),
    "apply": ("publishing:apply", "Publish a policy file."),
    "export": ("publishing:export", "Write the policy file of what is in force."),
    "draft": ("publishing:draft", "Edits that nobody published yet."),
    "revision": ("publishing:revision", "What was published, and back to it."),
    "audit": ("auditing:audit", "What people told the bridge to do."),
    "config": ("checking:config", "Check a config file."),
    "version": ("others:version", "Say which version this is."),
}


class _Lazy(click.Group):
    """Knows the words and one line about each; imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_WORDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _WORDS:
            return None
        module, _, name = _WORDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"cfbridge.commands.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(word, says) for word, (_, says) in _WORDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _WORDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], _WORDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
def cfbridge() -> None:
    """Networking and security for Cloud Foundry: who may talk to whom, and how orgs leave.

    \b
    Example:
      cfbridge status
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Errors are one sentence, the code, and what to do; never a traceback for what is the user's or the network's."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    try:
        result: Any = cfbridge.main(
            args=None if arguments is None else list(arguments), prog_name="cfbridge", standalone_mode=False
        )
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.Abort:
        return 130
    except click.ClickException as wrong:
        wrong.show()
        return USAGE
    except RefusedError as refused:
        click.echo(printable(f"{refused.refused.message} ({refused.refused.code})"), err=True)
        return UNAVAILABLE if refused.refused.code == "UNAVAILABLE" else REFUSED
    except Unavailable as away:
        click.echo(printable(str(away)), err=True)
        return UNAVAILABLE
    except BrokenPipeError:
        # The reader (`| head`) went away: that is its right, and Python must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    main()
