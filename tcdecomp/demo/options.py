"""The command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

__all__ = ["parse", "seed_list"]

DESCRIPTION = """\
Train a plain VAE, a beta-VAE and a beta-TCVAE on the same images, print what became of the
three terms of the KL, of reconstruction and of MIG, and draw what the models have learned."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options, or leave with argparse's message."""
    parser = argparse.ArgumentParser(prog="tcdecomp demo", description=DESCRIPTION)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="1,000 steps of 128 images per model in place of 2,000 of 256",
    )
    parser.add_argument(
        "--seeds",
        type=seed_list,
        default=[0],
        metavar="LIST",
        help="repeat everything for each seed, as 0-7 or 0,3,5, and print means and spread; "
        "the picture shows the first (default: 0)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="the published dSprites npz in place of the 512 generated images: trains wider "
        "networks on 51,200 of its images, drawn at random. Takes 4 GB of memory and some minutes "
        "per model; the recipe is not tuned for them (see --steps)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("tcdecomp-demo"),
        metavar="DIR",
        help="where picture.png is written (default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=step_count,
        metavar="N",
        help="train each model for N steps, whatever the recipe says",
    )
    return parser.parse_args(arguments)


def seed_list(text: str) -> list[int]:
    """Return the seeds that "0-7", "0,3,5" or a mixture of both names, each once.

    Raises
    ------
    argparse.ArgumentTypeError
        If the text is anything else.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            low, high = whole(first), whole(last if dash else first)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"seeds must be like 0-7 or 0,3,5; got {text!r}"
            ) from None
        if high < low:
            raise argparse.ArgumentTypeError(f"a range of seeds must rise; got {part!r}")
        seeds.update(dict.fromkeys(range(low, high + 1)))
    return list(seeds)


def step_count(text: str) -> int:
    """Return a whole number of at least 1."""
    try:
        number = whole(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"steps must be a whole number from 1; got {text!r}")
    return number


def whole(text: str) -> int:
    """Return a number written in the digits 0 to 9 alone, which int() is less strict about."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)
