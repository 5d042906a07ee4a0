"""All of params.yaml, checked before anything runs: each section against its stage's schema, and what must hold between them.

`python -m stages.check [SET] then MODULE WORD ...` checks, and then is `python -m MODULE WORD ...`.
"""

import importlib
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mtt import imageset, whitening
from mtt.params import Augmentation, Network, read, read_all, run
from stages.baseline import METHODS, Baseline
from stages.buffer import Buffer
from stages.distill import Distill
from stages.evaluate import ARCHITECTURES, Evaluate
from stages.experts import Experts
from stages.prepare import CLASSES, Prepare
from stages.relabel import METHODS as RELABELLED

SCHEMAS = {
    "prepare": Prepare,
    "network": Network,
    "augmentation": Augmentation,
    "experts": Experts,
    "buffer": Buffer,
    "distill": Distill,
    "baseline": Baseline,
    "baselines": list[Literal[tuple(METHODS)]],
    "relabelled": list[Literal[RELABELLED]],
    "methods": Annotated[list[Literal["distilled", *METHODS, *RELABELLED]], Field(min_length=1)],
    "architectures": Annotated[list[Literal[tuple(ARCHITECTURES)]], Field(min_length=1)],
    "robustness_architectures": list[Literal[tuple(ARCHITECTURES)]],
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
    line = "params.yaml: {} = {!r}; wanted {}".format
    yield from lengths(experts, buffer, distill, line)
    yield from successors(experts, distill, line)
    if buffer.segment > experts.epochs:
        yield line("buffer.segment", buffer.segment, f"at most experts.epochs = {experts.epochs}")
    prepare = values["prepare"]
    if prepare.classes != "all" and (beyond := [index for index in prepare.classes if index >= CLASSES.get(prepare.set, index + 1)]):
        yield line("prepare.classes", prepare.classes, f"no {beyond[0]}: {prepare.set} has the classes 0 to {CLASSES[prepare.set] - 1}")
    if prepare.set in CLASSES:
        images = distill.ipc * (CLASSES[prepare.set] if prepare.classes == "all" else len(prepare.classes))
        yield from too_large(distill.batch_syn, images)
    if prepare.zca and prepare.set in ("folder", "csv", "ImageNet") and prepare.side > whitening.LARGEST:
        wanted = f"at most {whitening.LARGEST} with prepare.zca: the covariance of larger images would take gigabytes"
        yield line("prepare.side", prepare.side, wanted)
    if prepare.zca and distill.canvas_size > 1:
        yield line("distill.canvas_size", distill.canvas_size, "1 with prepare.zca: a whitening is of whole images, not of crops")
    if distill.canvas_samples > 1 and distill.canvas_size == 1:
        yield line("distill.canvas_samples", distill.canvas_samples, "1 with distill.canvas_size = 1: there is nothing to crop")
    if values["baseline"].ipc != distill.ipc:
        yield line("baseline.ipc", values["baseline"].ipc, f"distill.ipc = {distill.ipc}, or the comparison is not one")
    if "dsa" in values["baselines"] and not values["augmentation"].families:
        yield line("augmentation.families", [], "one at least for dsa of baselines; without augmentation: dc")
    yield from sets(values, line)
    for section, names in {"evaluate": values["architectures"], "whole": values["whole_architectures"]}.items():
        if lacking := [name for name in names if name not in values[section].epochs]:
            yield line(f"{section}.epochs", values[section].epochs, f"those of {lacking} too")
        for name in sorted(values[section].epochs.keys() - ARCHITECTURES.keys()):
            yield line(f"{section}.epochs.{name}", values[section].epochs[name], f"one of {', '.join(ARCHITECTURES)}")
    if surplus := set(values["robustness_architectures"]) - set(values["architectures"]):
        yield line("robustness_architectures", values["robustness_architectures"], f"no {sorted(surplus)}, which architectures has not")
    for key in ("methods", "baselines", "relabelled", "architectures", "robustness_architectures", "whole_architectures"):
        if len(set(values[key])) < len(values[key]):
            yield line(key, values[key], "each name once")


def sets(values, line):
    """Which sets are made, for others and to be scored."""
    made = {"baselines": set(METHODS), "relabelled": set(RELABELLED)}
    for key, known in made.items():
        if missing := known & set(values["methods"]) - set(values[key]):
            yield line(key, values[key], f"{sorted(missing)} too, as methods has it")
    if values["relabelled"] and values["distill"].labels == "hard":
        yield line("relabelled", values["relabelled"], "[] with distill.labels = hard: it is for sets with soft labels")
    if values["relabelled"] and "random" not in values["baselines"]:
        yield line("baselines", values["baselines"], "random too, with relabelled")
    start = Path(values["distill"].images)
    if start in {Path("data", name, "set.safetensors") for name in set(METHODS) - set(values["baselines"])}:  # which no stage makes then
        yield line("baselines", values["baselines"], f"{start.parent.name} too, whose set distill.images is")


def lengths(experts, buffer, distill, line):
    """How long experts must be, and how much of them the buffer keeps."""
    more = buffer.waypoints != "none"  # between whose snapshots a start epoch may lie, up to T+
    snapshots, sum_ = distill.max_start_epoch + distill.expert_epochs + more, "distill.max_start_epoch + distill.expert_epochs"
    if experts.epochs < snapshots - 1:
        yield line("experts.epochs", experts.epochs, f"at least {sum_}{'' if more else ' - 1'} = {snapshots - 1}")
    if buffer.snapshots != "all" and not snapshots <= buffer.snapshots <= experts.epochs + 1:
        wanted = f"at least {sum_}{' + 1' if more else ''} = {snapshots}, at most experts.epochs + 1 = {experts.epochs + 1}"
        yield line("buffer.snapshots", buffer.snapshots, wanted)
    kept = experts.epochs + 1 if buffer.snapshots == "all" else buffer.snapshots
    if more and buffer.waypoints > kept:
        yield line("buffer.waypoints", buffer.waypoints, f"at most the {kept} snapshots that are kept")


def successors(experts, distill, line):
    """What the ideas since the paper do not go with."""
    if experts.order == "difficulty" and experts.difficulty.growing >= experts.epochs:
        wanted = f"less than experts.epochs = {experts.epochs}, or no expert sees the hardest images"
        yield line("experts.difficulty.growing", experts.difficulty.growing, wanted)
    own, last = distill.start_epochs, distill.max_start_epoch
    first = last if own.first == "all" else own.first
    if first > last:
        yield line("distill.start_epochs.first", own.first, f"at most distill.max_start_epoch = {last}")
    elif own.floor >= first:
        yield line("distill.start_epochs.floor", own.floor, f"less than {first}, where the range of start epochs ends at first")
    if distill.layers and distill.loss in ("logits", "task"):
        yield line("distill.layers", distill.layers, f"0 with distill.loss = {distill.loss}, which matches no parameters")
    if distill.stop == "nearest" and distill.loss == "task":
        yield line("distill.stop", distill.stop, "last with distill.loss = task, which has no target")
    if distill.labels == "teacher" and distill.loss == "task":
        yield line("distill.labels", distill.labels, "hard or learned with distill.loss = task, which has no target")
    if distill.start_images == "right" and distill.start == "noise":
        yield line("distill.start_images", distill.start_images, "any with distill.start = noise")
    if distill.learned < 1 and distill.start == "noise":
        yield line("distill.learned", distill.learned, "1 with distill.start = noise, which would stay as it is")
    elif distill.learned < 1 and round(distill.learned * distill.ipc) not in range(1, distill.ipc):
        wanted = f"1, or a share by which some of distill.ipc = {distill.ipc} are learned and some are not"
        yield line("distill.learned", distill.learned, wanted)
    if distill.canvas_size > 1:
        if distill.labels != "hard":
            yield line("distill.labels", distill.labels, "hard with distill.canvas_size > 1: experts see no canvas")
        if distill.start_images == "right":
            yield line("distill.start_images", distill.start_images, "any with distill.canvas_size > 1: experts see no canvas")
        if distill.start == "real" and Path(distill.images).parent.name in METHODS:
            yield line("distill.images", distill.images, "no set of a method with distill.canvas_size > 1: it has no images to tile with")


def against(train, values):
    """What must hold between params.yaml and the set that images start from."""
    if train.labels.ndim > 1:
        if values["distill"].start == "real":
            yield "params.yaml: distill.start = 'real'; wanted noise, as the set has probabilities for each image, or one with classes"
        return
    fewest, name = min((len(train.of_class(label)), name) for label, name in enumerate(train.classes))
    distill = values["distill"]
    if distill.loss in ("logits", "task") and train.images.is_floating_point():
        yield f"params.yaml: distill.loss = {distill.loss!r}; wanted a set of real images for it, these were learned"
    if distill.start == "real" and train.canvas_size not in (1, distill.canvas_size):
        yield f"params.yaml: distill.canvas_size = {distill.canvas_size}; wanted {train.canvas_size}, as the set has it, or a set of images"
        return
    times = distill.canvas_size // train.canvas_size
    if distill.start == "real" and (needed := distill.ipc * times**2) > fewest:
        tiled = " x distill.canvas_size^2" if times > 1 else ""
        wanted = f"at most {fewest}, the images of class {name!r}, or prepare.classes without it"
        yield f"params.yaml: distill.ipc{tiled} = {needed}; wanted {wanted}"
    elif values["baseline"].ipc > fewest and (real := [name for name in values["baselines"] if name != "dc"]):
        wanted = f"[dc] or none with baseline.ipc = {values['baseline'].ipc}: class {name!r} has {fewest} images"
        yield f"params.yaml: baselines = {real}; wanted {wanted}"
    yield from too_large(distill.batch_syn, distill.ipc * len(train.classes))


def too_large(batch, images):
    """A line where a synthetic batch is larger than the set."""
    if batch != "all" and batch > images:
        yield f"params.yaml: distill.batch_syn = {batch}; wanted at most the {images} images of the set"


def become(module, *words):
    """Be `python -m module words`, in this process (loading PyTorch takes longer than a check), and to workers, which load `__main__`."""
    sys.modules["__main__"], sys.argv = importlib.import_module(module), [module, *words]
    run(sys.modules["__main__"].main)


if __name__ == "__main__":
    words = sys.argv
    end = words.index("then") if "then" in words else len(words)
    sys.argv = words[:end]
    run(main)
    if end < len(words):
        become(*words[end + 1 :])
