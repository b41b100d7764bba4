"""What can go wrong that a user can mend.

ClipflowError
 +- ParamsError       a value in params.yaml or on the command line
 +- ArtifactError     a file or folder that a stage reads or writes
 +- StoreError       the object store
 +- GeneratorError    a rewrite generator: its model, its server, its output
 +- TrackingError     the MLflow server
 +- ClusterError     the Kubernetes API
 +- SubmitError       the Kubeflow Pipelines API

Each message is one line: where, what was expected, what was found, what to do next. The command line
prints it and exits with 2; any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ClipflowError(Exception):
    """Something a user can mend; the message says how."""


class ParamsError(ClipflowError):
    """A parameter is missing, unknown, of the wrong type or out of bounds."""


class ArtifactError(ClipflowError):
    """An artifact is missing, of the wrong kind, or damaged."""


class StoreError(ClipflowError):
    """The object store can't be used, or an artifact is not there."""


class GeneratorError(ClipflowError):
    """A rewrite generator can't start or keeps failing."""


class TrackingError(ClipflowError):
    """The MLflow server can't be used."""


class ClusterError(ClipflowError):
    """The Kubernetes API can't be used, or refuses."""


class SubmitError(ClipflowError):
    """A pipeline can't be compiled or submitted."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A half-sentence naming the closest known name, or all of them if none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
