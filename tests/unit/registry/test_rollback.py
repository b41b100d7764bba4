"""@champion and @previous, as versions come and one is taken back."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipflow import track
from clipflow.artifacts import registration as registrations
from clipflow.cli import app
from clipflow.errors import TrackingError
from clipflow.registry import rollback


def holders() -> dict[str, str]:
    found = track.client().get_registered_model("scenes").aliases
    return {alias: str(number) for alias, number in found.items() if alias != "challenger"}


def test_the_dethroned_champion_is_previous(register: Callable[..., None]) -> None:
    register(0, 0.50)
    assert holders() == {"champion": "1"}
    register(1, 0.40)
    assert holders() == {"champion": "1"}
    register(2, 0.60)
    assert holders() == {"champion": "3", "previous": "1"}
    register(2)
    register(1)
    assert holders() == {"champion": "3", "previous": "1"}


def test_rolled_back_and_rolled_back_again(register: Callable[..., None]) -> None:
    register(0, 0.50)
    register(1, 0.60)
    said = rollback.run("scenes", "It is wrong about cats.")
    assert said == (
        "scenes: @champion is version 1 again; version 2 is @previous,"
        " rolled back: It is wrong about cats."
    )
    assert holders() == {"champion": "1", "previous": "2"}
    assert track.aliased("scenes", "previous").tags["rolled_back"] == "It is wrong about cats."

    # Registered again, it stays where it was put, and so does what took its place.
    register(1)
    register(0)
    assert holders() == {"champion": "1", "previous": "2"}
    assert registrations.read(Path("registration1"))["reasons"] == [
        "It was rolled back: It is wrong about cats."
    ]

    result = CliRunner().invoke(app, ["rollback", "scenes", "--why", "It was the dog."])
    assert result.exit_code == 0
    assert "@champion is version 2 again" in result.output
    assert holders() == {"champion": "2", "previous": "1"}
    assert "rolled_back" not in track.aliased("scenes", "champion").tags
    register(1)
    assert holders() == {"champion": "2", "previous": "1"}


def test_what_comes_after_is_compared_with_the_version_that_was_gone_back_to(
    register: Callable[..., None],
) -> None:
    register(0, 0.50)
    register(1, 0.60)
    rollback.run("scenes", "no")
    register(2, 0.55)
    assert holders() == {"champion": "3", "previous": "1"}


def test_where_there_is_nothing_to_go_back_to(register: Callable[..., None]) -> None:
    with pytest.raises(TrackingError, match=r"scenes: .* has no such model; it has none; run"):
        rollback.run("scenes", "no")
    register(0)
    with pytest.raises(
        TrackingError, match=r"expected @previous, .* before version 1, .* has none"
    ):
        rollback.run("scenes", "no")
    track.client().set_registered_model_alias("scenes", "previous", "1")
    with pytest.raises(TrackingError, match="version 1 is both"):
        rollback.run("scenes", "no")
    with pytest.raises(TrackingError, match="did you mean 'scenes'"):
        rollback.run("scene", "no")
    assert holders() == {"champion": "1", "previous": "1"}
