"""What was found: a mark, a thing, a few words about it, and what to do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

Mark = Literal["ok", "problem", "not checked"]
WIDTH = len("not checked")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    mark: Mark
    what: str
    said: str
    fix: str = ""


def ok(what: str, said: str) -> Finding:
    """It is as it should be."""
    return Finding("ok", what, said)


def problem(what: str, said: str, fix: str) -> Finding:
    """A run will meet this."""
    return Finding("problem", what, said, fix)


def unchecked(what: str, said: str, fix: str) -> Finding:
    """Nothing is known, and why; `fix` says how to know more."""
    return Finding("not checked", what, said, fix)


def line(finding: Finding) -> str:
    """A finding in a line, its fix in another."""
    fix = f"\n{'':<{WIDTH}}  -> {finding.fix}" if finding.fix else ""
    return f"{finding.mark:<{WIDTH}}  {finding.what}: {finding.said}{fix}"


def total(findings: Sequence[Finding]) -> str:
    """How many findings there are of each mark."""
    counts = Counter(finding.mark for finding in findings)
    return ", ".join(f"{counts[mark]} {mark}" for mark in get_args(Mark))


def has_problem(findings: Sequence[Finding]) -> bool:
    """Whether there is one problem at least."""
    return any(finding.mark == "problem" for finding in findings)


def as_json(findings: Sequence[Finding]) -> str:
    """The same for machines: a list of objects."""
    return json.dumps([asdict(finding) for finding in findings], indent=2)
