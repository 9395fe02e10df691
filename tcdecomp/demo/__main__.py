"""The demo as a command: ``python -m tcdecomp.demo``, or ``tcdecomp demo``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tcdecomp.scoring.files import FileError

__all__ = ["main", "parse"]

DESCRIPTION = """\
Train a plain VAE, a beta-VAE and a beta-TCVAE on the same images. Print the three terms of the KL,
the reconstruction loss and the MIG of each model, and draw what the models have learned."""

EXTRAS = ("lightning", "matplotlib")  # needed beyond tcdecomp itself


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit status."""
    options = parse(arguments)
    try:
        # Imported here: --help, and the advice about what to install, must work without the extras.
        from tcdecomp.demo.comparison import compare
        from tcdecomp.demo.models import prepare

        images, recipe = prepare(options.data, options.quick, options.steps)
        options.output.mkdir(parents=True, exist_ok=True)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        return failed(f"{error.name} is not installed: pip install 'tcdecomp[demo]'")
    except (FileError, OSError) as error:
        return failed(error)
    compare(images, recipe, options.seeds, options.output / "picture.png")
    return 0


def failed(reason: object) -> int:
    """Print the reason on stderr and return the exit status."""
    print(f"tcdecomp demo: error: {reason}", file=sys.stderr)
    return 1


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options, or exit with argparse's message."""
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
    """Return the seeds that "0-7", "0,3,5" or a mixture of both names, each once."""
    seeds: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", part)
        if match is None:
            raise argparse.ArgumentTypeError(f"seeds must be like 0-7 or 0,3,5; got {text!r}")
        low, high = int(match[1]), int(match[2] or match[1])
        if high < low:
            raise argparse.ArgumentTypeError(f"a range of seeds must rise; got {part!r}")
        seeds.update(dict.fromkeys(range(low, high + 1)))
    return list(seeds)


def step_count(text: str) -> int:
    """Return a whole number of at least 1."""
    if not re.fullmatch("0*[1-9][0-9]*", text):
        raise argparse.ArgumentTypeError(f"steps must be a whole number from 1; got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
