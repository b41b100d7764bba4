from collections.abc import Callable
from pathlib import Path

import pytest

from clipflow.artifacts import manifest
from clipflow.artifacts.pairs import Writer


@pytest.fixture(autouse=True)
def _in_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow keeps files below the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make_pairs(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Writes a `pairs` artifact of `{key: caption}`, two pairs to a shard."""

    def make(captions: dict[str, str]) -> Path:
        folder = tmp_path / "pairs"
        with manifest.complete_or_absent(folder) as partial:
            writer = Writer(partial, samples_per_shard=2)
            for key, caption in captions.items():
                writer.add(key, b"not decoded here", caption, {})
            writer.close()
        return folder

    return make


@pytest.fixture
def captions() -> list[str]:
    """Captions of the kinds that the web has."""
    return """\
A black dog running on the beach
Red Wool Hat | ShopX
two cats sleeping on a sofa
A man is riding a horse in the field
Sunset over the lake. #sunset #nature
a cup of coffee next to a laptop
Portrait of a smiling woman with glasses
a crimson box on top of a round table
Vintage bicycle leaning against a brick wall - stock photo
Three children playing with a ball in the park
a bird above a small house
the lamp is to the left of the bed
a dog and a cat
old wooden bridge over a river in autumn
A young girl wearing a striped sweater holds a teddy bear
fresh strawberries and blueberries in a bowl
Eiffel Tower at night
kitchen with white cabinets and a large window
Women's leather handbag, brown, $89.99
a green triangle below a yellow square
12 eggs in a carton
surfers riding big waves in Hawaii
traffic on a busy highway at sunset
A couple of horses graze in a meadow near a barn
Snowy mountains
the bride and groom cut the cake
a plate of spaghetti with tomato sauce and basil
motorcycles parked in front of a restaurant
Man playing the guitar on stage
crowd of people at a concert, purple lights
skyline
DSC_0042.jpg old church in the village""".splitlines()
