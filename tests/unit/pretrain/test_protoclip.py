"""Episodes in training: when they begin, what they leave, and that a resumed run has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from clipflow import params as params_file
from clipflow.artifacts import checkpoint
from clipflow.errors import ParamsError
from clipflow.model.prototypes import Prototypes
from clipflow.pretrain import stage
from clipflow.pretrain.params import Params
from fakes.artifacts import make_pairs, make_rewrites
from fakes.power_cut import power_cut

CAPTIONS = {f"k{n:02d}": f"a caption of image {n}" for n in range(48)}


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    pairs = make_pairs(tmp_path / "pairs", CAPTIONS)
    texts = make_rewrites(tmp_path / "rewrites", pairs, {k: [f"rewrite of {k}"] for k in CAPTIONS})
    return {"pairs": pairs, "rewrites": texts}


@pytest.fixture
def chosen(values: dict[str, Any]) -> Any:
    """`chosen(recipe_keys, steps=9)`: params of protoclip with some keys replaced."""

    def build(changes: dict[str, Any], recipe: str = "protoclip", **others: Any) -> Params:
        values["recipes"][recipe] |= changes
        values["pretrain"] |= {"recipe": recipe, **others}
        built = params_file.parse(params_file.select(values, "pretrain"), "pretrain")
        assert isinstance(built, Params)
        return built

    return build


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / checkpoint.WEIGHTS)


def test_an_episode_is_clustered_once_and_of_the_pairs_that_it_shows(
    tmp_path: Path, data: dict[str, Path], chosen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 pairs are two batches of 16; 6 steps are three episodes."""
    renew, seen = Prototypes.renew, []

    def spy(self: Prototypes, rows: torch.Tensor, *args: Any, **others: Any) -> None:
        renew(self, rows, *args, **others)
        seen.append((rows.tolist(), self.used.sum().item()))

    monkeypatch.setattr(Prototypes, "renew", spy)
    stage.run(chosen({"episode_pairs": 40}, log_every=1), **data, checkpoint=tmp_path / "c")
    assert len(seen) == 3 * 2
    assert [len(rows) for rows, _ in seen[:2]] == [32, 32]
    assert seen[0][0] == seen[1][0] == sorted(set(seen[0][0]))
    assert set(seen[0][0]) | set(seen[2][0]) == set(range(48))  # its second episode ends the epoch
    assert all(used == 4 for _, used in seen)
    history = pq.read_table(tmp_path / "c" / checkpoint.HISTORY).to_pydict()
    assert all(0 < loss < 3 for loss in history["prototype_loss"])


@pytest.mark.parametrize("saved_at", [2, 4, 5])
def test_resumed_in_the_middle_of_an_episode_it_ends_the_same(
    tmp_path: Path, data: dict[str, Path], chosen: Any, saved_at: int
) -> None:  # fmt: skip
    """Episodes of three steps; one of the saved states is right before the second."""
    params = chosen({"episode_pairs": 48}, checkpoint_every=saved_at, log_every=1)
    stage.run(params, **data, checkpoint=tmp_path / "straight")
    with power_cut(after=saved_at):
        stage.run(params, **data, checkpoint=tmp_path / "resumed")
    stage.run(params, **data, checkpoint=tmp_path / "resumed")
    one, other = weights(tmp_path / "straight"), weights(tmp_path / "resumed")
    assert all(torch.equal(one[name], other[name]) for name in one)
    histories = [
        pq.read_table(tmp_path / name / checkpoint.HISTORY).to_pydict()["prototype_loss"]
        for name in ("straight", "resumed")
    ]
    assert histories[0] == histories[1]


def test_without_weight_it_is_clip_bit_for_bit(
    tmp_path: Path, data: dict[str, Path], chosen: Any
) -> None:
    stage.run(chosen({}, recipe="clip"), **data, checkpoint=tmp_path / "clip")
    stage.run(chosen({"weight": 0.0}), **data, checkpoint=tmp_path / "none")
    stage.run(chosen({"weight": 1.0}), **data, checkpoint=tmp_path / "some")
    clip, none, some = (weights(tmp_path / name) for name in ("clip", "none", "some"))
    assert all(torch.equal(clip[name], none[name]) for name in clip)
    assert not all(torch.equal(clip[name], some[name]) for name in clip)


def test_refusals(tmp_path: Path, data: dict[str, Path], chosen: Any) -> None:
    with pytest.raises(ParamsError, match=r"num_prototypes: 40 exceed the 32 pairs of an episode"):
        stage.run(chosen({"num_prototypes": 40}), **data, checkpoint=tmp_path / "c")
    with pytest.raises(ParamsError, match=r"episode_pairs: 10 are less than a batch of 16"):
        stage.run(
            chosen({"num_prototypes": 4, "episode_pairs": 10}), **data, checkpoint=tmp_path / "c"
        )
    assert not (tmp_path / "c").exists()
