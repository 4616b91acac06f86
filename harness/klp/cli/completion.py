# SPDX-License-Identifier: Apache-2.0
"""`klp completion`: what makes a shell complete klp's words."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from klp.cli.common import example
from klp.cli.saying import say
from klp.errors import ExitCode

_SHELLS = ("bash", "zsh", "fish")


@click.command(epilog=example("echo 'eval \"$(klp completion bash)\"' >> ~/.bashrc"))
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> int:
    """Print what makes a shell complete commands, options, kernels, livepatches, runs, rules and scenarios.

    \b
    For zsh, below compinit:
      echo 'eval "$(klp completion zsh)"' >> ~/.zshrc
    For fish:
      klp completion fish > ~/.config/fish/completions/klp.fish
    """
    from klp.cli.main import klp

    # By the name that it was called by: it is installed as klp-lab as well.
    called = Path(sys.argv[0]).name
    program = called if called == "klp-lab" else "klp"
    variable = f"_{program}_COMPLETE".replace("-", "_").upper()
    script = get_completion_class(shell)
    assert script is not None, shell
    say(script(klp, {}, program, variable).source())
    return ExitCode.OK
