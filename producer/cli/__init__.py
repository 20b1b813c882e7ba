"""Click verbs of `producer`: arguments, printing, exit codes; nothing else.

A verb is loaded when it is used, and what it needs when it is run, so that help comes at once.
"""

from __future__ import annotations

import os
from typing import Final

import click

from worker.contract.commands import LazyCommand, TranslatedGroup, version_option

_STANDARD_ERROR: Final = 2
# The first paragraph of the help of each, by its module.
_VERBS: Final = {
    "submit": {
        "submit": "Tag images: files, directories, patterns, or - for a list on standard input.",
    },
    "watch": {
        "watch": (
            "Tag images in DIRECTORY that are not done yet, then those that arrive, until "
            "interrupted."
        ),
    },
    "jobs": {
        "results": (
            "Write the records of a job that was sent with --no-wait: those available so far."
        ),
        "status": "Show all jobs, the workers online and the dead letters, or one job.",
        "cancel": "Cancel a job: its images that wait in the queue fail with the code `cancelled`.",
        "requeue": "Send dead letters (see `producer status`) again, as a new job.",
    },
    "labels": {
        "labels": (
            "List the vocabularies, label sets for --labels that come with this program; or print "
            "NAME."
        ),
    },
    "records": {
        "convert": "Write the records of FILE in another format, or as sidecars beside the images.",
        "retag": "Tag the images of FILE with other labels, from the embeddings kept in FILE.",
        "search": (
            "Find the images of FILE that are nearest to TEXT, by the embeddings kept in FILE."
        ),
        "untag": "Remove our keywords from XMP sidecars, in directories or of single images.",
    },
    "servers": {
        "serve": "Serve the HTTP API until interrupted: tags for single images, and jobs.",
        "exporter": "Serve queue metrics for Prometheus, until interrupted. Run one per Redis.",
    },
    "doctor": {
        "doctor": "Check broker, workers, model, clocks, and who may read PATH; say what to do.",
    },
    "completion": {
        "completion": (
            "Print the line that completes commands and options: add it to the shell's start file."
        ),
    },
}


@click.group(cls=TranslatedGroup, context_settings={"help_option_names": ["-h", "--help"]})
@version_option
def main() -> None:
    """Send images to be tagged, and collect the tags."""
    from producer.arguments import write_as_options
    from producer.backend.malloc import limit_malloc_arenas

    # Where a standard stream is closed (`>&-`), no file or connection may take its number.
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        pass
    os.close(number)
    limit_malloc_arenas()
    write_as_options()


for module, verbs in _VERBS.items():
    for name, summary in verbs.items():
        main.add_command(LazyCommand(name, f"producer.cli.{module}", summary))
