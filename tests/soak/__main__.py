"""How is the soak started? `python -m tests.soak`; see `runner`."""

import sys

from tests.soak import runner

sys.exit(runner.main())
