"""The demo as a command: ``python -m tcdecomp.demo``, or ``tcdecomp demo``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tcdecomp.demo.options import parse
from tcdecomp.scoring.files import FileError

NEEDED = ("lightning", "matplotlib")  # beyond tcdecomp itself


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit status."""
    options = parse(arguments)
    try:
        from tcdecomp.demo.comparison import prepare, run

        images, recipe, sampling = prepare(options)
        options.output.mkdir(parents=True, exist_ok=True)
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        return failed(f"{error.name} is not installed: pip install 'tcdecomp[demo]'")
    except (FileError, OSError) as error:
        return failed(error)
    run(images, recipe, sampling, options)
    return 0


def failed(reason: object) -> int:
    """Print the reason on stderr and return the exit status."""
    print(f"tcdecomp demo: error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
