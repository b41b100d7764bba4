"""The thesaurus: which words of `thesaurus.txt` can stand for which, in every inflected form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from clipflow.errors import ArtifactError
from clipflow.rewrite import english

FILE = Path(__file__).with_name("thesaurus.txt")


@dataclass(frozen=True)
class Group:
    """Words with one meaning in one form. The first is the commonest."""

    kind: str
    """Its section: `noun`, `colour`, ...; for inflections `plural`, `finite` or `participle`."""
    members: tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """A known word or phrase at `tokens[start:end]`, and its group."""

    start: int
    end: int
    form: str
    group: Group


class Thesaurus:
    """Looks words and phrases up. A form belongs to exactly one group."""

    def __init__(self, groups: Sequence[Group]) -> None:
        """Index groups and inflections. Raises ArtifactError for a form in two of them."""
        self.groups: dict[str, Group] = {}
        self.longest: dict[str, int] = {}
        self.bases = {m.split()[0] for g in groups if g.kind == "verb" for m in g.members}
        """Verbs in the form that follows plural subjects; many of them are nouns, too."""
        for group in groups:
            for inflected in _inflections(group):
                for form in inflected.members:
                    first, length = form.partition(" ")[0], form.count(" ") + 1
                    if self.groups.setdefault(form, inflected) != inflected:
                        other = self.groups[form].members[0]
                        raise ArtifactError(
                            f"{FILE.name}: '{form}' is in two groups, with '{other}' and with"
                            f" '{inflected.members[0]}'; take it out of one"
                        )
                    self.longest[first] = max(self.longest.get(first, 1), length)

    def __contains__(self, form: str) -> bool:
        return form in self.groups

    def kind(self, form: str) -> str:
        """The kind of a known word, or the empty string."""
        group = self.groups.get(form)
        return group.kind if group else ""

    def synonyms(self, form: str) -> tuple[str, ...]:
        """The other members of the form's group, the commonest first; none if it is unknown."""
        group = self.groups.get(form)
        return tuple(other for other in group.members if other != form) if group else ()

    def matches(self, tokens: Sequence[str]) -> Iterator[Match]:
        """Known words and phrases in lower-case tokens, left to right, the longest first."""
        start, end = 0, len(tokens)
        while start < end:
            step = 1
            for length in range(min(self.longest.get(tokens[start], 0), end - start), 0, -1):
                form = tokens[start] if length == 1 else " ".join(tokens[start : start + length])
                group = self.groups.get(form)
                if group is not None:
                    yield Match(start, start + length, form, group)
                    step = length
                    break
            start += step


def _inflections(group: Group) -> Iterator[Group]:
    if group.kind == "verb":
        yield Group("finite", tuple(english.finite(verb) for verb in group.members))
        yield Group("participle", tuple(english.participle(verb) for verb in group.members))
        return
    yield group
    if group.kind == "plural":  # one thing: `a pair of trousers` is not `two trousers`
        yield Group("plural", tuple(f"a pair of {noun}" for noun in group.members))
    if group.kind == "noun":
        plurals = tuple(english.plural(noun) for noun in group.members)
        changed = [(s, p) for s, p in zip(group.members, plurals, strict=True) if s != p]
        yield Group("plural", tuple(p for _, p in changed))


def read(path: Path) -> list[Group]:
    """The groups of a thesaurus file, as written. Raises ArtifactError for one out of a section."""
    groups, kind = [], ""
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines(), start=1):
        if line.startswith("["):
            kind = line.strip("[]")
        elif line and not line.startswith("#"):
            if not kind:
                raise ArtifactError(f"{path}:{number}: a group before any [section]")
            groups.append(Group(kind, tuple(word.strip() for word in line.split(","))))
    return groups


@cache
def load() -> Thesaurus:
    """The thesaurus that comes with the package, read once."""
    return Thesaurus(read(FILE))
