"""The workflow's stages and commands, thin on top of cfpn."""

import os
import sys

# Libraries import matplotlib, and it refuses a backend that this environment lacks, such as a notebook's.
# Every figure here is written to a file. A notebook that imports this package keeps its own.
if "ipykernel" not in sys.modules:
    os.environ["MPLBACKEND"] = "agg"
