import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seed_jax.data.sources import Arrays, Subset, open_source
from seed_jax.data.sources.subset import subset
from seed_jax.errors import UserError


@pytest.fixture(scope="module")
def source():
    labels = np.repeat(np.arange(5), [1, 10, 100, 1000, 30])
    return Arrays("a", np.zeros((len(labels), 1, 1, 3), np.uint8), labels)


@pytest.mark.parametrize(
    ("spec", "counts"),
    [("1%", [1, 1, 1, 10, 1]), ("10%", [1, 1, 10, 100, 3]), ("100%", [1, 10, 100, 1000, 30])],
)
def test_a_percentage_of_each_class(source, spec, counts):
    assert np.bincount(subset(source, spec).labels()).tolist() == counts


def test_one_percent_is_contained_in_ten(source):
    one, ten, other = (set(subset(source, s, seed).ids()) for s, seed in (("1%", 0), ("10%", 0), ("10%", 1)))
    assert one < ten
    assert ten != other


def test_the_seed_is_in_the_spec_or_that_of_the_run(source):
    def chosen(spec, seed):
        return subset(source, spec, seed).ids().tolist()

    assert chosen("10%@3", 0) == chosen("10%@3", 1) == chosen("10%", 3) != chosen("10%", 0)
    assert chosen("10%@0", 5) == chosen("10%", 0)
    assert set(chosen("1%@3", 0)) < set(chosen("10 %@3", 0))


@given(seed=st.integers(0, 2**32))
def test_the_order_of_the_source_does_not_matter(source, seed):
    mixed = Subset(source, np.random.default_rng(seed).permutation(len(source)))
    assert set(subset(mixed, "2.5%", seed).ids()) == set(subset(source, "2.5%", seed).ids())


def test_a_percentage_of_a_split_without_labels():
    source = Arrays("a", np.zeros((1000, 1, 1, 3), np.uint8), None)
    assert len(subset(source, "1%")) == 10


def test_lists_name_files_with_or_without_folders(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/3.png"):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(b"x")
    names = tmp_path / "list.txt"

    def chosen(text):
        names.write_text(text)
        source = open_source("folder", "all", dir=str(tmp_path / "x"), subset=str(names))
        return ["/".join(source.name(i).split("/")[-2:]) for i in range(len(source))]

    assert chosen("3.png\n2.png\n") == ["a/2.png", "b/3.png"]
    assert chosen("b/1.png\n\na/2.png") == ["a/2.png", "b/1.png"]
    with pytest.raises(UserError, match="1 of the 2 names in .* are not in the data, for example 9.png"):
        chosen("3.png\n9.png")
    with pytest.raises(
        UserError, match="for example 9.png"
    ):  # even though the list has as many names as images that match
        chosen("1.png\n9.png")
    with pytest.raises(UserError, match="none of the 1 names"):
        chosen("9.png")


def test_a_list_of_tfds(tmp_path):
    """The records of imagenet2012 have the file names that SimCLR's lists use."""
    pytest.importorskip("tensorflow_datasets")
    from test_tfds import write_tfds

    write_tfds(tmp_path, [(b"x", 4), (b"y", 9)], names=["n01_7.JPEG", "n02_5.JPEG"])
    (tmp_path / "1percent.txt").write_text("n02_5.JPEG\n")
    source = open_source(
        "tfds:imagenet2012", "train", dir=str(tmp_path), subset=str(tmp_path / "1percent.txt")
    )
    assert [r[:3] for r in source] == [(b"y", source.ids()[0], 9)]


def test_a_list_of_a_large_tfds_set_reads_it_once(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    from test_tfds import sources, write_tfds

    write_tfds(tmp_path, [(b"x", 4), (b"y", 9)], names=["n01_7.JPEG", "n02_5.JPEG"])
    (tmp_path / "1percent.txt").write_text("n02_5.JPEG\n")
    monkeypatch.setattr(sources.tfds.cache, "WORTH", 2)
    seen, read = [], sources.tfds.read
    monkeypatch.setattr(sources.tfds, "read", lambda *a: seen.append(a[-1]) or read(*a))
    for _ in range(2):
        open_source("tfds:imagenet2012", "train", dir=str(tmp_path), subset=str(tmp_path / "1percent.txt"))
    assert seen == [0, 1]


@pytest.mark.parametrize("spec", ["0%", "0%@3", "101%", "1", "1%@", "1%@x", "nothing.txt"])
def test_user_errors(source, spec):
    with pytest.raises(UserError, match="data.subset"):
        subset(source, spec)
