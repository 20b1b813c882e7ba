"""The verb `producer completion`: how a shell learns to complete our commands."""

from __future__ import annotations

import click

from producer.cli.verbs import verb


@verb("producer completion bash >> ~/.bashrc")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the line that completes commands and options: add it to the shell's start file."""
    lines = {
        "bash": 'eval "$(_PRODUCER_COMPLETE=bash_source producer)"',
        "zsh": 'eval "$(_PRODUCER_COMPLETE=zsh_source producer)"',
        "fish": "_PRODUCER_COMPLETE=fish_source producer | source",
    }
    click.echo(lines[shell])
