"""Train -> the set of a comparison method, in the same file format as the distilled one (a DVC matrix over methods)."""

from dataclasses import replace

from pydantic import Field

from mtt import imageset
from mtt.params import Section, read, run
from mtt.seeds import generator


class Baseline(Section):
    """`baseline:`"""

    ipc: int = Field(ge=1)  # images per class; check.py holds it to distill.ipc
    seed: int = Field(ge=0)


def random(train, ipc, draws):
    """Indices of `ipc` random training images of each class."""
    return train.some(ipc, draws)


METHODS = {"random": random}


def main(method, train, out):
    """Write the set of `method` to `out`."""
    p = read("baseline", Baseline)
    data = imageset.load(train)
    chosen = METHODS[method](data, p.ipc, generator(method, p.seed))
    provenance = {"baseline": {"method": method, **p.model_dump()}}
    replace(data, images=data.images[chosen], labels=data.labels[chosen], provenance=provenance).save(out)
    print(f"{out}: {len(chosen)} images")


if __name__ == "__main__":
    run(main)
