"""One thin script per stage of dvc.yaml, run as `python -m stages.NAME PATHS...`."""
