"""`python -m persistent_nonce`: the command line."""

from __future__ import annotations

import sys

from persistent_nonce.cli import main

if __name__ == "__main__":
    sys.exit(main())
