"""The command line: ``tcdecomp score``, ``seam``, ``plugins`` and ``demo``.

Results go to stdout, errors to stderr. The exit status is 0; 1 after an error, or where a plugin
is broken; 2 for arguments that are not understood.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tcdecomp._text import table
from tcdecomp.plugins import find_seam, survey
from tcdecomp.scoring import Report, score
from tcdecomp.scoring.files import FileError, read_scorable
from tcdecomp.scoring.plots import picture_kinds

__all__ = ["main"]

_FILE = """\
FILE is an npz file, as numpy.savez writes it, with these arrays of the N items of a data set:

  mu (N, D)                 means of the posteriors (or mean, loc)
  logvar (N, D)             their log-variances (or log_var); or their standard deviations as std
                            (sigma, scale), with their logarithm as log_std, or variances as var
  codes (N, D)              in place of these, or mu alone: a score without the terms
  factors (N, K) or (N,)    the true factors (or labels), for the MIG; may be left out

Arrays with other names are not read; stderr names them. Nothing is unpickled."""
_OPTIONS = {
    "discrete_factors=False, or a list with one bool per factor": "--continuous",
    "discrete_factors=False": "--continuous",
    "discrete_codes=False, or a list with one bool per latent": "--no-discrete-codes",
    "discrete_codes=True": "--discrete-codes",
    "discrete_codes=False": "--no-discrete-codes",
    "correction='miller-madow'": "--correction miller-madow",
    "strategy='robust'": "--strategy robust",
}
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
    _add_seam(commands)
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
    parser.add_argument(
        "--discrete-codes",
        action=argparse.BooleanOptionalAction,
        help="the codes are labels, such as indices of a codebook; or numbers, even if whole",
    )
    parser.add_argument(
        "--scores",
        type=_score_names,
        metavar="LIST",
        help="other scores beside the MIG: all, none, or names such as dci,sap "
        "(default: those that take no time)",
    )
    parser.add_argument(
        "--strategy",
        choices=("uniform", "quantile", "robust"),
        default="uniform",
        help="bins of equal width, with equally many rows, or one for each of a few values",
    )
    parser.add_argument(
        "--correction",
        choices=("miller-madow", "adjusted"),
        help="correct the MIG for the bias of few rows",
    )
    parser.set_defaults(run=_score)


def _score_names(text: str) -> str | list[str]:
    if text in ("all", "none"):
        return "all" if text == "all" else []
    return text.split(",")


def _add_seam(commands: Any) -> None:
    parser = commands.add_parser(
        "seam",
        help="find the layers of a model that hold its posterior",
        description="Find the layers of a model that hold its posterior, and print the evidence.",
    )
    parser.add_argument(
        "factory",
        metavar="MODULE:FUNCTION",
        help="a function without arguments that returns the model, in train mode, and a batch",
    )
    parser.set_defaults(run=_seam)


def _seam(options: argparse.Namespace) -> int:
    module, _, name = options.factory.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise _CommandError(
            f"MODULE:FUNCTION must name a function that can be imported; got {options.factory}: "
            f"{error}"
        ) from error
    made = factory()
    if not isinstance(made, tuple) or len(made) != 2:
        raise _CommandError(f"{options.factory} must return (model, batch); got {made!r:.80}")
    try:
        find_seam(*made)
    except (TypeError, ValueError) as error:
        raise _CommandError(error) from error
    return 0


def _score(options: argparse.Namespace) -> int:
    if options.plot is not None:
        _check_picture(options.plot)  # before what may take long
    mig = {
        "n_bins": options.n_bins,
        "discrete_codes": options.discrete_codes,
        "discrete_factors": not options.continuous,
        "strategy": options.strategy,
        "correction": options.correction,
    }
    try:
        values, factors, unread = read_scorable(options.file)
        if unread:
            print(f"tcdecomp: {options.file}: not read: {', '.join(unread)}", file=sys.stderr)
        with _warnings_in_one_line(options.file):
            report = score(
                values,
                factors=factors,
                num_samples=options.num_samples,
                mig=mig,
                scores=options.scores,
            )
        text = report.to_json() if options.json else str(report)
    except FileError as error:
        raise _CommandError(error) from error
    except (TypeError, ValueError) as error:
        raise _CommandError(f"{options.file}: {_in_options(error)}") from error
    print(text)
    if options.plot is not None:
        _draw(report, options.plot)
    return 0


@contextmanager
def _warnings_in_one_line(path: Path) -> Iterator[None]:
    def show(message: object, *_: object) -> None:
        print(f"tcdecomp: warning: {path}: {_in_options(message)}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _in_options(message: object) -> str:
    """Return a message in one line, with the command's options in place of the arguments."""
    line = " ".join(str(message).split())
    for argument, option in _OPTIONS.items():
        line = line.replace(argument, option)
    return line


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
    print(table(rows, left=range(4)))
    return int(any(status.reason for status in statuses))


def _demo(options: argparse.Namespace) -> int:
    status: int = importlib.import_module("tcdecomp.demo.__main__").main(options.arguments)
    return status
