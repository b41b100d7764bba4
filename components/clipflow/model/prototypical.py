"""ProtoCLIP's objective: CLIP's loss, and what the modalities and a text teacher teach by prototypes."""

from __future__ import annotations

import math
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from clipflow.errors import ParamsError
from clipflow.model.batch import Batch
from clipflow.model.between_steps import BetweenSteps
from clipflow.model.clustering import clustered
from clipflow.model.contrastive import Contrastive
from clipflow.model.prototypes import NO_ROW, Prototypes, in_one_order, once_each
from clipflow.model.text_teacher import TextTeacher
from clipflow.model.towers import Towers

SCALE_INIT = math.log(1 / 0.07)
MAX_SCALE = 100.0
TEACHER_COMPONENTS = 64
"""Principal components of a text teacher's features that are clustered, as in ProtoCLIP's code."""


class Prototypical(Contrastive):
    """Towers with CLIP's loss, and a head per modality whose embeddings are clustered by episodes.

    The clusters of a text teacher's features, if there is one, teach both modalities besides.

    Source: Chen et al. 2022 (ProtoCLIP, arXiv:2206.10996), section 3.
    """

    extra_forwards = 1.0

    def __init__(
        self,
        towers: Towers,
        *,
        weight: float,
        episode_pairs: int,
        num_prototypes: int,
        iterations: int,
        back_translation: bool,
        target_temperature: float,
        head_hidden: int,
        head_dim: int,
        text_teacher: TextTeacher | None = None,
    ) -> None:
        super().__init__(towers)
        self.weight, self.episode_pairs = weight, episode_pairs
        self.iterations, self.back_translation = iterations, back_translation
        self.target_temperature = target_temperature
        self.num_prototypes, self.text_teacher = num_prototypes, text_teacher
        width = towers.dim
        for name in ("image", "text"):
            head = nn.Sequential(
                nn.Linear(width, head_hidden), nn.ReLU(), nn.Linear(head_hidden, head_dim)
            )
            self.add_module(f"{name}_head", head)
            for teacher in ("", "_text_teacher") if text_teacher else ("",):
                self.add_module(
                    f"{name}{teacher}_prototypes",
                    Prototypes(episode_pairs, num_prototypes, head_dim),
                )
        self.log_scale = nn.Parameter(torch.tensor(SCALE_INIT))

    def forward(self, batch: Batch, *, heads_only: bool = False) -> dict[str, Tensor]:
        """`loss`, and its terms before they are weighted; or what the heads make of the batch."""
        image = self.towers.embed_images(batch.images, batch.patches)
        text = self.towers.embed_texts(batch.texts)
        headed = {
            "image": functional.normalize(self.get_submodule("image_head")(image).float(), dim=-1),
            "text": functional.normalize(self.get_submodule("text_head")(text).float(), dim=-1),
        }
        if heads_only:
            return headed
        contrast = self.loss(image, text)
        students = headed["image"], headed["text"]
        terms = {"prototype_loss": self._prototype_loss(batch, *students)}
        if self.text_teacher:
            terms["text_teacher_loss"] = self._prototype_loss(
                batch, *students, by_text_teacher=True
            )
        return {
            "loss": contrast + self.weight * sum(terms.values()),
            "contrastive_loss": contrast.detach(),
            **{name: term.detach() for name, term in terms.items()},
            "logit_scale": self.towers.scale.detach(),
        }

    def _prototype_loss(
        self,
        batch: Batch,
        image: Float[Tensor, "batch dim"],
        text: Float[Tensor, "batch texts dim"],
        *,
        by_text_teacher: bool = False,
    ) -> Float[Tensor, ""]:
        """The mean of what images and texts lose to their prototypes; of texts that of all versions."""
        rows = torch.tensor([*batch.rows] or [NO_ROW] * len(image), device=image.device)
        scale = self.log_scale.exp().clamp(max=MAX_SCALE)
        temperature = None if by_text_teacher else self.target_temperature
        versions = text.shape[1]
        of_images = self._of("image", by_text_teacher).loss(image, rows, scale, temperature)
        of_texts = self._of("text", by_text_teacher).loss(
            text.flatten(0, 1), rows.repeat_interleave(versions), scale, temperature
        )
        return (of_images + of_texts) / 2

    @torch.no_grad()
    def before_step(self, run: BetweenSteps) -> None:
        """Begin an episode if it is time to: embed its pairs in all processes, and cluster them.

        Raises ParamsError if an episode has less than a batch.
        """
        steps = self.episode_pairs // run.batch_size
        if not steps:
            raise ParamsError(
                f"recipes.protoclip.episode_pairs: {self.episode_pairs} are less than a batch of"
                f" {run.batch_size}; raise it, or lower pretrain.batch_size"
            )
        if run.step % steps:
            return
        self.eval()
        found: dict[str, list[Tensor]] = {"rows": [], "image": [], "text": []}
        if self.text_teacher:
            found["text_teacher"] = []
        for batch in run.upcoming(steps):
            headed = self(batch, heads_only=True)
            found["rows"].append(torch.tensor(batch.rows, device=headed["image"].device)[:, None])
            found["image"].append(headed["image"])
            found["text"].append(functional.normalize(headed["text"].mean(1), dim=-1))
            if self.text_teacher:
                features = self.text_teacher(batch.strings, headed["text"].device)
                found["text_teacher"].append(functional.normalize(features.mean(1), dim=-1))
        self.train()
        rows, *others = (in_one_order(torch.stack(each)) for each in found.values())
        rows, first = once_each(rows.flatten())
        image, text, *taught = (each[first] for each in others)
        clusters = partial(
            clustered, num_clusters=self.num_prototypes, iterations=self.iterations,
            seed=(run.seed + run.step) % 2**32,
        )  # fmt: skip
        for name, student, teacher in (("image", image, text), ("text", text, image)):
            self._of(name).renew(
                rows, clusters(teacher), student, teacher, back_translation=self.back_translation
            )
        for features in taught:
            labels = clusters(features, components=TEACHER_COMPONENTS)
            self._of("image", True).renew(rows, labels, image)
            self._of("text", True).renew(rows, labels, text)

    def _of(self, student: str, by_text_teacher: bool = False) -> Prototypes:
        """The prototypes of a modality, by the other's clusters or the text teacher's."""
        teacher = "_text_teacher" if by_text_teacher else ""
        prototypes = self.get_submodule(f"{student}{teacher}_prototypes")
        assert isinstance(prototypes, Prototypes)
        return prototypes
