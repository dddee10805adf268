"""``python -m charllm VERB``: see ``charllm.services.cli``."""

import sys

from charllm.services.cli import main

sys.exit(main())
