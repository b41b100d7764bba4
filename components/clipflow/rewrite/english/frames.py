"""Frames: the sentences that captions are put in (`a photo of X`), and taken out of."""

from __future__ import annotations

import re

PHRASE_FRAMES = (
    "a photo of {}",
    "a picture of {}",
    "an image of {}",
    "a snapshot of {}",
    "a photograph of {}",
    "a photo showing {}",
    "this picture shows {}",
    "this photo shows {}",
    "the image shows {}",
    "the photo features {}",
    "the picture captures {}",
    "an image featuring {}",
    "here is a photo of {}",
    "here we see {}",
    "you can see {}",
    "we can see {}",
    "in this picture you can see {}",
    "in the photo we see {}",
    "{} can be seen here",
    "{} can be seen in the picture",
    "{} in a photo",
    "shown here: {}",
    "take a look at {}",
    "a scene with {}",
)
"""Frames for noun phrases: `a red hat on a table`."""

CLOSED_FRAMES = tuple(frame for frame in PHRASE_FRAMES if not frame.startswith("{}"))
"""Those that don't begin with the phrase, for one that a comma cuts in two."""

EXISTENTIAL_FRAMES = (
    "there {be} {}",
    "there {be} {} in the picture",
    "in this photo there {be} {}",
    "here {be} {}",
)
"""Frames for noun phrases that begin with `a`, `an`, a number or a plural noun."""

SENTENCE_FRAMES = (
    "in this picture, {}",
    "in this photo, {}",
    "in the image, {}",
    "here, {}",
    "a photo in which {}",
    "a picture where {}",
    "a scene in which {}",
    "the photo shows that {}",
    "the picture shows how {}",
    "we can see that {}",
    "you can see that {}",
)
"""Frames for whole sentences: `a dog runs on the beach`."""

_PICTURE = r"(?:photo|photograph|picture|image|pic|snapshot|shot|snap)"
_LEAD = re.compile(
    rf"^(?:(?:here is|here's|this is|there is|it is)\s+(?=(?:an?|the)\s+(?:\w+\s+)?{_PICTURE}\b))?"
    rf"(?:(?:an?|the|this|my|our)\s+)?(?:(?:nice|beautiful|good|stunning|amazing|great)\s+)?{_PICTURE}"
    r"\s+(?:of|showing|featuring|depicting"
    r"|(?:that |which )?(?:shows|captures|features|depicts))\s+"
    r"|^(?:there (?:is|are)|here (?:is|are)|here we see|we see|you (?:can )?see|we can see)\s+",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"\s+(?:can be seen(?: here)?|(?:is|are) (?:shown|pictured)(?: here)?"
    rf"|in (?:this|the|a) {_PICTURE})$",
    re.IGNORECASE,
)


def unframe(text: str) -> str:
    """The text without the frame it came in; the text itself if it has none or nothing else."""
    return _TAIL.sub("", _LEAD.sub("", text)) or text
