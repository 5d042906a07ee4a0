"""All of params.yaml, checked before anything runs: each section against its stage's schema, and what must hold between them."""

from typing import Annotated, Literal

from pydantic import Field

from mtt import imageset
from mtt.params import Augmentation, Network, read, read_all, run
from stages.baseline import METHODS, Baseline
from stages.buffer import Buffer
from stages.distill import Distill
from stages.evaluate import ARCHITECTURES, Evaluate
from stages.experts import Experts
from stages.prepare import Prepare

SCHEMAS = {
    "prepare": Prepare,
    "network": Network,
    "augmentation": Augmentation,
    "experts": Experts,
    "buffer": Buffer,
    "distill": Distill,
    "baseline": Baseline,
    "baselines": list[Literal[tuple(METHODS)]],
    "methods": Annotated[list[Literal["distilled", *METHODS]], Field(min_length=1)],
    "architectures": Annotated[list[Literal[tuple(ARCHITECTURES)]], Field(min_length=1)],
    "evaluate": Evaluate,
    "whole_architectures": list[Literal[tuple(ARCHITECTURES)]],
    "whole": Evaluate,
}


def main(train=None):
    """Raise ValueError, one line for each fault; with the path of the training set, hold its classes against distill.ipc too."""
    values, faults = {}, [f"params.yaml: {key}: unknown key; known are {', '.join(SCHEMAS)}" for key in read_all() if key not in SCHEMAS]
    for key, schema in SCHEMAS.items():
        try:
            values[key] = read(key, schema)
        except ValueError as error:
            faults.append(str(error))
    if not faults:
        faults = list(between(values)) + list(against(imageset.load(train), values) if train else [])
    if faults:
        raise ValueError("\n".join(faults))


def between(values):
    """What must hold between sections; yields a line for each fault."""
    experts, buffer, distill = values["experts"], values["buffer"], values["distill"]
    snapshots = distill.max_start_epoch + distill.expert_epochs
    line = "params.yaml: {} = {!r}; wanted {}".format
    if experts.epochs < snapshots - 1:
        yield line("experts.epochs", experts.epochs, f"at least distill.max_start_epoch + distill.expert_epochs - 1 = {snapshots - 1}")
    if buffer.snapshots != "all" and not snapshots <= buffer.snapshots <= experts.epochs + 1:
        wanted = (
            f"at least distill.max_start_epoch + distill.expert_epochs = {snapshots}, at most experts.epochs + 1 = {experts.epochs + 1}"
        )
        yield line("buffer.snapshots", buffer.snapshots, wanted)
    if buffer.segment > experts.epochs:
        yield line("buffer.segment", buffer.segment, f"at most experts.epochs = {experts.epochs}")
    if values["baseline"].ipc != distill.ipc:
        yield line("baseline.ipc", values["baseline"].ipc, f"distill.ipc = {distill.ipc}, or the comparison is not one")
    if "dsa" in values["baselines"] and not values["augmentation"].families:
        yield line("augmentation.families", [], "one at least for dsa of baselines; without augmentation: dc")
    if missing := set(values["methods"]) - {"distilled", *values["baselines"]}:
        yield line("baselines", values["baselines"], f"{sorted(missing)} too, as methods has it")
    for section, names in {"evaluate": values["architectures"], "whole": values["whole_architectures"]}.items():
        if lacking := [name for name in names if name not in values[section].epochs]:
            yield line(f"{section}.epochs", values[section].epochs, f"those of {lacking} too")
    for key in ("methods", "baselines", "architectures", "whole_architectures"):
        if len(set(values[key])) < len(values[key]):
            yield line(key, values[key], "each name once")


def against(train, values):
    """What must hold between params.yaml and the training set."""
    smallest = min((len(train.of_class(label)), name) for label, name in enumerate(train.classes))
    distill = values["distill"]
    if distill.ipc > smallest[0]:
        yield f"params.yaml: distill.ipc = {distill.ipc}; wanted at most {smallest[0]}, the images of class {smallest[1]!r}"
    images = distill.ipc * len(train.classes)
    if distill.batch_syn != "all" and distill.batch_syn > images:
        yield f"params.yaml: distill.batch_syn = {distill.batch_syn}; wanted at most the {images} images of the set"


if __name__ == "__main__":
    run(main)
