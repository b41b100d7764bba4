"""The little English grammar that paraphrasing by rule needs: plurals, verb forms, articles."""

from __future__ import annotations

import re
from collections.abc import Sequence

WORD = re.compile(r"\w+(?:['\u2019&/.-]\w+)*|[^\w\s]")


def word_set(words: str) -> frozenset[str]:
    """The words in a line of them."""
    return frozenset(words.split())


ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = word_set(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen twenty"
)
DETERMINERS = ARTICLES | word_set(
    "this that these those some several many my your his her its our their another each every"
    " both no any multiple numerous various"
)
BE = frozenset({"is", "are", "was", "were"})
FINITE = BE | word_set("has have had can will does do")
PREPOSITIONS = word_set(
    "about above across against ahead along alongside amid among around at atop before behind below"
    " beneath beside between beyond by down during for from in inside into near next off on onto"
    " opposite over past through to toward towards under underneath up upon with within without"
    " left right far close"
)
BOUNDARIES = PREPOSITIONS | FINITE | word_set("of and or but while who which that as")
PAST_PARTICIPLES = word_set(
    "made crafted parked stationed seated filled covered located situated placed positioned"
    " decorated adorned surrounded dressed clad lit taken seen shown painted stacked piled mounted"
)
"""Words that follow their noun (`cars parked in a row`) as readily as they stand before it."""

MASCULINE_MAN = frozenset({"human", "german", "roman", "shaman", "ottoman"})
IRREGULAR = {
    "person": "people",
    "child": "children",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "mouse": "mice",
    "ox": "oxen",
    "leaf": "leaves",
    "knife": "knives",
    "wolf": "wolves",
    "shelf": "shelves",
    "loaf": "loaves",
    "calf": "calves",
    "half": "halves",
    "scarf": "scarves",
    "life": "lives",
    "wife": "wives",
    "thief": "thieves",
    "cactus": "cacti",
    **{same: same for same in word_set("sheep deer fish aircraft spacecraft watercraft moose")},
    **{word: word + "es" for word in word_set("potato tomato hero mosquito volcano mango")},
}
DOUBLING = word_set("sit run jog hop nap swim hug chat sob grin sip chop grip tug drag hit cut put")


def tokenize(text: str) -> list[str]:
    """Words and single punctuation marks, in order; hyphens and apostrophes stay inside words."""
    return WORD.findall(text)


def join(tokens: Sequence[str]) -> str:
    """The tokens as a line of text, with no space before closing or after opening punctuation."""
    text = " ".join(tokens)
    if text.isascii() and not any(mark in text for mark in ",.;:!?)('\"%"):
        return text
    text = re.sub(r"\s+([,.;:!?)%])", r"\1", text)
    return re.sub(r"\(\s+", "(", text)


def plural(noun: str) -> str:
    """The plural: `wine glass` -> `wine glasses`, `bunch of flowers` -> `bunches of flowers`."""
    if " of " in noun:
        head, rest = noun.split(" of ", 1)
        return f"{plural(head)} of {rest}"
    before, space, word = noun.rpartition(" ")
    return before + space + _plural(word)


def _plural(word: str) -> str:
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith("man") and word not in MASCULINE_MAN:
        return word[:-2] + "en"
    if re.search(r"(?:s|x|z|ch|sh)$", word):
        return word + "es"
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + "s"


def finite(verb: str) -> str:
    """The third person singular: `carry` -> `carries`, `look at` -> `looks at`."""
    word, space, rest = verb.partition(" ")
    return (word + "es" if word.endswith("o") else _plural(word)) + space + rest


def participle(verb: str) -> str:
    """The -ing form: `ride` -> `riding`, `sit` -> `sitting`, `lie` -> `lying`."""
    word, space, rest = verb.partition(" ")
    if word.endswith("ie"):
        stem = word[:-2] + "y"
    elif word.endswith("e") and not word.endswith(("ee", "ye", "oe")):
        stem = word[:-1]
    else:
        stem = word + word[-1] if word in DOUBLING else word
    return f"{stem}ing{space}{rest}"


def article(word: str) -> str:
    """`a` or `an`, by the usual sound of the word that follows."""
    lower = word.lower()
    if lower.startswith(("hour", "honest", "honor", "heir")):
        return "an"
    if lower.startswith(("uni", "use", "usu", "eu", "one", "once", "ukulele", "ufo")):
        return "an" if lower.startswith(("unin", "unim", "unid")) else "a"
    if lower[:1].isdigit():
        return "an" if lower.startswith("8") or lower in {"11", "18"} else "a"
    return "an" if lower[:1] in "aeiou" and lower else "a"


def with_articles(tokens: list[str]) -> list[str]:
    """The tokens with every `a` and `an` made to fit the word after it."""
    for i in range(len(tokens) - 1):
        if tokens[i] in ("a", "an"):
            tokens[i] = article(tokens[i + 1])
    return tokens


def is_participle(word: str) -> bool:
    """True for words that look like an -ing form and are no common noun (`ring`, `building`)."""
    return len(word) > 4 and word.endswith("ing") and word not in _ING_NOUNS


_ING_NOUNS = word_set(
    "ring king wing string spring swing thing nothing something anything everything"
    " building ceiling painting morning evening clothing wedding railing pudding sibling duckling"
    " sling sterling earring lightning crossing landing drawing awning living dining swimming"
    " frying dressing bathing sitting-room shopping parking camping fishing wrapping"
    " knitting sewing"
)
