"""One group of cells in one process: reads their records, trains them, writes their rows."""

import os
import sys

# Otherwise a folder called algos in the current directory would be imported. From Python 3.11 on the variable does it.
if sys.version_info < (3, 11) and sys.argv[0] == "-m" and os.environ.get("PYTHONSAFEPATH"):
    sys.path[:] = [path for path in sys.path[:1] if path not in ("", os.getcwd())] + sys.path[1:]
