"""`foreshock check`: every problem of manifests and settings with its path, without a cluster or a Prometheus."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from foreshock.app.settings import Settings, configured_path, load_settings
from foreshock.cli.output import Output, OutputOption, console, print_error, print_json, print_problems
from foreshock.core.errors import InvalidSettings, Problem
from foreshock.manifests.files import LoadedManifest, load_each

NAME = "check"


def command(
    manifests: Annotated[
        list[Path], typer.Argument(metavar="MANIFEST", help="Files, or folders with *.yaml, *.yml or *.json.")
    ],
    config: Annotated[
        Path | None,
        typer.Option(help="The settings file: is what the manifests name in it? Else FORESHOCK_CONFIG's."),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Find every problem in manifests, each with its path and what to do.

    Exits with 0 where there is none, with 1 where there is one.

    For example:

        foreshock check examples/

        foreshock check detector.yaml --config foreshock.yaml --output json
    """
    loaded = load_each(manifests)
    problems = [*loaded.problems, *_problems_with_settings(loaded.manifests, config)]
    for note in loaded.notes:
        print_error(note)
    if output is Output.JSON:
        print_json({"problems": [asdict(problem) for problem in problems]})
    else:
        print_problems(problems)
        console().print(_summary(len(loaded.manifests), len(problems)))
    if problems:
        raise typer.Exit(1)


def _problems_with_settings(manifests: Sequence[LoadedManifest], config: Path | None) -> Iterator[Problem]:
    """The settings' own problems; where there is none, every name in a manifest that nobody configured."""
    if config is None and configured_path(os.environ) is None:
        return
    try:
        settings = load_settings(config, os.environ, needs_prometheus=False)
    except InvalidSettings as error:
        yield from error.problems
        return
    for manifest in manifests:
        yield from _unknown_names(manifest, settings)


def _unknown_names(manifest: LoadedManifest, settings: Settings) -> Iterator[Problem]:
    for broken in settings.objections(manifest.detector):
        yield Problem(manifest.file, f"{manifest.path}.{broken.path}".lstrip("."), broken.sentence)


def _summary(n_sound: int, n_problems: int) -> str:
    detectors = f"{n_sound} sound detector{'' if n_sound == 1 else 's'}"
    problems = f"{n_problems or 'no'} problem{'' if n_problems == 1 else 's'}"
    return f"{detectors}, {problems}."
