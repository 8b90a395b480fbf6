"""BINGO: bag of instances aggregation boosts self-supervised distillation (ICLR 2022, arXiv 2107.01691)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from seed_jax.analysis.nearest import nearest
from seed_jax.data import mixing
from seed_jax.data import rng as rng_lib
from seed_jax.errors import UserError, unknown
from seed_jax.losses import info_nce
from seed_jax.methods import queue
from seed_jax.methods.base import VECTORS, LossOut, Method, Offline, base_view, bound, unit
from seed_jax.models.heads import ProjectionHead
from seed_jax.models.network import Joined

BAG = "bag"


@dataclasses.dataclass(frozen=True)
class BINGO(Method):
    """InfoNCE with the teacher's embeddings of the image and of one of its nearest neighbours as positives.

    The bag of an image, the anchor, holds its nearest neighbours in the teacher's features, found once before
    the training. In each pass one of them is drawn. Student and teacher see views of their own of both
    images, and the student also sees the anchor with a box of the neighbour (CutMix). The loss is a mean of
    three:

        of the anchor     w_1 L(s_anchor, t_anchor) + w_2 L(s_anchor, t_neighbour)
        of the neighbour  w_1 L(s_neighbour, t_neighbour) + w_2 L(s_neighbour, t_anchor)
        of the mixture    share L(s_mixture, t_anchor) + (1 - share) L(s_mixture, t_neighbour)

    where L is InfoNCE with the queue as negatives and `share` is the anchor's of the pixels. Only the
    teacher's embedding of the anchor enters the queue, after the loss has used it.

    This follows haohang96/bingo, main_moco.py and moco/builder.py. We differ: the released teacher stays in
    train mode and normalises by the statistics of its batch, ours by its own; the released box is one for
    each GPU, ours is one for the batch; the released queue starts with noise, ours is empty unless
    `queue_start` is 'noise'.

    Attributes:
      neighbours: number of neighbours in an image's bag.
      feature: teacher feature in which neighbours are searched, 'pooled' as in the released code, or
        'embedding'.
      temperature: temperature of InfoNCE; 0.12 for the released EfficientNet-B0.
      weights: w_1 of the intra-sample terms and w_2 of the inter-sample terms.
      intra_epochs: epochs at the start that use the intra-sample terms alone, with the weights 1 and 0; the
        released code switches to both after its epoch 10, counted from 0.
      cutmix: parameter of Beta(cutmix, cutmix), from which lambda of CutMix's box is drawn.
      queue_size: size K of the queue, a multiple of the batch size.
      queue_start: 'empty' masks unfilled slots; 'noise' is the released code's Gaussian start.
      hidden: width of the head's hidden layer; 0 for the width of the pooled feature.
    """

    neighbours: int = 5
    feature: str = "pooled"
    temperature: float = 0.2
    weights: tuple[float, float] = (0.5, 0.5)
    intra_epochs: float = 11.0
    cutmix: float = 2.0
    queue_size: int = 65_536
    queue_start: str = "empty"
    hidden: int = 2048

    needs_teacher: ClassVar = True
    smoke: ClassVar = {"queue_size": 64, "hidden": 64}

    def check(self, data, train):
        queue.check_batches(data)
        bound(self, "neighbours", least=1)
        bound(self, "temperature", "cutmix", above=0)
        bound(self, "intra_epochs", "hidden", least=0)
        if self.feature not in VECTORS:
            raise unknown("method.feature", self.feature, VECTORS)
        if len(self.weights) != 2 or min(self.weights) < 0:
            raise UserError(f"method.weights is {self.weights}: use two numbers of 0 or more, as (0.5, 0.5).")

    def offline(self, images):
        if self.neighbours >= images:
            raise UserError(
                f"method.neighbours is {self.neighbours}, and the training split has only {images} images: "
                "use fewer neighbours, or more images."
            )
        bag = jax.ShapeDtypeStruct((self.neighbours,), np.int32)
        return Offline(self.feature, {BAG: bag}, self._bags)

    def _bags(self, features, index, mesh, seed):
        _, near = nearest(features, features, mesh=mesh, k=self.neighbours, others=True)
        return {BAG: index[near].astype(np.int32)}, ""

    def views(self, data):
        anchor = base_view(data, count=2)
        return anchor, dataclasses.replace(anchor, bag=BAG)

    def network(self, backbone, given):
        dim = given.teacher["embedding"].shape[-1]
        return Joined(backbone, {"head": ProjectionHead(hidden=self.hidden or None, dim=dim)})

    def init_aux(self, rng, given, variables):
        dim = given.teacher["embedding"].shape[-1]
        return {"queue": queue.init(self.queue_size, given.batch_size, dim, start=self.queue_start, rng=rng)}

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        anchors, neighbours = batch.views
        anchor, neighbour = anchors[:, 0], neighbours[:, 0]
        box, shape = mixing.random_box(anchor, rng, alpha=self.cutmix), anchor.shape[1:3]
        mixture, share = jnp.where(mixing.inside(box, *shape), neighbour, anchor), mixing.outside(box, *shape)

        # A forward for each, as in the released code: no statistics are those of two kinds of images.
        embeddings = []
        for number, x in enumerate((anchor, neighbour, mixture)):
            keys = rng_lib.fold(batch.keys, number)
            features, model_state = nets.student.apply({"params": params, **model_state}, x, True, keys)
            embeddings.append(unit(features["embedding"]))
        t_anchor = unit(nets.teacher(anchors[:, 1], (1,))["embedding"])
        t_neighbour = unit(nets.teacher(neighbours[:, 1], (3,))["embedding"])

        past, queries = aux["queue"], jnp.concatenate(embeddings)

        def contrasts(key):
            """InfoNCE of anchor, neighbour and mixture with a key of each sample, `[3, B]`."""
            keys, valid = jnp.concatenate([key, key, key]), queue.valid(past)
            return info_nce(queries, keys, past.slots, valid, temperature=self.temperature).reshape(3, -1)

        to_anchor, to_neighbour = contrasts(t_anchor), contrasts(t_neighbour)
        intra = clock.step < round(self.intra_epochs * clock.steps_per_epoch)
        own, other = (jnp.where(intra, *pair) for pair in zip((1.0, 0.0), self.weights, strict=True))
        terms = {
            "anchor_loss": own * to_anchor[0] + other * to_neighbour[0],
            "neighbour_loss": own * to_neighbour[1] + other * to_anchor[1],
            "mixture_loss": share * to_anchor[2] + (1 - share) * to_neighbour[2],
        }
        losses = sum(terms.values()) / 3
        metrics = {
            **terms,
            "teacher_cosine": (embeddings[0] * t_anchor).sum(axis=1),
            "neighbour_cosine": (embeddings[1] * t_anchor).sum(axis=1),
        }
        aux = {"queue": queue.enqueue(past, t_anchor, losses)}
        return losses.mean(), LossOut(model_state, aux, metrics)
