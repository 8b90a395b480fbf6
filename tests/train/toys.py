"""Toy methods that several tests train, and a run of a few steps without the loop."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from seed_jax import config, parallel
from seed_jax.data.pipeline import train_batches
from seed_jax.data.sources import open_source
from seed_jax.methods.base import LossOut, Method
from seed_jax.models.heads import Classifier
from seed_jax.models.network import Joined
from seed_jax.report import metrics
from seed_jax.train import build, teacher


@dataclasses.dataclass(frozen=True)
class Toy(Method):
    """A classifier on the backbone, trained by cross entropy; the other toys vary it."""

    weight: float = 1.0

    def network(self, backbone, given):
        return Joined(backbone, {"classifier": Classifier(given.num_classes)})

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        x = batch.views[0][:, 0]
        features, model_state = nets.student.apply({"params": params, **model_state}, x, True, batch.keys)
        losses = optax.softmax_cross_entropy_with_integer_labels(features["logits"], batch.label)
        return self.weight * losses.mean(), LossOut(model_state, aux, {})


def assembled(raw, source=None, devices=1):
    """`(training, fresh state, teacher variables, batches, mesh)` of a config on some devices."""
    c = config.resolve(raw)
    source = open_source("digits", "train") if source is None else source
    loaded = None
    if c.method.needs_teacher:
        loaded = teacher.load(c.teacher, image_size=16, seed=0, precision="fp32")
    given = build.make_given(c, build.lengths(c, len(source)), source.num_classes, loaded)
    mesh = parallel.make_mesh(jax.devices()[:devices])
    training = build.assemble(c, mesh, given, loaded and loaded.network)
    host = train_batches(source, training.views, c.data.batch_size, 0)
    batches = (parallel.to_devices(mesh, batch) for batch in host)
    current = training.fresh(None)
    variables = loaded.variables if loaded else {}
    places = parallel.variable_shardings(mesh, variables, divided=c.train.shard_params)
    variables = jax.device_put(variables, places)
    return training, current, variables, batches, mesh


def steps(raw, count, source=None, devices=1):
    """The states before, after and between `count` steps, on the host, and the metrics of each step."""
    training, current, variables, batches, mesh = assembled(raw, source, devices)
    states, rows = [jax.device_get(current)], []
    with jax.set_mesh(mesh):
        for _ in range(count):
            current, row = training.step(current, variables, next(batches))
            states.append(jax.device_get(current))
            rows.append(jax.device_get(row))
    return states, rows


def rows_of(directory):
    return [row for row in metrics.read(directory) if "loss" in row]


class Timed(Toy):
    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        value, out = super().loss(nets, params, model_state, aux, batch, clock, rng)
        noted = {"progress": clock.progress, "epoch": clock.epoch.astype(jnp.float32)}
        return value, dataclasses.replace(out, metrics=noted)


class Averaged(Toy):
    """Serves a moving average that it keeps itself, without the classifier that trained it."""

    def init_aux(self, rng, given, variables):
        return {"average": jax.tree.map(jnp.copy, variables)}

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        value, out = super().loss(nets, params, model_state, aux, batch, clock, rng)
        now = {"params": jax.lax.stop_gradient(params), **model_state}
        average = optax.incremental_update(now, aux["average"], 0.5)
        return value, dataclasses.replace(out, aux={"average": average})

    def served(self, variables, aux):
        return {name: {"backbone": trees["backbone"]} for name, trees in aux["average"].items()}
