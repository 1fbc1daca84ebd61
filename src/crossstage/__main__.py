"""``python -m crossstage``."""

import sys

from crossstage.cli import main

sys.exit(main())
