"""How is the parity runner started? `python -m tests.parity`; see `runner`."""

import sys

from tests.parity import runner

sys.exit(runner.main())
