"""``python -m tcdecomp``: see :mod:`tcdecomp.cli`."""

import sys

from tcdecomp.cli import main

if __name__ == "__main__":
    sys.exit(main())
