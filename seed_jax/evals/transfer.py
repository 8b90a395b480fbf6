"""The data sets that transfer is measured on, each with the splits and the metric that papers use."""

from typing import NamedTuple


class Set(NamedTuple):
    """A data set.

    Attributes:
      title: its name in papers.
      classes: number of classes.
      per_class: the metric is the mean over classes; else top-1.
      tfds: the name in tensorflow-datasets; '' if it is not there.
      train, val, test: splits there. Without a validation split of its own, a tenth of the training split.
    """

    title: str
    classes: int
    per_class: bool
    tfds: str = ""
    train: str = "train[:90%]"
    val: str = "train[90%:]"
    test: str = "test"


# Metrics and test splits: Kornblith et al. 2019 (arXiv 1805.08974), table 1; SimCLR, BYOL and CLIP follow it.
# Of SUN397 it has the first of ten splits, of DTD too.
SETS = {
    "cifar10": Set("CIFAR-10", 10, False, "cifar10"),
    "cifar100": Set("CIFAR-100", 100, False, "cifar100"),
    "sun397": Set("SUN397", 397, False, "sun397/standard-part1-120k"),
    "caltech101": Set("Caltech-101", 102, True, "caltech101"),  # with the class of backgrounds
    "dtd": Set("DTD", 47, False, "dtd", "train", "validation"),
    "flowers": Set("Oxford 102 Flowers", 102, True, "oxford_flowers102", "train", "validation"),
    "pets": Set("Oxford-IIIT Pets", 37, True, "oxford_iiit_pet"),
    "cars": Set("Stanford Cars", 196, False, "cars196"),
    "aircraft": Set("FGVC Aircraft", 100, True),
    "food101": Set("Food-101", 101, False, "food101", test="validation"),  # its 25,250 test images
}
