"""The command line: ``tcdecomp score``, ``tcdecomp plugins`` and ``tcdecomp demo``.

Results go to stdout, errors to stderr. The exit status is 0; 1 after an error, or where a plugin
is broken; 2 for arguments that are not understood.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tcdecomp.plugins.registry import survey
from tcdecomp.scoring import Report, score
from tcdecomp.scoring.files import FileError, read_npz
from tcdecomp.scoring.plots import picture_kinds

__all__ = ["main"]

_FILE = """\
FILE is an npz file, as numpy.savez writes it, with these arrays of the N items of a data set:

  mu (N, D) and logvar (N, D)   means and log-variances of the posteriors
  codes (N, D), or mu alone     in their place: a score without the terms
  factors (N, K) or (N,)        the true factors, for the MIG; may be left out

Others are not read, and nothing is unpickled."""
_STATES = {
    "registered": "registered by hand",
    "ready": "ready",
    "absent": "its package is not installed",
    "broken": "broken: ",
    "claimed twice": "claimed twice: ",
}


class _CommandError(Exception):
    """What the user is told in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Raises
    ------
    SystemExit
        As argparse does, after ``--help``, ``--version`` and arguments that are not understood.

    Examples
    --------
    >>> from tcdecomp.cli import main
    >>> main(["score", "no-such-file.npz"])
    1
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except _CommandError as error:
        print(f"tcdecomp: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader, such as head, has seen enough. Python flushes stdout once more as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tcdecomp",
        description="See, steer and measure what the KL term of a variational autoencoder does.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('tcdecomp')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_score(commands)
    about = "list the adapters, and say which cannot be loaded and why"
    plugins = commands.add_parser("plugins", help=about, description=f"{about.capitalize()}.")
    plugins.set_defaults(run=_plugins)
    # No prefix: all that follows belongs to the demo, whose own parser has the options.
    demo = commands.add_parser(
        "demo", help="train three VAEs and compare them", add_help=False, prefix_chars="\0"
    )
    demo.add_argument("arguments", nargs="*")
    demo.set_defaults(run=_demo)
    return parser


def _add_score(commands: Any) -> None:
    about = "score posteriors or codes: the terms of the KL, active units, MIG"
    parser = commands.add_parser(
        "score",
        help=about,
        description=f"{about[0].upper()}{about[1:]}.",
        epilog=_FILE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    parser.add_argument(
        "--plot", type=Path, metavar="PATH", help="write a picture, of the kind that PATH ends in"
    )
    parser.add_argument(
        "--num-samples",
        type=int,
        default=10_000,
        metavar="N",
        help="samples that the terms are estimated from (default: %(default)s)",
    )
    parser.add_argument(
        "--n-bins",
        type=int,
        default=20,
        metavar="N",
        help="bins of each latent for the MIG (default: %(default)s)",
    )
    parser.add_argument(
        "--continuous", action="store_true", help="the factors are numbers, to be binned too"
    )
    parser.set_defaults(run=_score)


def _score(options: argparse.Namespace) -> int:
    if options.plot is not None:
        _check_picture(options.plot)  # before what may take long
    mig = {"n_bins": options.n_bins, "discrete_factors": not options.continuous}
    try:
        values, factors = _read(options.file)
        report = score(values, factors=factors, num_samples=options.num_samples, mig=mig)
        text = report.to_json() if options.json else str(report)
    except FileError as error:
        raise _CommandError(error) from error
    except (TypeError, ValueError) as error:
        message = str(error).replace("discrete_factors=False", "--continuous")
        raise _CommandError(f"{options.file}: {message}") from error
    print(text)
    if options.plot is not None:
        _draw(report, options.plot)
    return 0


def _read(path: Path) -> tuple[Any, Any]:
    """Return what ``score`` takes: posteriors or codes, and factors or None."""
    arrays = read_npz(path, ("mu", "logvar", "codes", "factors"))
    got = ", ".join(arrays)
    if ("codes" in arrays) == ("mu" in arrays):
        raise FileError(f"{path}: must hold either mu or codes; got {got}")
    if "codes" in arrays and "logvar" in arrays:
        raise FileError(f"{path}: must hold mu beside logvar; got {got}")
    factors = arrays.pop("factors", None)
    values = tuple(arrays.values())  # in the order above
    return (values if len(values) > 1 else values[0]), factors


def _check_picture(path: Path) -> None:
    try:
        kinds = picture_kinds()
    except ImportError as error:
        raise _CommandError(error) from error
    if path.suffix.removeprefix(".").lower() not in kinds:
        raise _CommandError(f"--plot must end in one of .{', .'.join(kinds)}; got {path}")
    if not path.parent.is_dir():
        raise _CommandError(f"--plot must lie in a folder that exists; got {path}")


def _draw(report: Report, path: Path) -> None:
    try:
        report.plot().savefig(path)
    except (ImportError, OSError, ValueError) as error:
        raise _CommandError(error) from error


def _plugins(options: argparse.Namespace) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the frameworks, when they are imported
        statuses = survey()
    rows = [("package", "adapter", "distribution", "state")]
    rows += [
        (status.package, status.plugin, status.distribution, _STATES[status.state] + status.reason)
        for status in statuses
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    return int(any(status.reason for status in statuses))


def _demo(options: argparse.Namespace) -> int:
    status: int = importlib.import_module("tcdecomp.demo.__main__").main(options.arguments)
    return status
