"""Clusters, what they teach, and who is known to them."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import adjusted_rand_score, mutual_info_score
from torch.nn import functional

from clipflow.model.clustering import clustered, means
from clipflow.model.prototypes import Prototypes, in_one_order, once_each

NUM, DIM, CLUSTERS = 60, 8, 5


def planted(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings around one point for each of five labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(NUM) % CLUSTERS
    points = 3 * torch.randn(CLUSTERS, DIM, generator=generator)
    return points[labels] + 0.1 * torch.randn(NUM, DIM, generator=generator), labels


def renewed(
    student: torch.Tensor, teacher: torch.Tensor, back_translation: bool = True
) -> Prototypes:
    prototypes = Prototypes(NUM + 4, CLUSTERS, DIM)
    labels = clustered(teacher, CLUSTERS, seed=1, iterations=30)
    prototypes.renew(torch.arange(0, 2 * NUM, 2), labels, student, teacher,
                     back_translation=back_translation)  # fmt: skip
    return prototypes


@pytest.mark.parametrize("seed", range(8))
def test_planted_clusters_are_found(seed: int) -> None:
    embeddings, labels = planted()
    found = clustered(embeddings, CLUSTERS, iterations=30, seed=seed)
    assert adjusted_rand_score(labels, found) == 1.0


def test_the_seed_decides() -> None:
    embeddings = torch.randn(NUM, DIM, generator=torch.Generator().manual_seed(0))
    one, same, other = (
        clustered(embeddings, CLUSTERS, iterations=5, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_what_lies_beyond_the_first_components_is_not_clustered() -> None:
    """Five groups far from each other, and each cut in two by a little in fifty more elements."""
    embeddings, _ = planted()
    halves = torch.arange(NUM) // (NUM // 2)
    little = 0.2 * torch.randn(2, 50, generator=torch.Generator().manual_seed(3))[halves]
    both = torch.cat([embeddings, little], 1)
    few, whole = (
        mutual_info_score(halves, clustered(both, 10, iterations=30, seed=0, components=components))
        for components in (3, 58)
    )
    assert whole == pytest.approx(math.log(2))
    assert few < 0.1


def test_means_are_of_the_members() -> None:
    embeddings, labels = planted()
    found = means(embeddings, labels, CLUSTERS + 1)
    for cluster in range(CLUSTERS):
        torch.testing.assert_close(found[cluster], embeddings[labels == cluster].mean(0))
    assert (found[CLUSTERS] == 0).all()


def test_back_translated_prototypes_dont_know_how_far_the_modalities_are_apart() -> None:
    """All texts moved by the same vector: the images' prototypes stay, bit for bit; raw centroids move."""
    images, _ = planted(1)
    texts, _ = planted(2)
    offset = 5 * torch.ones(DIM)
    near, far = renewed(images, texts), renewed(images, texts + offset)
    assert torch.equal(far.labels, near.labels)
    assert torch.equal(far.prototypes, near.prototypes)
    torch.testing.assert_close(far.centroids, near.centroids + offset)
    raw = [renewed(images, teacher, back_translation=False) for teacher in (texts, texts + offset)]
    torch.testing.assert_close(raw[1].prototypes, raw[0].prototypes + offset)
    torch.testing.assert_close(near.prototypes, means(images, near.labels[-NUM:], CLUSTERS))


def test_the_loss_is_the_cross_entropy_to_the_centroids_similarities() -> None:
    images, _ = planted(1)
    texts, _ = planted(2)
    prototypes = renewed(images, texts)
    student, scale = functional.normalize(images, dim=1), torch.tensor(3.0)
    labels = prototypes.labels[-NUM:]
    unit = functional.normalize(prototypes.centroids, dim=1)
    targets = (unit[labels] @ unit.T / 0.2).softmax(1)
    scores = (3.0 * student @ functional.normalize(prototypes.prototypes, dim=1).T).log_softmax(1)
    expected = -(targets * scores).sum(1).mean()
    rows = torch.arange(0, 2 * NUM, 2)
    torch.testing.assert_close(prototypes.loss(student, rows, scale, 0.2), expected)
    hard = functional.nll_loss(scores, labels)
    torch.testing.assert_close(prototypes.loss(student, rows, scale, 1e-4), hard)
    torch.testing.assert_close(prototypes.loss(student, rows, scale, None), hard)


def test_the_loss_is_exact_under_autocast() -> None:
    images, _ = planted(1)
    texts, _ = planted(2)
    prototypes, rows, scale = renewed(images, texts), torch.arange(0, 2 * NUM, 2), torch.tensor(3.0)
    for temperature in (0.01, None):
        exact = prototypes.loss(images, rows, scale, temperature)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(prototypes.loss(images, rows, scale, temperature), exact)


def test_pairs_of_no_episode_have_no_loss() -> None:
    """Those between, below and above the known ones, and all before the first episode."""
    images, _ = planted(1)
    prototypes, scale = renewed(images, images), torch.tensor(3.0)
    student = images[:4].requires_grad_()
    unknown = torch.tensor([-1, 1, 2 * NUM, 10**12])
    for each in (prototypes, Prototypes(8, CLUSTERS, DIM)):
        loss = each.loss(student, unknown, scale, 0.01)
        assert loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, student)
        assert (gradient == 0).all()
    assert prototypes.loss(student, unknown * 0 + 2, scale, 0.01) > 0


def test_clusters_without_members_get_no_probability() -> None:
    few = torch.eye(DIM)[:2].repeat(3, 1)
    prototypes = Prototypes(6, CLUSTERS, DIM)
    labels = clustered(few, CLUSTERS, iterations=5, seed=0)
    prototypes.renew(torch.arange(6), labels, few, few)
    assert prototypes.used.sum() == 2
    loss = prototypes.loss(few, torch.arange(6), torch.tensor(100.0), 0.01)
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_one_process_has_its_own_order() -> None:
    local = torch.arange(12.0).view(3, 4, 1)
    assert torch.equal(in_one_order(local), torch.arange(12.0)[:, None])
    rows, first = once_each(torch.tensor([5, 3, 5, 1]))
    assert rows.tolist() == [1, 3, 5]
    assert first.tolist() == [3, 1, 0]
