import numpy as np
import pytest

from seed_jax.errors import UserError
from seed_jax.evals import linear


def clusters(n, classes=10, width=32, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(classes, width))
    labels = rng.integers(classes, size=n)
    features = centres[labels] + noise * rng.normal(size=(n, width))
    # Scales and offsets as different as those of real channels.
    return 10.0 ** np.linspace(-1, 1, width) * features + np.linspace(0, 5, width), labels


def test_is_as_good_as_logistic_regression():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    train, val, test = (
        clusters(600, noise=2, seed=1),
        clusters(200, noise=2, seed=2),
        clusters(2000, noise=2, seed=3),
    )
    probe = linear.fit(*train, *val, num_classes=10)
    scaler = StandardScaler().fit(train[0])
    reference = LogisticRegression(C=0.1, max_iter=500).fit(scaler.transform(train[0]), train[1])
    expected = reference.score(scaler.transform(test[0]), test[1])
    assert 0.8 < expected < 0.99
    assert probe.accuracy(*test) > expected - 0.02
    assert probe.val_accuracy == probe.accuracy(*val)


def test_follows_torch_sgd_step_by_step():
    torch = pytest.importorskip("torch")
    x, labels = clusters(50, classes=4, width=6)
    probe = linear.fit(x, labels, x, labels, num_classes=4, lrs=(0.2,), epochs=10, batch_size=50)

    standard = torch.tensor((x - x.mean(0)) / x.std(0))
    model = torch.nn.Linear(6, 4).double()
    torch.nn.init.zeros_(model.weight), torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [6, 8])
    for _ in range(10):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(standard), torch.tensor(labels)).backward()
        optimizer.step()
        schedule.step()
    expected = model(standard).detach().numpy()
    np.testing.assert_allclose(x @ probe.kernel + probe.bias, expected, rtol=1e-3, atol=1e-3)


def test_the_learning_rate_is_chosen_on_validation_alone():
    rng = np.random.default_rng(0)
    x, truth = clusters(120, classes=2, width=100, noise=2.5)
    noisy = np.where(rng.random(len(truth)) < 0.4, 1 - truth, truth)
    validation = clusters(500, classes=2, width=100, noise=2.5, seed=5)
    probes = {
        lr: linear.fit(x, noisy, *validation, num_classes=2, lrs=(lr,), epochs=30) for lr in (1e-4, 1.0)
    }
    # The high rate learns the wrong labels by heart: it wins on the training set and loses on validation.
    assert probes[1.0].accuracy(x, noisy) > probes[1e-4].accuracy(x, noisy)
    assert probes[1.0].val_accuracy < probes[1e-4].val_accuracy
    both = linear.fit(x, noisy, *validation, num_classes=2, lrs=(1.0, 1e-4), epochs=30)
    assert both.lr == 1e-4
    np.testing.assert_allclose(both.kernel, probes[1e-4].kernel, rtol=1e-5)


def test_equal_logits_are_a_vote_for_the_lowest_class():
    probe = linear.LinearProbe(np.eye(6, dtype=np.float32), np.zeros(6, np.float32), lr=1.0)
    assert [probe.accuracy(np.zeros((1, 6)), [label]) for label in range(6)] == [1, 0, 0, 0, 0, 0]


def test_a_constant_channel_is_harmless():
    x, labels = clusters(100, classes=3)
    x[:, 4] = 7.0
    probe = linear.fit(x, labels, x, labels, num_classes=3, epochs=10)
    assert np.isfinite(probe.kernel).all() and probe.val_accuracy > 0.9


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_classes": 2}, "num_classes is 2, but there are labels up to 2: set it to at least 3"),
        ({"lrs": ()}, "lrs"),
        ({"val_labels": [0, -1, 2]}, "validation set has examples without a label"),
        ({"train_features": np.full((3, 3), np.inf)}, "not finite"),
    ],
)
def test_mistakes_are_named(change, named):
    arguments = {"train_features": np.eye(3), "train_labels": [0, 1, 2], "val_features": np.eye(3)}
    with pytest.raises(UserError, match=named):
        linear.fit(**(arguments | {"val_labels": [0, 1, 2], "num_classes": 3} | change))
