"""This project beside the plain way, as ratios: `python -m benchmarks [NAME...]`, and how cost grows: `python -m benchmarks.growth`."""

from mtt import environment

environment.check()
