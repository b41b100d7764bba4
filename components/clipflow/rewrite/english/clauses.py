"""Other orders for the same words, only where the grammar is plain enough to be safe.

Each function takes lower-case tokens of a cleaned caption and gives new tokens, or None where it
does not apply. `ORDERS` holds them all, by the name that goes into a rewrite's provenance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clipflow.rewrite import english
from clipflow.rewrite.english.thesaurus import Match, Thesaurus

Order = Callable[[list[str], Thesaurus], list[str] | None]

INVERSE = {
    "next to": "next to",
    "near": "near",
    "opposite": "opposite",
    "on top of": "below",
    "above": "below",
    "below": "above",
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "in front of": "behind",
    "behind": "in front of",
}
"""`A <relation> B` says the same as `B <inverse> A`; keys are first words of relation groups."""

LOCATIVES = english.word_set(
    "in on at under near by inside behind beside beneath below above atop against next along"
)
OPENERS = (english.BOUNDARIES, english.DETERMINERS, english.NUMBERS)
RELATIVES = frozenset({"that", "which", "who", "where"})
PLURAL_COUNTS = english.word_set("several many multiple numerous various some these those both")


def is_sentence(tokens: Sequence[str], thesaurus: Thesaurus) -> bool:
    """True if the caption has a main verb, so that it is no noun phrase."""
    before = ""
    for token in tokens:
        if token in english.FINITE or thesaurus.kind(token) == "finite":
            if before and before not in RELATIVES:
                return True
        elif token in thesaurus.bases and thesaurus.kind(before) == "plural":
            return True
        before = token
    return False


def head_end(tokens: Sequence[str]) -> int:
    """Where the first noun phrase ends: at a preposition, a verb, a conjunction or punctuation."""
    for i, token in enumerate(tokens):
        follows = token in english.PAST_PARTICIPLES and tokens[i + 1 : i + 2]
        if i and (_ends_phrase(token) or (follows and follows[0] in english.BOUNDARIES)):
            return i
    return len(tokens)


def _ends_phrase(token: str) -> bool:
    return token in english.BOUNDARIES or english.is_participle(token) or not token[0].isalnum()


def head_kind(tokens: Sequence[str], thesaurus: Thesaurus) -> str:
    """`noun`, `plural`, `mass`, ... for the first noun phrase's last word; empty if unknown."""
    end = head_end(tokens)
    if end == 0:
        return ""
    word = tokens[end - 1]
    kind = thesaurus.kind(" ".join(tokens[max(0, end - 2) : end])) or thesaurus.kind(word)
    if not kind and word.endswith("s") and not word.endswith(("ss", "us", "is", "'s")):
        return "plural"
    return kind


def is_plural(tokens: Sequence[str], thesaurus: Thesaurus) -> bool:
    """True if `are` fits the noun phrase that the tokens begin with."""
    first = tokens[0]
    if thesaurus.kind(" ".join(tokens[:3])) == "count":
        return True
    if first in ("a", "an", "one", "1"):
        return "and" in tokens[: head_end(tokens) + 1]
    if first in PLURAL_COUNTS or first in english.NUMBERS or first.isdigit():
        return True
    return head_kind(tokens, thesaurus) == "plural"


def be(tokens: Sequence[str], thesaurus: Thesaurus) -> str:
    """`is` or `are`, for the noun phrase that the tokens begin with."""
    return "are" if is_plural(tokens, thesaurus) else "is"


def with_determiner(tokens: list[str], thesaurus: Thesaurus) -> list[str]:
    """The noun phrase with an article where a singular countable noun has none."""
    first = tokens[0]
    bare = first.islower() and first not in english.DETERMINERS and first not in english.NUMBERS
    if bare and head_kind(tokens, thesaurus) == "noun" and not english.is_participle(first):
        return [english.article(first), *tokens]
    return tokens


def swap(tokens: list[str], thesaurus: Thesaurus) -> list[str] | None:
    """`A above B` -> `B below A`, with or without `is`; `A and B` -> `B and A`."""
    relations = [m for m in thesaurus.matches(tokens) if m.group.kind == "relation"]
    if not relations:
        return _swap_and(tokens)
    relation = relations[0]
    inverse = INVERSE.get(relation.group.members[0])
    left, right = tokens[: relation.start], tokens[relation.end :]
    if len(relations) > 1 or not inverse or not left or not right:
        return None
    copula = left[-1] in ("is", "are")
    if copula:
        left = left[:-1]
    if not (_is_simple(left) and _is_simple(right)):
        return None
    verb = [be(right, thesaurus)] if copula else []
    return [*right, *verb, *inverse.split(), *left]


