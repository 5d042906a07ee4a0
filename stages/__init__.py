"""One thin script per stage of dvc.yaml, run as `python -m stages.NAME PATHS...`."""

import os

from mtt import environment

PARENT = os.getppid()  # who started the stage; noted here, before seconds of imports in which it may be killed
environment.check()
