"""Parameters of downloading: `web` of the sources that do."""

from __future__ import annotations

from pydantic import Field

from clipflow.catalogue import Section


class Web(Section):
    """How much at once, how patiently, and what is refused."""

    concurrency: int = Field(ge=1)
    """Downloads at once."""
    per_host: int = Field(ge=1)
    """Downloads at once from one host."""
    timeout_s: float = Field(gt=0)
    """For a whole attempt, from looking up the name to the last byte, redirects included."""
    max_retries: int = Field(ge=0)
    """Further attempts after failures that may pass: time-outs, lost connections, 429, most of 5xx."""
    max_redirects: int = Field(ge=0)
    """Redirects followed in one attempt."""
    max_bytes: int = Field(ge=1)
    """Larger files are refused, by their headers or once so much has come."""
    user_agent: str = Field(pattern=r"^[!-~]([ -~]*[!-~])?$")
    """Who asks, with a way to complain: `clipflow/0.1 (+https://example.org/crawler)`. What stands before
    the first slash is the name by which X-Robots-Tag can address it."""
    opt_outs: list[str]
    """Directives of X-Robots-Tag that are honoured, as img2dataset does: noai, noimageai, noindex,
    noimageindex."""
    allow_loopback: bool
    """Whether loopback addresses may be asked as well, for tests; other private ones never are."""