def _swap_and(tokens: list[str]) -> list[str] | None:
    if tokens.count("and") != 1:
        return None
    at = tokens.index("and")
    left, right = tokens[:at], tokens[at + 1 :]
    determined = right and (right[0] in english.DETERMINERS or right[0] in english.NUMBERS)
    if not (determined or len(left) == len(right) == 1) or not _is_simple(left):
        return None
    return [*right, "and", *left] if _is_simple(right) else None


def _is_simple(phrase: Sequence[str]) -> bool:
    """True for a noun phrase with nothing attached to it but `of ...`."""
    return bool(phrase) and not any(
        (_ends_phrase(t) and t != "of") or t in english.PAST_PARTICIPLES for t in phrase
    )


def attribute(tokens: list[str], thesaurus: Thesaurus) -> list[str] | None:
    """`a red hat` -> `a hat that is red`; `a red wool hat` -> `a hat made of red wool`."""
    matches = list(thesaurus.matches(tokens))
    for i, match in enumerate(matches):
        if match.group.kind not in ("colour", "material"):
            continue
        start, end = match.start, match.end
        material = match.group.kind == "material"
        after = matches[i + 1] if i + 1 < len(matches) else None
        if not material and after and after.group.kind == "material" and after.start == end:
            end, material = after.end, True
        noun = _noun_at(tokens, end, matches)
        if noun is None or not _opens(tokens, start, matches):
            continue
        plural = noun.group.kind == "plural"
        link = ["made", "of"] if material else ["that", "are" if plural else "is"]
        rest = tokens[noun.end :]
        if not material and rest and english.is_participle(rest[0]):
            continue  # `a dog that is black running` reads badly
        return [*tokens[:start], *noun.form.split(), *link, *tokens[start:end], *rest]
    return None


def _noun_at(tokens: Sequence[str], at: int, matches: Sequence[Match]) -> Match | None:
    """The noun that stands at `at` and closes its noun phrase."""
    for match in matches:
        if match.start == at and match.group.kind in ("noun", "plural"):
            closes = match.end == len(tokens) or _ends_phrase(tokens[match.end])
            return match if closes else None
    return None


def _opens(tokens: Sequence[str], at: int, matches: Sequence[Match]) -> bool:
    """True if a phrase can be cut at `at`: after a determiner, a number or a plain adjective."""
    if at == 0:
        return True
    before = tokens[at - 1]
    if before in ("and", "or"):  # `a red and white hat`
        return False
    if before.isdigit() or any(before in words for words in OPENERS):
        return True
    return any(m.end == at and m.group.kind == "word" for m in matches)


def front(tokens: list[str], thesaurus: Thesaurus) -> list[str] | None:
    """`a dog runs on the beach` -> `on the beach, a dog runs`; noun phrases get `there is`."""
    at = max((i for i, token in enumerate(tokens) if token in LOCATIVES), default=0)
    rest, place = tokens[:at], tokens[at:]
    if not rest or len(place) < 2 or "," in tokens or not _is_place(place):
        return None
    if is_sentence(tokens, thesaurus):
        return [*place, ",", *rest] if _ends_in_content(rest) else None
    end = head_end(rest)
    if end < len(rest) and english.is_participle(rest[end]):
        if place[0] == "at" or not _ends_in_content(rest):
            return None
        subject = with_determiner(rest[:end], thesaurus)
        return [*place, ",", *subject, be(subject, thesaurus), *rest[end:]]
    if not _is_simple(rest) or (place[0] in ("in", "by") and place[1] != "the"):
        return None
    rest = with_determiner(rest, thesaurus)
    return [*place, "there", be(rest, thesaurus), *rest]


def _is_place(place: Sequence[str]) -> bool:
    return not any(
        t in english.FINITE or english.is_participle(t) or t in ("and", "with", "that", "who", ".")
        for t in place[1:]
    )


def _ends_in_content(tokens: Sequence[str]) -> bool:
    return tokens[-1] not in english.BOUNDARIES and tokens[-1] not in english.DETERMINERS


def clause(tokens: list[str], thesaurus: Thesaurus) -> list[str] | None:
    """`a dog running` -> `a dog is running`, and back."""
    end = head_end(tokens)
    if end == len(tokens):
        return None
    verb = tokens[end]
    if english.is_participle(verb) and not is_sentence(tokens, thesaurus):
        subject = with_determiner(tokens[:end], thesaurus)
        return [*subject, be(subject, thesaurus), *tokens[end:]]
    if verb in ("is", "are") and end + 1 < len(tokens) and english.is_participle(tokens[end + 1]):
        return [*tokens[:end], *tokens[end + 1 :]]
    return None


ORDERS: dict[str, Order] = {
    "swap": swap,
    "attribute": attribute,
    "front": front,
    "clause": clause,
}
