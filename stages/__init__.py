"""One thin script per stage of dvc.yaml, run as `python -m stages.NAME PATHS...`."""

import gc
import os
import sys

from mtt import environment

PARENT = os.getppid()  # who started the stage; noted here, before seconds of imports in which it may be killed
environment.check()
if sys.argv[0] == "-m" and any(word.startswith("stages.") for word in sys.orig_argv):  # a stage that loads, until mtt.params.run
    gc.disable()  # the collector would go through all of PyTorch again and again, for an eighth of the processor's time
