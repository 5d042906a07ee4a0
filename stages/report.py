"""Scores -> the table of all methods and architectures, and that of their robustness."""

import json
from collections import defaultdict
from math import nan
from pathlib import Path

import pandas as pd

from mtt import tables
from mtt.files import write
from mtt.params import read, run
from mtt.robustness import augmentation_robust, hard_label_recovery, improvement_over_random, label_robust

COLUMNS = ["method", "architecture", "mean", "std", "n"]
ROBUST = ["method", "architecture", "HLR", "IOR", "LRS", "ARS"]
AGAINST = ("random", "whole", "distilled_hard", "random_soft")  # sets that others are held against


def main(scores, table, robustness):
    """Gather the cells that params.yaml lists from the folder `scores` into the CSVs `table` and `robustness`; and print."""
    methods, names = read("methods", list[str]), list[str]
    cells = [(method, architecture) for method in methods for architecture in read("architectures", names)]
    cells += [("whole", architecture) for architecture in read("whole_architectures", names)]
    plain = [(method, architecture, "plain") for method in methods for architecture in read("robustness_architectures", names)]
    known = {cell: json.loads(Path(scores, f"{'-'.join(cell)}.json").read_text()) for cell in cells + plain}
    found = pd.DataFrame([row for cell in cells for row in rows(known[cell])], columns=COLUMNS)
    write(table, found.to_csv(index=False, float_format="%.6g"))
    print("\nAccuracy on the test set, mean +- std over n networks\n")
    print(pivot(found).to_string(), end="\n\n")
    found = pd.DataFrame(robust(known), columns=ROBUST)
    write(robustness, found.to_csv(index=False, float_format="%.6g"))
    print("Robustness scores of DD-Ranking, as fractions\n")
    print(found.to_string(index=False, na_rep="", float_format="%.3f"), end="\n\n")


def rows(cell):
    """One or two rows of a cell: where a step size was learned, its score and that of the best learning rate on validation."""
    yield {column: cell[column] for column in COLUMNS}
    if cell["learned"]:
        yield {**{column: cell[column] for column in COLUMNS[:2]}, **cell["best_rate"], "method": f"{cell['method']}_best_rate"}


def robust(known):
    """Rows of ROBUST from {cell: its scores}, for all methods but those that others are held against; nan where a cell is not there.

    Of a set with soft labels, which only the distilled one has, two trainings are held against others: on its classes alone for HLR,
    on its labels for the rest.
    """
    mean = defaultdict(lambda: nan, {cell: scores["mean"] for cell, scores in known.items()})
    for method, architecture in [cell for cell in known if cell[2:] == () and cell[0] not in AGAINST]:
        hard, random = ("distilled_hard", "random_soft") if known[method, architecture]["soft"] else (method, "random")
        hlr = hard_label_recovery(mean["whole", architecture], mean[hard, architecture])
        ior, plain = [
            improvement_over_random(mean[method, architecture, *how], mean[random, architecture, *how]) for how in ((), ("plain",))
        ]
        yield [method, architecture, hlr, ior, label_robust(hlr, ior), augmentation_robust(ior, plain)]


def markdown(found):
    """The same table in Markdown, as it stands in README.md and RESULTS.md."""
    table = pivot(found).reset_index(names="")
    return tables.markdown(list(table.columns), table.values.tolist())


def pivot(found):
    """The table that people read: a row for each method, a column for each architecture."""
    found = found.assign(score=[f"{100 * row['mean']:.1f} +- {100 * row['std']:.1f} ({row['n']})" for _, row in found.iterrows()])
    table = found.pivot(index="method", columns="architecture", values="score").fillna("")
    return table.loc[found.method.unique(), found.architecture.unique()].rename_axis(index=None, columns=None)


if __name__ == "__main__":
    run(main)
