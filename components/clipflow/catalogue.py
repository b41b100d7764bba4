"""A catalogue: a package in which each file is one choice, and the file's name is the choice's name.

`sources:`, `generators:` and `recipes:` of params.yaml are catalogues. `recipes/laclip.py` holds one
subclass of `Recipe`; its fields are the keys of `recipes.laclip` in params.yaml. Adding a choice is
adding a file and a line of params; nothing else names it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from clipflow.errors import ParamsError, did_you_mean


class Section(BaseModel):
    """A block of params.yaml: strict types, no unknown keys, no defaults, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Choice(Section):
    """One entry of a catalogue. `name` is its file's name and comes from the selecting key."""

    name: str


@dataclass(frozen=True)
class Catalogue:
    """The choices in `package`: each a `Choice` defined in the file of its name."""

    package: str

    def names(self) -> list[str]:
        """Every choice's name, without importing any of them."""
        path = importlib.import_module(self.package).__path__
        return sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_"))

    def load(self, name: str, *, where: str = "params") -> type[Choice]:
        """The class in the file called `name`. Raises ParamsError for an unknown name."""
        if name not in self.names():
            raise ParamsError(f"{where}: unknown name '{name}'; {did_you_mean(name, self.names())}")
        module = importlib.import_module(f"{self.package}.{name}")
        (choice,) = (
            c
            for _, c in inspect.getmembers(module, inspect.isclass)
            if issubclass(c, Choice) and c.__module__ == module.__name__
        )
        return choice
