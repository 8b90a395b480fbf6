"""K-means pseudo-labels, a strategy of SEED's table 4 (arXiv 2101.04731)."""

import dataclasses
from typing import ClassVar

import jax
import numpy as np
import optax

from seed_jax.analysis.kmeans import kmeans
from seed_jax.errors import UserError, unknown
from seed_jax.methods.base import VECTORS, LossOut, Method, Offline, bound, hits, without
from seed_jax.models.heads import Classifier
from seed_jax.models.network import Joined

CLUSTER = "cluster"


@dataclasses.dataclass(frozen=True)
class KMeans(Method):
    """Cross entropy on the cluster of the image, found by k-means in the teacher's features.

    The teacher sees the centre of each training image once, before the training; its features are scaled to
    length 1 and clustered. The student has a linear classifier on its pooled feature, which is dropped after
    training. The released code has no such strategy, so its form and its values are ours.

    Attributes:
      clusters: number of clusters; 3000, as many as the prototypes of `online_clustering`.
      iterations: largest number of k-means iterations; k-means ends earlier if no image changes its cluster.
      feature: teacher feature that is clustered, 'embedding' or 'pooled'.
    """

    clusters: int = 3000
    iterations: int = 100
    feature: str = "embedding"

    needs_teacher: ClassVar = True
    smoke: ClassVar = {"clusters": 16, "iterations": 10}

    def check(self, data, train):
        bound(self, "clusters", least=2)
        bound(self, "iterations", least=1)
        if self.feature not in VECTORS:
            raise unknown("method.feature", self.feature, VECTORS)

    def offline(self, images):
        if self.clusters > images:
            raise UserError(
                f"method.clusters is {self.clusters}, and the training split has only {images} images: use "
                f"--config.method.clusters={max(2, images // 10)}, or more images."
            )
        return Offline(self.feature, {CLUSTER: jax.ShapeDtypeStruct((), np.int32)}, self._cluster)

    def _cluster(self, features, index, mesh, seed):
        features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        found = kmeans(features, self.clusters, mesh=mesh, seed=seed, iterations=self.iterations)
        note = (
            f"k-means has not converged: {found.moved:,} of {len(features):,} images changed their cluster "
            f"after method.iterations={self.iterations}"
        )
        return {CLUSTER: found.assigned}, note if found.moved else ""

    def network(self, backbone, given):
        return Joined(backbone, {"clusters": Classifier(self.clusters, out="scores")})

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        x, cluster = batch.views[0][:, 0], batch.targets[CLUSTER]
        features, model_state = nets.student.apply({"params": params, **model_state}, x, True, batch.keys)
        losses = optax.softmax_cross_entropy_with_integer_labels(features["scores"], cluster)
        metrics = {"cluster_accuracy": hits(features["scores"], cluster)}
        return losses.mean(), LossOut(model_state, aux, metrics)

    def served(self, variables, aux):
        return without(variables, ("clusters",))
