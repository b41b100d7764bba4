"""X-Robots-Tag: what owners of images forbid, read as img2dataset reads it.

https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag#xrobotstag
"""

from __future__ import annotations

from collections.abc import Collection, Iterable


def agent_token(user_agent: str) -> str:
    """The name by which a header addresses this agent: what stands before slash or space, lower case."""
    return user_agent.split("/")[0].split()[0].lower()


def opted_out(headers: Iterable[str], directives: Collection[str], agent: str) -> bool:
    """Whether any header holds one of the directives, for everyone or for this agent by name.

    A header is `noai, noindex` or `agent: noai, noindex`. `directives` and `agent` are in lower case.
    """
    for header in headers:
        name, colon, rest = header.lower().partition(":")
        if colon and name.strip() != agent:
            continue
        said = {directive.strip() for directive in (rest if colon else name).split(",")}
        if not said.isdisjoint(directives):
            return True
    return False
