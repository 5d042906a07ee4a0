"""Tables in Markdown, as README.md, RESULTS.md and docs/ have them."""


def markdown(head, rows):
    """Markdown of a row of words and the rows below it. Columns are not aligned: a cell that changes changes one line of a diff."""
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *rows])
