"""python -m seed_jax.data inspect PHOTOS      print counts, classes, sizes, and bad images
python -m seed_jax.data pack PHOTOS OUT     write images as ArrayRecord shards
"""

import argparse
import io
import os
import sys

from seed_jax.data import images
from seed_jax.data.inspect import inspect
from seed_jax.data.pack import pack
from seed_jax.data.sources import READERS, SOURCES, named, open_source, settle
from seed_jax.data.sources.base import check_local
from seed_jax.errors import command


@command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m seed_jax.data", description="Pack and inspect data.")
    commands = parser.add_subparsers(dest="command", required=True)
    pack_parser = commands.add_parser(
        "pack", help="write a source as ArrayRecord shards; a stopped pack is resumed"
    )
    inspect_parser = commands.add_parser("inspect", help="print counts, classes, sizes, and bad images")
    for subparser in (pack_parser, inspect_parser):
        subparser.add_argument(
            "source", help=f"a folder or file, or with --dir the name of a source: {', '.join(SOURCES)}"
        )
        subparser.add_argument("--dir", help="the folder or file that the source reads, as data.dir")
        subparser.add_argument(
            "--split",
            default="all",
            help="train, val, test, train+val or all (default); for tfds:NAME a split of that dataset",
        )
        subparser.add_argument(
            "--workers", type=_positive, default=os.cpu_count(), help="number of threads; default: all cores"
        )
    pack_parser.add_argument("out", help="the folder to write the shards to")
    pack_parser.add_argument(
        "--short-side",
        type=_positive,
        default=0,
        help="resize larger images to this short side in pixels; default: keep their size",
    )
    pack_parser.add_argument(
        "--shard-size", type=_positive, default=10_000, help="images per shard; default: 10000"
    )
    inspect_parser.add_argument("--all", action="store_true", help="decode every image, not just 2,000")
    options = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does: file names may be any bytes
    if options.command == "pack":
        check_local("OUT", options.out)  # before listing the source, which may take minutes
    if options.dir is None and options.source not in READERS:
        options.source, options.dir = named(options.source)
    name, _ = settle(options.source, options.dir or "", options.split)
    source = open_source(name, options.split, dir=options.dir or None)
    if options.command == "inspect":
        print(inspect(source, everything=options.all, workers=options.workers))
        return 0
    packed = pack(
        source,
        options.out,
        prefix=options.dir or "",
        short_side=options.short_side,
        workers=options.workers,
        shard_size=options.shard_size,
    )
    skipped = packed.metadata["skipped"]
    print(
        f"{len(packed):,} images in {options.out}; train with data.source=arrayrecord, data.dir={options.out}"
    )
    if skipped:
        print(f"{len(skipped):,} could not be read and were left out:", *skipped, sep="\n  ")
    total = len(packed) + len(skipped)
    if images.too_many_bad(len(skipped), total):  # a run on the source would stop
        print(
            f"{100 * len(skipped) / total:.3g} % of the {total:,} images were left out, and a run skips at "
            f"most {100 * images.BAD_SHARE:g} %: train on the rest, or fix these images, remove "
            f"{options.out} and run the command again.",
            file=sys.stderr,
        )
        return 1
    return 0


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
