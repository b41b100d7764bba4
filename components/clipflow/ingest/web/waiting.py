"""How long to wait before a download is tried again."""

from __future__ import annotations

import random
import time
from email.utils import parsedate_to_datetime

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
"""The longest that the second attempt waits, doubled with each until the longest of all."""
LONGEST_RETRY_AFTER_S = 60.0
"""A server that wants to be left alone for longer is asked again after this."""


def wait_s(num_attempts: int, asked_s: float) -> float:
    """Seconds until the next attempt: jittered and growing, on top of what the server asks for."""
    longest_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(num_attempts - 1, 10))
    return random.uniform(0, longest_s) + min(asked_s, LONGEST_RETRY_AFTER_S)


def retry_after_s(header: str) -> float:
    """Seconds to wait by a Retry-After header: a number or a date; 0 if there is none or it is past."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
