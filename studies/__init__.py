"""Many runs of the pipeline compared: each finished run is a committed row, and what is missing is run."""

from mtt import environment

environment.check()
