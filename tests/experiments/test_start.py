import pytest

from experiments.benchmarks import start
from seed_jax import config


def test_each_start_has_its_own_cache_and_both_checkouts_take_turns(monkeypatch, capsys, tmp_path):
    starts = []

    def first_step(checkout, config, overrides, folder):
        starts.append((checkout, folder))
        return (
            30.0
            if [folder for _, folder in starts].count(folder) == 1
            else 10.0 + (checkout == tmp_path) * 10
        )

    monkeypatch.setattr(start, "first_step", first_step)
    assert start.main(["--against", str(tmp_path), "--only", "ViT", "--rounds", "2"]) == 0
    assert [checkout for checkout, _ in starts] == [tmp_path, start.HERE] * 4
    assert len({folder for _, folder in starts}) == 4
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1:] for line in lines[2:4]] == [
        ["cold", "30.0", "30.0", "1.00 |"],
        ["warm", "20.0", "10.0", "0.50 |"],
    ]


def test_the_runs_are_those_of_main(tmp_path):
    """The overrides name keys of the config, and the first line of a failure is the command."""
    with pytest.raises(SystemExit, match=r"main.py --config=configs/digits_seed.py .*failed:\n.*train.step"):
        start.first_step(start.HERE, "digits_seed", {"train.steps": -1}, tmp_path)


@pytest.mark.parametrize("name", start.RUNS)
def test_the_overrides_are_keys_of_the_config(name):
    file, overrides = start.RUNS[name]
    keys = config.load(f"configs/{file}.py").to_dict()
    for key in start.ALWAYS | overrides:
        section, field = key.split(".")
        assert field in keys[section], key
