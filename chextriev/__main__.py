"""`python -m chextriev`."""

import sys

from chextriev.cli import main

sys.exit(main())
