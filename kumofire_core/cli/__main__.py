"""``python -m kumofire_core.cli`` is the same as ``kumofire``."""

import sys

from kumofire_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
