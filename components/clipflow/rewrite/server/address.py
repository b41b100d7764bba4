"""The address and key of a language model server, from the environment, and texts without the secrets."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from clipflow.errors import GeneratorError

URL, KEY = "OPENAI_BASE_URL", "OPENAI_API_KEY"
EXAMPLE = "http://localhost:8000/v1"
HIDDEN = "***"


@dataclass(frozen=True)
class Address:
    """Where to ask, and with which headers."""

    shown: str
    """The base URL as it may be shown: without user, password and query."""
    query: str
    headers: Mapping[str, str] = field(repr=False)
    proxy: str | None = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)

    def url(self, path: str) -> str:
        """The URL of one of the API's paths."""
        return f"{self.shown}{path}{self.query}"

    def redacted(self, text: str) -> str:
        """The text without the key and whatever else in the environment is secret."""
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return text


def from_environment() -> Address:
    """Reads OPENAI_BASE_URL and OPENAI_API_KEY. Raises GeneratorError that says what to set."""
    text = os.environ.get(URL, "").strip()
    if not text:
        raise GeneratorError(
            f"{URL} is not set: expected the address of an OpenAI-compatible server; for instance"
            f" export {URL}={EXAMPLE}, and {KEY} if it wants a key"
        )
    try:
        parts = urlsplit(text)
        is_usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise GeneratorError(f"{URL}: expected an address like {EXAMPLE}, got another text")
    login, _, host = parts.netloc.rpartition("@")
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and (key.isprintable())):
        raise GeneratorError(f"{KEY}: expected a key of one line of ASCII; set it anew")
    basic = base64.b64encode(unquote(login).encode()).decode()
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    elif login:
        headers["Authorization"] = f"Basic {basic}"
    assert parts.hostname
    proxy = None if proxy_bypass(parts.hostname) else getproxies().get(parts.scheme)
    proxy_login = urlsplit(proxy).netloc.rpartition("@")[0] if proxy else ""
    secrets = {key, *(basic if login else "",), *(value for _, value in parse_qsl(parts.query))}
    for pair in (login, proxy_login):
        password = pair.partition(":")[2]
        secrets |= {pair, unquote(pair), password, unquote(password)}
    return Address(
        shown=f"{parts.scheme}://{host}{parts.path.rstrip('/')}",
        query=f"?{parts.query}" if parts.query else "",
        headers=headers,
        proxy=proxy,
        secrets=tuple(sorted(secrets - {""}, key=len, reverse=True)),
    )
