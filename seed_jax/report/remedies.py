"""What usually helps a run whose probes show no gain: settings chosen from its config by simple rules."""

import dataclasses
import json
from collections.abc import Mapping

from seed_jax import models

RATES = {"sgd": (0.03, 0.3), "adamw": (1e-4, 3e-3)}  # usual rates, scaled to the batch
UNUSUAL = 10  # a rate is called high or low this many times beyond them: best rates differ between methods
TAU_TEACHER = 0.01  # the best in SEED's table of temperatures
USUAL_TAU = (0.01, 0.1)  # its neighbours do as well on few images (experiments/small_data/trials.md)
FEW_STEPS = 5_000
DEFAULTS = {  # of the keys that are read here: the config of an old run lacks newer ones
    "data": {"batch_size": 256},
    "method": {},
    "optim": {"name": "sgd", "lr": 0.03, "lr_batch": 256},
    "student": {"model": "mobilenetv3_large", "options": {}},
    "train": {"epochs": 0.0, "steps": 0, "examples": 0},
}
LAGGING = 10  # a run is short below this many time constants of the running statistics


def remedies(config: Mapping, manifest: Mapping, *, fell: bool) -> list[str]:
    """Settings that usually help, each as `KEY=VALUE (reason)`; those that do not apply are left out.

    They come in this order: a queue that repeats the images of one epoch, an unusual teacher temperature, a
    learning rate that is unusual, or too high for a score that fell, batch statistics that lag behind the
    weights, a short run.

    >>> config = {"method": {"queue_size": 1024, "tau_teacher": 0.01}, "data": {"batch_size": 64}}
    >>> config |= {"optim": {"name": "lars"}, "student": {"model": "mine"}, "train": {"epochs": 9}}
    >>> remedies(config, {"data": {"images": 1378}, "steps": 9999}, fell=False)
    ['method.queue_size=640 (1,024 is more than half of the 1,378 training images)']

    Args:
      config: of the run, as in config.json; missing keys have their defaults.
      manifest: of the run, with `steps`; without the number of images nothing is said of the queue.
      fell: whether the score fell, by more than its error.
    """
    config = {name: defaults | config.get(name, {}) for name, defaults in DEFAULTS.items()}
    found = [_queue(config, manifest), _temperature(config), _rate(config, fell)]
    found += [_statistics(config, manifest), _length(config, manifest)]
    return [remedy for remedy in found if remedy]


def _queue(config, manifest) -> str:
    size, images = config["method"].get("queue_size"), manifest.get("data", {}).get("images")
    if size is None or images is None:
        return ""
    batch = config["data"]["batch_size"]
    smaller = max(batch, images // 2 // batch * batch)
    if size <= images / 2 or smaller >= size:
        return ""
    return f"method.queue_size={smaller} ({size:,} is more than half of the {images:,} training images)"


def _temperature(config) -> str:
    method = config["method"]
    if "tau_teacher" not in method or USUAL_TAU[0] <= method["tau_teacher"] <= USUAL_TAU[1]:
        return ""
    return f"method.tau_teacher={TAU_TEACHER} (SEED's, not {method['tau_teacher']:g})"


def _rate(config, fell) -> str:
    optim, method = config["optim"], config["method"]
    if optim["name"] not in RATES or ("freeze" in method and method["freeze"]):
        return ""
    scale = config["data"]["batch_size"] / optim["lr_batch"] if optim["lr_batch"] else 1.0
    low, high = RATES[optim["name"]]
    rate = optim["lr"] * scale
    if rate > high * UNUSUAL * 1.01:
        return f"optim.lr={high / scale:.2g} (a usual rate; {optim['lr']:g} is high)"
    if fell:
        return f"optim.lr={optim['lr'] / 3:.2g} (a third)"
    if rate < low / UNUSUAL / 1.01:
        return f"optim.lr={low / scale:.2g} (a usual rate; {optim['lr']:g} is low)"
    return ""


def _statistics(config, manifest) -> str:
    student = config["student"]
    if student["model"] not in models.MODELS:  # a model of the user's, in a process that has not added it
        return ""
    module = models.create(student["model"], **student["options"]).module
    momentum = {f.name: getattr(module, f.name) for f in dataclasses.fields(module)}.get("bn_momentum", 0.0)
    if momentum <= 0.9 or manifest["steps"] * (1 - momentum) >= LAGGING:
        return ""
    options = json.dumps({**student["options"], "bn_momentum": 0.9}, separators=(",", ":"))
    return f"student.options='{options}' (batch statistics of a short run lag behind the weights)"


def _length(config, manifest) -> str:
    train = config["train"]
    key = next((key for key in ("epochs", "steps", "examples") if train[key]), "")
    if manifest["steps"] >= FEW_STEPS or not key:
        return ""
    return f"train.{key}={2 * train[key]} (twice as long)"
