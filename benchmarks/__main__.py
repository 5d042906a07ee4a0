"""`python -m benchmarks [NAME...]`: measure, write results/benchmarks/NAME.json, print the table; exit 1 where a must is missed."""

import importlib
import sys

from benchmarks import harness

SCRIPTS = ("gradient", "unroll", "experts", "evaluation", "buffers", "cuda")


def main(names):
    """Run the scripts of these names, by default all; gives the exit status."""
    if unknown := set(names) - set(SCRIPTS):
        sys.exit(f"error: found {', '.join(sorted(unknown))}; wanted some of {', '.join(SCRIPTS)}")
    found, failed = [], 0
    for name in names or SCRIPTS:
        try:
            rows = importlib.import_module(f"benchmarks.{name}").rows()
        except ChildProcessError as error:  # the other scripts are measured all the same
            print(f"error: {name}: {error}", file=sys.stderr, flush=True)
            failed = 1
            continue
        harness.store(name, rows)
        print(harness.table(rows), end="\n\n", flush=True)
        found += rows
    print(harness.table(found))
    return failed or harness.status(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
