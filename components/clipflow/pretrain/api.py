"""Calls to the Kubernetes API that outlast its absences and say in one line what it refuses.

kfp's own client package makes them.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from clipflow.errors import ClusterError

logger = logging.getLogger(__name__)
T = TypeVar("T")

CALL_S = 30.0
"""How long a call may take."""
AWAY_S = 900.0
"""How long the API may be away before a call is given up."""
PAUSE_S = 1.0, 30.0
"""The first and the longest pause between two tries of a call."""
PASSING = {408, 429, 500, 502, 503, 504}
"""Answers that may be others a little later."""


class ConflictError(ClusterError):
    """The object is there already."""


class NotFoundError(ClusterError):
    """The object is not there."""


class RefusedError(ClusterError):
    """The API refuses for good."""


class Api:
    """The API of the cluster that this pod runs in, else of the current kubeconfig."""

    def __init__(self) -> None:
        """Raises ClusterError if no access is configured."""
        settings = client.Configuration()
        try:
            config.load_incluster_config(settings)
        except config.ConfigException:
            try:
                config.load_kube_config(client_configuration=settings)
            except (config.ConfigException, OSError) as error:
                raise ClusterError(
                    f"no access to Kubernetes ({_short(error)}); run this in a pod with a service account,"
                    " or set KUBECONFIG"
                ) from None
        settings.retries = False  # `ask` tries again, and says so
        connection = client.ApiClient(settings)
        self.objects = client.CustomObjectsApi(connection)
        self.core = client.CoreV1Api(connection)

    def ask(
        self,
        what: str,
        call: Callable[..., T],
        *args: Any,
        patience_s: float = AWAY_S,
        **options: Any,
    ) -> T:
        """Make a call; while the API is away or busy, again and again for `patience_s`.

        `what` says what is wanted, after "can't". Raises ClusterError: one of the above if the API refuses.
        """
        deadline, (pause, longest) = time.monotonic() + patience_s, PAUSE_S
        while True:
            try:
                return call(*args, **options, _request_timeout=CALL_S)
            except (ApiException, urllib3.exceptions.HTTPError) as error:
                if refusal := _refusal(what, error):
                    raise refusal from error
                if time.monotonic() + pause > deadline:
                    raise ClusterError(
                        f"can't {what}: the Kubernetes API is away ({_short(error)}), and was for"
                        f" {patience_s:.0f} s; run this again when it is back"
                    ) from error
                logger.warning("the Kubernetes API is away (%s); trying again", _short(error))
            time.sleep(pause)
            pause = min(longest, 2 * pause)


def _refusal(what: str, error: Exception) -> ClusterError | None:
    """What the API refuses for good, as one line; None for what may pass."""
    if not isinstance(error, ApiException) or error.status in PASSING or not error.status:
        return None
    try:
        said = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        said = " ".join(str(error.body or error.reason).split())
    kinds = {404: NotFoundError, 409: ConflictError}
    advice = {
        401: "the pod's token is not accepted; check the run's service account",
        403: "give the run's service account the role in k8s/, or submit with --service-account",
    }.get(error.status, "'clipflow doctor' checks the cluster")
    answer = f"can't {what}: Kubernetes answered {error.status}: {said}; {advice}"
    return kinds.get(error.status, RefusedError)(answer)


def _short(error: Exception) -> str:
    if isinstance(error, ApiException):
        return f"{error.status} {error.reason}"
    # The cause comes last: ('Connection aborted.', RemoteDisconnected('...')).
    return " ".join(str(error.args[-1] if error.args else error).split())[:200]
