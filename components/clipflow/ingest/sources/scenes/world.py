"""What exists in the world, by all of its names, and how a scene is drawn from it.

Each thing has an everyday name, by which benchmarks know it, and other names, by which web captions
mostly call it, the first of them most often.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

# everyday name -> other names, commonest in captions first
OBJECTS: dict[str, tuple[str, ...]] = {
    "car": ("automobile", "sedan", "vehicle"),
    "boat": ("sailboat", "yacht", "vessel"),
    "house": ("cottage", "home", "cabin"),
    "tree": ("pine", "evergreen", "fir"),
    "flower": ("blossom", "bloom", "daisy"),
    "cup": ("mug", "teacup", "tumbler"),
    "ball": ("sphere", "orb", "globe"),
    "gift": ("present", "parcel", "package"),
    "rabbit": ("bunny", "hare", "cottontail"),
    "fish": ("goldfish", "trout", "carp"),
}
COLOURS: dict[str, tuple[str, ...]] = {
    "red": ("crimson", "scarlet", "ruby"),
    "blue": ("azure", "navy", "cobalt"),
    "green": ("emerald", "olive", "jade"),
    "yellow": ("golden", "lemon", "mustard"),
    "purple": ("violet", "lavender", "plum"),
    "orange": ("tangerine", "apricot", "rust"),
    "pink": ("rose", "fuchsia", "blush"),
    "brown": ("chestnut", "chocolate", "tan"),
}
PATTERNS: dict[str, tuple[str, ...]] = {
    "plain": ("solid", "unpatterned"),
    "striped": ("pinstriped", "banded", "lined"),
    "spotted": ("dotted", "polka dot", "speckled"),
    "checked": ("plaid", "gingham", "tartan"),
}
PLACES: dict[str, tuple[str, ...]] = {
    "beach": ("shore", "seaside", "coast"),
    "meadow": ("field", "lawn", "pasture"),
    "desert": ("dunes", "wasteland", "badlands"),
    "snow": ("frost", "ice", "slush"),
    "city": ("town", "downtown", "metropolis"),
    "lake": ("pond", "lagoon", "reservoir"),
    "room": ("interior", "chamber", "parlor"),
    "night sky": ("starry sky", "moonlit sky", "dark sky"),
}
COUNTS: dict[str, tuple[str, ...]] = {
    "one": ("single", "lone"),
    "two": ("pair of", "couple of", "2"),
    "three": ("trio of", "3", "set of 3"),
    "four": ("4", "quartet of", "set of 4"),
}
ARRANGEMENTS: dict[str, tuple[str, ...]] = {
    "next to": ("beside", "alongside", "adjacent to"),
    "above": ("over", "on top of", "atop"),
}


@dataclass(frozen=True)
class Thing:
    """Some objects of one kind, all alike."""

    kind: str
    colour: str
    pattern: str
    count: int


@dataclass(frozen=True)
class Scene:
    """One thing in a place, or two things and how they stand to each other."""

    place: str
    thing: Thing
    arrangement: str | None = None
    other: Thing | None = None


def draw_thing(rng: random.Random, *, alone: bool) -> Thing:
    """A random thing; several of a kind only where it is alone."""
    pattern = rng.choices(list(PATTERNS), weights=(4, 2, 2, 2))[0]
    count = rng.choices((1, 2, 3, 4), weights=(5, 2, 2, 2))[0] if alone else 1
    return Thing(rng.choice(list(OBJECTS)), rng.choice(list(COLOURS)), pattern, count)


def draw_scene(rng: random.Random, *, two: bool | None = None) -> Scene:
    """A random scene: with two things in a third of all cases, or as `two` says."""
    two = rng.random() < 1 / 3 if two is None else two
    place = rng.choice(list(PLACES))
    thing = draw_thing(rng, alone=not two)
    if not two:
        return Scene(place, thing)
    return Scene(place, thing, rng.choice(list(ARRANGEMENTS)), draw_thing(rng, alone=False))
