"""Episodes in training: when they begin, what they leave, and that a resumed run has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from sklearn.metrics import adjusted_rand_score

from clipflow import params as params_file
from clipflow.artifacts import checkpoint
from clipflow.errors import ParamsError
from clipflow.model.clustering import means
from clipflow.model.prototypes import Prototypes
from clipflow.pretrain import stage
from clipflow.pretrain.params import Params
from fakes import tiny_roberta
from fakes.artifacts import make_pairs, make_rewrites
from fakes.launch import make_inputs
from fakes.power_cut import power_cut

CAPTIONS = {f"k{n:02d}": f"a caption of image {n}" for n in range(48)}
TWO_KINDS = {
    f"k{n:02d}": f"The market fell by {n} percent" if n % 2 else f"a dog on a beach, number {n}"
    for n in range(48)
}


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    return make_inputs(tmp_path, CAPTIONS)


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


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of a text teacher."""
    folder = tmp_path_factory.mktemp("teacher") / "roberta"
    return str(tiny_roberta.save(folder, [*CAPTIONS.values(), *TWO_KINDS.values()]))


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


def test_a_text_teachers_two_kinds_of_captions_are_what_both_modalities_learn(
    tmp_path: Path, chosen: Any, roberta: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the images, of any colour, nor their untrained tower know of the two kinds."""
    renew, seen = Prototypes.renew, []

    def spy(self: Prototypes, rows: Any, labels: Any, student: Any, *args: Any, **how: Any) -> None:
        renew(self, rows, labels, student, *args, **how)
        seen.append((self, rows, labels, student))

    monkeypatch.setattr(Prototypes, "renew", spy)
    pairs = make_pairs(tmp_path / "pairs", TWO_KINDS)
    texts = make_rewrites(tmp_path / "rewrites", pairs, {})
    changes = {"episode_pairs": 48, "num_prototypes": 2, "text_teacher": roberta}
    params = chosen(changes, steps=3, log_every=1)
    stage.run(params, pairs=pairs, rewrites=texts, checkpoint=tmp_path / "c")
    of_images, by_images, *by_teacher = seen
    kinds = torch.arange(48) % 2
    assert adjusted_rand_score(kinds, by_images[2]) < 0.5
    assert len(by_teacher) == 2
    assert torch.equal(by_teacher[0][3], of_images[3])
    assert torch.equal(by_teacher[1][3], by_images[3])
    for prototypes, rows, labels, student in by_teacher:
        assert rows.tolist() == list(range(48))
        assert adjusted_rand_score(kinds, labels) == 1.0
        torch.testing.assert_close(prototypes.prototypes, means(student, labels, 2))
        unit = torch.nn.functional.normalize(prototypes.prototypes, dim=1)
        own, other = ((student[:1] * unit[k]).sum(1) for k in (labels[0], 1 - labels[0]))
        scale = torch.tensor(2.0)
        expected = torch.nn.functional.softplus(scale * (other - own))[0]  # of two classes
        torch.testing.assert_close(prototypes.loss(student[:1], rows[:1], scale, None), expected)
    history = pq.read_table(tmp_path / "c" / checkpoint.HISTORY).to_pydict()
    assert all(0 < loss < 3 for loss in history["text_teacher_loss"])
    whole = [history[name] for name in ("contrastive_loss", "prototype_loss", "text_teacher_loss")]
    assert history["loss"] == pytest.approx(list(map(sum, zip(*whole, strict=True))), rel=1e-5)


def test_the_text_teacher_is_no_part_of_the_objective(chosen: Any, roberta: str) -> None:
    """Beside what there is without one are the two students' prototypes, and no parameter."""
    objectives = []
    for teacher in (None, roberta):
        params = chosen({"text_teacher": teacher})
        torch.manual_seed(0)
        objectives.append(params.recipe.objective(stage.build(params)))
    (without, with_teacher) = (objective.state_dict() for objective in objectives)
    assert all(torch.equal(with_teacher[name], without[name]) for name in without)
    assert {name.split(".")[0] for name in with_teacher.keys() - without.keys()} == {
        "image_text_teacher_prototypes",
        "text_text_teacher_prototypes",
    }
    one, other = (dict(objective.named_parameters()).keys() for objective in objectives)
    assert one == other


def test_gradient_caching_changes_nothing_about_a_text_teacher(
    tmp_path: Path, data: dict[str, Path], chosen: Any, roberta: str
) -> None:
    histories = []
    for chunk_size in (None, 5):
        params = chosen({"text_teacher": roberta}, architecture="clipflow-tiny-vit", steps=4,
                        log_every=1, texts=2, chunk_size=chunk_size)  # fmt: skip
        stage.run(params, **data, checkpoint=tmp_path / f"{chunk_size}")
        table = pq.read_table(tmp_path / f"{chunk_size}" / checkpoint.HISTORY).to_pydict()
        histories.append(table["text_teacher_loss"] + table["grad_norm"])
    assert histories[1] == pytest.approx(histories[0], rel=1e-3)


@pytest.mark.parametrize(
    ("saved_at", "has_teacher"), [(2, False), (4, False), (5, False), (5, True)]
)
def test_resumed_in_the_middle_of_an_episode_it_ends_the_same(
    tmp_path: Path, data: dict[str, Path], chosen: Any, roberta: str, saved_at: int, has_teacher: bool
) -> None:  # fmt: skip
    """Episodes of three steps; one of the saved states is right before the second."""
    changes = {"episode_pairs": 48, "text_teacher": roberta if has_teacher else None}
    params = chosen(changes, checkpoint_every=saved_at, log_every=1)
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
    with pytest.raises(ParamsError, match=r"text_teacher: its centroids lie in another space"):
        stage.run(
            chosen({"text_teacher": "x", "back_translation": False, "episode_pairs": 32}),
            **data, checkpoint=tmp_path / "c",
        )  # fmt: skip
    with pytest.raises(
        ParamsError, match=r"text_teacher: '.*pairs' \(revision 'main'\) can't be loaded"
    ):
        stage.run(
            chosen({"text_teacher": str(data["pairs"]), "back_translation": True}),
            **data, checkpoint=tmp_path / "c",
        )  # fmt: skip
    assert not (tmp_path / "c").exists()
