"""Parameter files: default.yaml is complete, each other one holds its differences from it. `python -m recipes NAME` writes params.yaml."""

from mtt import environment

environment.check()
