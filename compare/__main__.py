"""``python -m compare`` is ``compare-nets``."""

import sys

from compare.cli import main

sys.exit(main())
