"""Train -> the set of a comparison method, in the same file format as the distilled one (a DVC matrix over methods)."""

import torch
from pydantic import Field

from mtt import imageset
from mtt.imageset import ImageSet
from mtt.params import Section, read, run
from mtt.seeds import generator


class Baseline(Section):
    """`baseline:`"""

    ipc: int = Field(ge=1)  # images per class; check.py holds it to distill.ipc
    seed: int = Field(ge=0)


def random(train, ipc, draws):
    """Indices of `ipc` random training images of each class. Raises ValueError where a class has too few."""
    chosen = []
    for label, name in enumerate(train.classes):
        indices = train.of_class(label)
        if len(indices) < ipc:
            raise ValueError(f"params.yaml: baseline.ipc = {ipc}; wanted at most {len(indices)}, the images of class {name!r}")
        chosen.append(indices[torch.randperm(len(indices), generator=draws)[:ipc]])
    return torch.cat(chosen)


METHODS = {"random": random}


def main(method, train, out):
    """Write the set of `method` to `out`."""
    p = read("baseline", Baseline)
    data = imageset.load(train)
    chosen = METHODS[method](data, p.ipc, generator(method, p.seed))
    provenance = {"baseline": {"method": method, **p.model_dump()}}
    ImageSet(data.images[chosen], data.labels[chosen], data.name, data.classes, data.mean, data.std, provenance=provenance).save(out)
    print(f"{out}: {len(chosen)} images")


if __name__ == "__main__":
    run(main)
