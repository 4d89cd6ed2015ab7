#!/usr/bin/env python3
"""Submit Dreamer training runs from job files: `python orchestrate.py submit jobs/quickstart.yaml --follow`."""

import sys

from orchestrator.entry import main

if __name__ == "__main__":
    sys.exit(main())
