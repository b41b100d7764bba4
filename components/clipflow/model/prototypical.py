"""ProtoCLIP's objective: CLIP's loss, and what prototypes of each modality teach the other."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from clipflow.errors import ParamsError
from clipflow.model.batch import Batch
from clipflow.model.between_steps import BetweenSteps
from clipflow.model.contrastive import Contrastive
from clipflow.model.prototypes import NO_ROW, Prototypes, in_one_order, once_each
from clipflow.model.towers import Towers

SCALE_INIT = math.log(1 / 0.07)
MAX_SCALE = 100.0


class Prototypical(Contrastive):
    """Towers with CLIP's loss, and a head per modality whose embeddings are clustered by episodes.

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
    ) -> None:
        super().__init__(towers)
        self.weight, self.episode_pairs = weight, episode_pairs
        self.iterations, self.back_translation = iterations, back_translation
        self.target_temperature = target_temperature
        width = towers.dim
        for name in ("image", "text"):
            head = nn.Sequential(
                nn.Linear(width, head_hidden), nn.ReLU(), nn.Linear(head_hidden, head_dim)
            )
            self.add_module(f"{name}_head", head)
            self.add_module(
                f"{name}_prototypes", Prototypes(episode_pairs, num_prototypes, head_dim)
            )
        self.log_scale = nn.Parameter(torch.tensor(SCALE_INIT))

    def forward(self, batch: Batch, *, heads_only: bool = False) -> dict[str, Tensor]:
        """`loss`, and CLIP's and the prototypes' before they are weighted; or what the heads make of it."""
        image = self.towers.embed_images(batch.images, batch.patches)
        text = self.towers.embed_texts(batch.texts)
        headed = {
            "image": functional.normalize(self.get_submodule("image_head")(image).float(), dim=-1),
            "text": functional.normalize(self.get_submodule("text_head")(text).float(), dim=-1),
        }
        if heads_only:
            return headed
        contrast = self.loss(image, text)
        prototypes = self._prototype_loss(batch, headed["image"], headed["text"])
        return {
            "loss": contrast + self.weight * prototypes,
            "contrastive_loss": contrast.detach(),
            "prototype_loss": prototypes.detach(),
            "logit_scale": self.towers.scale.detach(),
        }

    def _prototype_loss(
        self,
        batch: Batch,
        image: Float[Tensor, "batch dim"],
        text: Float[Tensor, "batch texts dim"],
    ) -> Float[Tensor, ""]:
        """The mean of what images and texts lose to their prototypes; of texts that of all versions."""
        rows = torch.tensor([*batch.rows] or [NO_ROW] * len(image), device=image.device)
        scale = self.log_scale.exp().clamp(max=MAX_SCALE)
        versions = text.shape[1]
        of_images = self._of("image").loss(image, rows, scale, self.target_temperature)
        of_texts = self._of("text").loss(
            text.flatten(0, 1), rows.repeat_interleave(versions), scale, self.target_temperature
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
        for batch in run.upcoming(steps):
            headed = self(batch, heads_only=True)
            found["rows"].append(torch.tensor(batch.rows, device=headed["image"].device)[:, None])
            found["image"].append(headed["image"])
            found["text"].append(functional.normalize(headed["text"].mean(1), dim=-1))
        self.train()
        rows, image, text = (in_one_order(torch.stack(found[name])) for name in found)
        rows, first = once_each(rows.flatten())
        image, text = image[first], text[first]
        for name, student, teacher in (("image", image, text), ("text", text, image)):
            self._of(name).renew(
                rows, student, teacher, back_translation=self.back_translation,
                iterations=self.iterations, seed=(run.seed + run.step) % 2**32,
            )  # fmt: skip

    def _of(self, student: str) -> Prototypes:
        """The prototypes of a modality."""
        prototypes = self.get_submodule(f"{student}_prototypes")
        assert isinstance(prototypes, Prototypes)
        return prototypes
