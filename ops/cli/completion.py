"""``formrelay completion``: the script with which a shell completes commands, queues and ids."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ..output import print_document


class Shell(StrEnum):
    """A shell that completes."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Print the script that completes commands, queues and ids in a shell.

    Add a line to the startup file of your shell:

    ~/.bashrc: eval "$(formrelay completion bash)"

    ~/.zshrc, after compinit: eval "$(formrelay completion zsh)"

    ~/.config/fish/config.fish: formrelay completion fish | source

    Example: formrelay completion bash
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    script = get_completion_script(
        prog_name="formrelay", complete_var="_FORMRELAY_COMPLETE", shell=shell.value
    )
    print_document(script + "\n")
