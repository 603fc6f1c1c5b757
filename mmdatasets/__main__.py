"""`python -m mmdatasets`: the same as the console script."""

from __future__ import annotations

import sys

from mmdatasets.cli.main import main

sys.exit(main())
