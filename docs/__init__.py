"""The pages, and the command that makes the one that is made: `python -m docs` writes parameters.md."""
