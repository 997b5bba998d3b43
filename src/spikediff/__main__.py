"""`python -m spikediff`."""

import sys

from spikediff.cli import main

sys.exit(main())
