"""What recipes need that are not content with every architecture."""

from __future__ import annotations

ARCHITECTURES = {"coca": "clipflow-tiny-coca"}


def architecture(recipe: str, default: str = "clipflow-tiny-vit") -> str:
    """The smallest one that the recipe can be tried on."""
    return ARCHITECTURES.get(recipe, default)
