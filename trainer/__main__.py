"""`python -m trainer [KEY=VALUE ...]`: train, or go on training, in the run directory."""

import os
import sys

from trainer.coordinator import main

sys.exit(main(sys.argv[1:], os.environ))
