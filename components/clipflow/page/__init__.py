"""What the stages' reports share: the frame and style of a page, and charts as inline SVG."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def environment(folder: Path) -> Environment:
    """Jinja over the templates in `folder`, which may extend `base.html`; text is escaped."""
    found = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
    )
    found.filters["percent"] = lambda fraction: f"{100 * fraction:.1f}"
    return found
