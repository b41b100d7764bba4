"""ProtoCLIP: prototypes of one modality taught by the clusters of the other, beside CLIP's loss.

Training goes by episodes. Before each, the towers embed the pairs that it will show, and k-means clusters
the images and the texts, each by themselves. Then a cluster of texts teaches images: the prototype of the
cluster is the mean of its pairs' images (prototypical back translation), and the loss of an image is the
cross-entropy of its similarities to all prototypes, with the softmax of its text cluster's similarities to
all text clusters as the target. Texts are taught by clusters of images likewise. Back translation keeps
the prototypes within the student's modality, however far apart the two are. Embeddings that are clustered
go through a head of their own; heads and prototypes are not part of the checkpoint. The loss is CLIP's plus
`weight` times the mean of both.

With a `text_teacher`, a frozen text encoder (the paper's is RoBERTa), its features of the texts are
clustered too. Its clusters teach images and texts alike, each by the means of their own embeddings, and the
loss gains `weight` times the mean of both cross-entropies. The target of a pair is its cluster alone. As in
the paper's code, a text's feature is the mean of its tokens, at unit length, and of all features 64
principal components are clustered. Two things differ: padding is left out of the mean, where the code has
start marks up to 77 tokens, and the components are an episode's, where it has those of all data.

An episode takes another forward of its pairs, and one of its texts by the text teacher, which
`clipflow plan` doesn't count.

Source: Chen et al. 2022, *Prototypical Contrastive Language Image Pretraining* (arXiv:2206.10996),
section 3; its text teacher as in its code, megvii-research/protoclip.
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from clipflow.errors import ParamsError
from clipflow.model.prototypical import Prototypical
from clipflow.model.text_teacher import TextTeacher
from clipflow.model.towers import Towers
from clipflow.recipes import Recipe


class ProtoClip(Recipe):
    """InfoNCE, and cross-entropy over prototypes of an episode."""

    status = "mechanism-verified"

    weight: float = Field(ge=0)
    """Weight of the prototypes' loss beside CLIP's. ProtoCLIP: 1."""
    episode_pairs: int = Field(ge=2)
    """Pairs of an episode, cut to whole batches. ProtoCLIP: 200,000."""
    num_prototypes: int = Field(ge=2)
    """Clusters of each modality, no more than there are pairs in an episode. ProtoCLIP: 20,000."""
    kmeans_iterations: int = Field(ge=1)
    """Most iterations of k-means. ProtoCLIP: 20."""
    back_translation: bool
    """Prototypes are means of the student's embeddings; false: the teacher's own centroids."""
    target_temperature: float = Field(gt=0)
    """Temperature of the targets. ProtoCLIP: 0.01."""
    head_hidden: int = Field(ge=1)
    """Width of each head's hidden layer. ProtoCLIP: 2048."""
    head_dim: int = Field(ge=1)
    """Elements of what is clustered. ProtoCLIP: 128."""
    text_teacher: str | None = Field(min_length=1)
    """A text encoder of transformers whose clusters teach both modalities: a folder, or a name that is in
    the local cache or can be downloaded. null: none. ProtoCLIP's is `FacebookAI/roberta-large`."""
    text_teacher_revision: str = Field(min_length=1)
    """Branch, tag or commit of a named text teacher. A folder has none and ignores it."""

    def objective(self, towers: Towers) -> nn.Module:
        """InfoNCE, and both students' losses.

        Raises ParamsError for more prototypes than pairs, or a text teacher that can't be had or has no
        back translation.
        """
        where = f"recipes.{self.name}.text_teacher"
        if self.num_prototypes > self.episode_pairs:
            raise ParamsError(
                f"recipes.{self.name}.num_prototypes: {self.num_prototypes} exceed the"
                f" {self.episode_pairs} pairs of an episode; lower it, or raise episode_pairs"
            )
        if self.text_teacher and not self.back_translation:
            raise ParamsError(
                f"{where}: its centroids lie in another space than the students' embeddings; set"
                f" it to null, or recipes.{self.name}.back_translation to true"
            )
        return Prototypical(
            towers,
            weight=self.weight,
            episode_pairs=self.episode_pairs,
            num_prototypes=self.num_prototypes,
            iterations=self.kmeans_iterations,
            back_translation=self.back_translation,
            target_temperature=self.target_temperature,
            head_hidden=self.head_hidden,
            head_dim=self.head_dim,
            text_teacher=TextTeacher(self.text_teacher, self.text_teacher_revision, where=where)
            if self.text_teacher
            else None,
        )
