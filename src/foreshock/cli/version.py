"""`foreshock version`: which Foreshock this is, and on which Python it runs."""

from __future__ import annotations

import platform

from foreshock import __version__
from foreshock.cli.output import Output, OutputOption, console, print_json

NAME = "version"


def command(output: OutputOption = Output.TEXT) -> None:
    """Print the version.

    For example:

        foreshock version

        foreshock version --output json
    """
    facts = {"version": __version__, "python": platform.python_version()}
    if output is Output.JSON:
        print_json(facts)
    else:
        console().print(f"foreshock {facts['version']} (Python {facts['python']})")
