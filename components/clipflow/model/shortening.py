"""Shorter texts: which of its words a text keeps if there is room for fewer than it has.

Source: Li et al. 2023, *An Inverse Scaling Law for CLIP Training* (arXiv:2305.07017), section 3, which has
a fourth way: nouns first, then adjectives, by a tagger.
"""

from __future__ import annotations

import random
from typing import Literal

Shortening = Literal["truncate", "block", "random"]


def shortened(ids: list[int], length: int, shortening: Shortening, rng: random.Random) -> list[int]:
    """At most `length` token ids of a text, the first and the last of which are its marks.

    - `truncate`: its first words.
    - `block`: a run of its words, which begins anywhere.
    - `random`: any of its words, in their order.
    """
    words, room = ids[1:-1], length - 2
    if len(words) <= room:
        return ids
    if shortening == "truncate":
        kept = words[:room]
    elif shortening == "block":
        first = rng.randint(0, len(words) - room)
        kept = words[first : first + room]
    else:
        kept = [words[place] for place in sorted(rng.sample(range(len(words)), room))]
    return [ids[0], *kept, ids[-1]]
