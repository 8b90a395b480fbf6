"""SAD in a run: the paths are trained once they start, and the plain network is left."""

import numpy as np
from toys import rows_of

from seed_jax import config
from seed_jax.train import loop, workdir


def test_a_run(tmp_path):
    raw = config.default("sad")
    raw.data.source, raw.data.batch_size, raw.data.image_size = "digits", 16, 16
    raw.data.photometric, raw.student.model = "digits", "cifar_resnet8"
    raw.train.steps, raw.train.bn_group, raw.evals.names = 3, 8, ()
    raw.log.every_steps, raw.log.tensorboard = 1, False
    raw.method.start, raw.method.weight = 0.5, 10.0
    loop.run(raw, tmp_path)
    paths = {"stage1_from_stage2", "stage2_from_stage3"}
    for row in rows_of(tmp_path):
        added = sum(row[name] for name in paths) * 10
        assert added > 0
        np.testing.assert_allclose(row["loss"], row["ce"] + (added if row["step"] > 2 else 0), rtol=1e-4)
    assert set(workdir.load_run(tmp_path).variables["params"]) == {"backbone", "classifier"}
