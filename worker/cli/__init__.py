"""Click verbs of `worker`: arguments, printing, exit codes; nothing else.

A verb is loaded when it is used, and what it needs when it is run, so that help comes at once.
"""

from __future__ import annotations

from typing import Final

import click

from worker.contract.commands import LazyCommand, TranslatedGroup, version_option

# The first paragraph of the help of each; its module has its name.
_VERBS: Final = {
    "start": "Start a worker; Ctrl-C or SIGTERM finishes what is in flight and returns the rest.",
    "export": "Export a Hugging Face model as an artifact, and print where it is.",
    "bench": "Measure a model in every engine and precision, next to plain transformers.",
    "evaluate": "Measure how right a model is on PICTURES whose labels are known.",
    "texts": (
        "Embed a label set, for programs: JSON on standard input, a line of JSON and float32 out."
    ),
    "health": "Ask the worker at WANWU_MONITOR_PORT whether it is healthy; exit 0 if so, else 1.",
}


@click.group(cls=TranslatedGroup, context_settings={"help_option_names": ["-h", "--help"]})
@version_option
def main() -> None:
    """Run a model and tag the images that producers submit."""
    from worker.artifact.cache_dir import provide_home
    from worker.blas import multiply_alone, wait_briefly

    multiply_alone()
    wait_briefly()
    provide_home()


for name, summary in _VERBS.items():
    main.add_command(LazyCommand(name, f"worker.cli.{name}", summary))
