"""Captions of scenes: web alt text for training, plain descriptions for the retrieval benchmark.

Alt text imitates what is found on the web: it names some of what is there, by a shop's or a
catalogue's words, in one of a few phrasings of very unequal frequency, among brands and numbers.
"""

from __future__ import annotations

import random

from clipflow.ingest.sources.scenes import world
from clipflow.ingest.sources.scenes.world import Scene, Thing

BRANDS = tuple(
    first + second
    for first in ("Vel", "Nor", "Kap", "Tri", "Ols", "Brim", "Zan", "Quo", "Mer", "Hux")
    for second in ("ano", "dex", "ity", "wick", "loom")
)
# {what} is the thing, {where} " on the shore" or nothing, {brand} and {number} are noise
ALT_TEXTS = (
    "{what}{where} | {brand}",
    "{brand} {what}{where} - stock photo {number}",
    "{what}{where}",
    "{brand} - {what}{where} #{number}",
    "buy {what} online{where} | {brand} {number}",
    "{number}.jpg {what}{where}",
)
ALT_TEXT_WEIGHTS = (32, 16, 8, 4, 2, 1)
DESCRIPTIONS = (
    "{what} {where}.",
    "A view of {what} {where}.",
    "In this picture you can see {what} {where}.",
    "{what}, photographed {where}.",
    "Someone took a picture of {what} {where}.",
)
MENTIONED = {"colour": 0.6, "pattern": 0.7, "place": 0.5, "count": 0.9, "other": 0.8}
"""How often alt text names what is there; a plain pattern is hardly ever mentioned."""
PLAIN_MENTIONED = 0.1

IRREGULAR_PLURALS = frozenset({"fish", "goldfish", "trout", "carp"})
PREPOSITIONS = {"beach": "on the", "meadow": "in the", "desert": "in the", "snow": "in the",
                "city": "in the", "lake": "on the", "room": "in the", "night sky": "under the"}  # fmt: skip


def alt_text(scene: Scene, everyday_share: float, rng: random.Random) -> str:
    """A caption as a web page would have it."""

    def name(everyday: str, others: tuple[str, ...]) -> str:
        if rng.random() < everyday_share:
            return everyday
        return rng.choices(others, weights=[2.0**-i for i in range(len(others))])[0]

    def phrase(thing: Thing) -> str:
        words = []
        if rng.random() < (PLAIN_MENTIONED if thing.pattern == "plain" else MENTIONED["pattern"]):
            words.append(name(thing.pattern, world.PATTERNS[thing.pattern]))
        if rng.random() < MENTIONED["colour"]:
            words.append(name(thing.colour, world.COLOURS[thing.colour]))
        words.append(plural(name(thing.kind, world.OBJECTS[thing.kind]), thing.count))
        count = list(world.COUNTS)[thing.count - 1]
        if thing.count > 1 and rng.random() < MENTIONED["count"]:
            words.insert(0, name(count, world.COUNTS[count]))
        return " ".join(words)

    what = phrase(scene.thing)
    if scene.other and scene.arrangement and rng.random() < MENTIONED["other"]:
        relation = name(scene.arrangement, world.ARRANGEMENTS[scene.arrangement])
        what = f"{what} {relation} {phrase(scene.other)}"
    where = ""
    if rng.random() < MENTIONED["place"]:
        where = f" {PREPOSITIONS[scene.place]} {name(scene.place, world.PLACES[scene.place])}"
    frame = rng.choices(ALT_TEXTS, weights=ALT_TEXT_WEIGHTS)[0]
    return frame.format(
        what=what, where=where, brand=rng.choice(BRANDS), number=rng.randrange(100, 100_000)
    )


def descriptions(scene: Scene, count: int, rng: random.Random) -> list[str]:
    """`count` full descriptions, each by other people's words: any name of a thing is as likely."""

    def name(everyday: str, others: tuple[str, ...]) -> str:
        return rng.choice((everyday, *others))

    def phrase(thing: Thing) -> str:
        noun = plural(name(thing.kind, world.OBJECTS[thing.kind]), thing.count)
        colour = name(thing.colour, world.COLOURS[thing.colour])
        pattern = (
            "" if thing.pattern == "plain" else name(thing.pattern, world.PATTERNS[thing.pattern])
        )
        words = " ".join(filter(None, (pattern, colour, noun)))
        number = list(world.COUNTS)[thing.count - 1]
        return f"{number} {words}" if thing.count > 1 else f"{article(words)} {words}"

    def describe(frame: str) -> str:
        what = phrase(scene.thing)
        if scene.other and scene.arrangement:
            relation = name(scene.arrangement, world.ARRANGEMENTS[scene.arrangement])
            what = f"{what} {relation} {phrase(scene.other)}"
        where = f"{PREPOSITIONS[scene.place]} {name(scene.place, world.PLACES[scene.place])}"
        text = frame.format(what=what, where=where)
        return text[0].upper() + text[1:]

    return [describe(DESCRIPTIONS[i % len(DESCRIPTIONS)]) for i in range(count)]


def article(words: str) -> str:
    """`a` or `an`, by the first letter."""
    return "an" if words[0] in "aeiou" else "a"


def plural(noun: str, count: int) -> str:
    """The noun for `count` of its kind."""
    if count == 1 or noun in IRREGULAR_PLURALS:
        return noun
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
