"""How is the runner of faults started? `python -m tests.faults`; see `runner`."""

import sys

from tests.faults import runner

sys.exit(runner.main())
