"""Scores -> the table of all methods and architectures."""

import json
from pathlib import Path

import pandas as pd

from mtt.files import write
from mtt.params import read, run

COLUMNS = ["method", "architecture", "mean", "std", "n"]


def main(scores, table, plot):
    """Gather the cells that params.yaml lists from the folder `scores` into the CSV `table` and, a bar each, `plot`; and print it."""
    cells = [(method, architecture) for method in read("methods", list[str]) for architecture in read("architectures", list[str])]
    cells += [("whole", architecture) for architecture in read("whole_architectures", list[str])]
    found = [row for cell in cells for row in rows(json.loads(Path(scores, "{}-{}.json".format(*cell)).read_text()))]
    found = pd.DataFrame(found, columns=COLUMNS)
    write(table, found.to_csv(index=False, float_format="%.6g"))
    bars = found.assign(bar=found.architecture + " " + found.method)[["bar", "mean"]]
    write(plot, bars.to_csv(index=False, float_format="%.6g"))
    print("\nAccuracy on the test set, mean +- std over n networks\n")
    print(pivot(found).to_string(), end="\n\n")


def rows(cell):
    """One or two rows of a cell: where a step size was learned, its score and that of the best learning rate on validation."""
    yield {column: cell[column] for column in COLUMNS}
    if cell["learned"]:
        yield {**{column: cell[column] for column in COLUMNS[:2]}, **cell["best_rate"], "method": f"{cell['method']}_best_rate"}


def markdown(found):
    """The same table in Markdown, as it stands in README.md and RESULTS.md."""
    table = pivot(found).reset_index(names="")
    rows = [list(table.columns), ["---"] * len(table.columns), *table.values.tolist()]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def pivot(found):
    """The table that people read: a row for each method, a column for each architecture."""
    found = found.assign(score=[f"{100 * row['mean']:.1f} +- {100 * row['std']:.1f} ({row['n']})" for _, row in found.iterrows()])
    table = found.pivot(index="method", columns="architecture", values="score").fillna("")
    return table.loc[found.method.unique(), found.architecture.unique()].rename_axis(index=None, columns=None)


if __name__ == "__main__":
    run(main)
