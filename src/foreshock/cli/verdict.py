"""`foreshock verdict`: say what an incident was, so that training and thresholds follow."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from foreshock.app.clock import SystemClock
from foreshock.cli.models import open_history
from foreshock.cli.output import Output, OutputOption, console, print_json
from foreshock.core.errors import UserError
from foreshock.lifecycle.feedback import precision_of
from foreshock.store.records import Feedback

NAME = "verdict"


class Verdict(StrEnum):
    """What people may say of an incident; `none` takes it back."""

    TRUE_POSITIVE = "true_positive"
    FALSE_POSITIVE = "false_positive"
    EXPECTED_CHANGE = "expected_change"
    NONE = "none"


def command(
    incident: Annotated[str, typer.Argument(metavar="ID", help="The incident, as events name it.", show_default=False)],
    verdict: Annotated[Verdict, typer.Argument(help="What it was; none takes a verdict back.", show_default=False)],
    note: Annotated[str, typer.Option(help="Why you say so.")] = "",
    config: Annotated[
        Path | None, typer.Option(help="Settings file; else FORESHOCK_CONFIG.", show_default=False)
    ] = None,
    database: Annotated[str | None, typer.Option(help="Where the state is kept.", show_default=False)] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Say what an incident was: worth its alert, not worth it, or real and wanted.

    What was false or expected teaches again; what was true never does, and stays out of the calibration. With five
    verdicts the threshold follows, within 0.9 to 1.5 times its distance. The detector trains anew at once. In a
    cluster, write spec.verdict of the Anomaly instead: it wins over this.

    For example:

        foreshock verdict 1f325062338cf0cd0933a8bf383272a3 false_positive
    """
    history, now_s = open_history(config, database), SystemClock().now_s()
    feedback = None if verdict is Verdict.NONE else Feedback(verdict.value, now_s, "cli", note[:256])
    try:
        known = history.give_verdict(incident, feedback, now_s=now_s)
        if known is None:
            raise UserError(f"There is no incident {incident}: events and `kubectl get anomalies` name them.")
        subject = known.subject
        given = precision_of(history.incidents(namespace=subject.namespace, name=subject.name, limit=1_000))
    finally:
        history.close()
    if output is Output.JSON:
        print_json(
            {
                "incident": incident, "detector": subject.detector,
                "verdict": None if feedback is None else feedback.verdict, "precision": given.share,
                "true_positives": given.true, "false_positives": given.false, "threshold_factor": given.factor,
            }
        )  # fmt: skip
        return
    judged = given.true + given.false
    console().print(
        f"{subject.detector}: {given.true} of {judged} incidents with a verdict were worth their alert; the threshold "
        f"factor is {given.factor:.2f} from the next training on."
    )
