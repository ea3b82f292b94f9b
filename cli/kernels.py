"""Make a package for the `kernels` library out of the fast-weight ops: code for CPU and CUDA, and a card.

    seqzoo kernels exports/fast-weights

`kernels.get_local_kernel(Path("exports/fast-weights"))` loads the result where seqzoo is not installed.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make; must not exist yet, or be empty")


def run(args: argparse.Namespace) -> int:
    from seqzoo.hub_cards.kernel_package import export_kernels

    for path in export_kernels(args.out):
        print(path)
    print(f"\n{args.out / 'README.md'} says how to use it")
    return 0
