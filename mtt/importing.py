"""The commands that bring in what others left: `python -m mtt.trajectory import` and `python -m mtt.imageset import`.

What the files of the original code do not say (which network, which set, how it was normalised) stands on the command line
and is held to the shapes that they have.
"""

import argparse
import os
import shutil
from pathlib import Path
from typing import get_args

import torch

from mtt import foreign, imageset, original, store, trajectory, workers
from mtt.convnet import ConvNet
from mtt.functional import set_parameters
from mtt.imageset import ImageSet
from mtt.params import Augmentation, Network
from mtt.progress import bar
from mtt.training import accuracy

FAMILIES = get_args(get_args(Augmentation.model_fields["families"].annotation)[0])
HERE = "the command line"


def trajectories(*words):
    """Make each expert of replay buffers a trajectory in the folder --to, for stage buffer. All are written, or none."""
    parser = _parser("python -m mtt.trajectory", trajectories.__doc__)
    parser.add_argument("files", nargs="+", help="replay_buffer_*.pt; experts are numbered in this order")
    parser.add_argument("--to", required=True, help="a folder that is empty or is not there")
    parser.add_argument("--shape", nargs=3, type=int, metavar=("C", "H", "W"), help="of an image")
    parser.add_argument("--width", type=int, required=True, help="of the ConvNet; the original's is 128")
    parser.add_argument("--depth", type=int, required=True, help="of the ConvNet; 3 for 28 and 32 px, 4 for 64, 5 for 128")
    parser.add_argument("--families", nargs="*", choices=FAMILIES, default=list(FAMILIES), help="of the augmentation; by default all")
    parser.add_argument("--score", metavar="SET", help="score each snapshot on this set file; by default accuracies are unknown")
    p = parser.parse_args(words)
    out, about = Path(p.to), _about(p, "shape")
    network = foreign.held(HERE, Network, {"width": p.width, "depth": p.depth}).model_dump()
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: found files there; wanted an empty folder or none")
    with torch.device("meta"):
        layout = trajectory.layout(_convnet(network, about))
    header = {"network": network, "layout": layout, "augmentation": {"families": p.families}}
    header["normalised_by"] = "ZCA" if "whitening" in about else "mean and std"
    header |= {"set" if key == "name" else key: value for key, value in about.items()}
    beside = store.emptied(out.with_name(f"{out.name}.tmp"))
    try:
        count = _write(p.files, header, beside, _scorer(p.score, network, about))
        os.replace(beside, out)  # an empty folder gives way
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    print(f"{out}: {count} experts")


def _write(files, header, folder, score):
    """Write a trajectory for each expert of `files`; gives their number."""
    seen, epochs = {}, None
    for place, theta in (expert for path in files for expert in original.experts(path, header["layout"])):
        if (last := hash(theta[-1].numpy().tobytes())) in seen:
            raise ValueError(f"{place}: found what {seen[last]} is; wanted each expert once")
        if len(theta) != (epochs := epochs or len(theta)):
            raise ValueError(f"{place}: found {len(theta)} epochs; wanted {epochs}, as in those before it")
        accuracies, name = score(place, theta), f"{len(seen):04d}.safetensors"
        own = {"experts": {"epochs": epochs - 1, "from": "a replay buffer"}, "index": len(seen), "accuracy": accuracies}
        trajectory.save(folder / name, list(theta), {**header, **own})
        scored = "" if accuracies[-1] is None else f", accuracy at the end {accuracies[-1]:.3f}"
        print(f"{name}: {place}, {epochs} snapshots{scored}", flush=True)
        seen[last] = place
    return len(seen)


def _scorer(path, network, about):
    """The function (place, theta (epochs, P)) -> the accuracy of each snapshot on the set in `path`; of None where there is none."""
    if path is None:
        return lambda place, theta: [None] * len(theta)
    data, device = imageset.load(path), workers.device()
    if data.about() != about:
        raise ValueError(f"{path}: found {data.about()}; wanted {about}, as for the experts")
    net, x, y = _convnet(network, about).to(device), data.on(device), data.labels.to(device)

    def score(place, theta):
        found = []
        with bar(len(theta), place, "snapshot") as progress:
            for row in theta:
                found.append(accuracy(set_parameters(net, row.to(device)), x, y))
                progress.update()
        return found

    return score


def _convnet(network, about):
    return ConvNet(*about["shape"][:2], len(about["classes"]), **network)


def images(*words):
    """Make synthetic images and their labels the set file --to, for stage evaluate."""
    parser = _parser("python -m mtt.imageset", images.__doc__)
    parser.add_argument("images", help="images_best.pt")
    parser.add_argument("labels", help="labels_best.pt")
    parser.add_argument("--to", required=True)
    parser.add_argument("--learning-rate", type=float, help="the step size that was learned with them, which the original does not save")
    parser.add_argument("--softmax", action="store_true", help="the labels are logits")
    p = parser.parse_args(words)
    about, x, y = _about(p), original.images(p.images), original.labels(p.labels, p.softmax)
    if list(x.shape[1:]) != about.pop("shape", list(x.shape[1:])):
        raise ValueError(f"{p.images}: found images {list(x.shape[1:])}; wanted those of {p.like}")
    if p.learning_rate is not None and not 0 < p.learning_rate < float("inf"):
        raise ValueError(f"{HERE}: found --learning-rate {p.learning_rate}; wanted more than 0")
    provenance = {"imported": {"images": store.digest(p.images), "labels": store.digest(p.labels)}}
    whitening = imageset.load(p.like).whitening if about.pop("whitening", None) else None
    found = ImageSet(x, y, **about, learning_rate=p.learning_rate, provenance=provenance, whitening=whitening)
    imageset.check(f"{p.images}, {p.labels}", found)
    found.save(p.to)
    print(f"{p.to}: {len(x)} images {tuple(x.shape[1:])}, {len(found.classes)} classes")


def _parser(program, what):
    """The arguments that both commands take."""
    parser = argparse.ArgumentParser(program, description=what)
    parser.add_argument("import", choices=["import"])
    parser.add_argument("--like", metavar="SET", help="a set file, such as data/prepared/train.safetensors, which says all of the next")
    parser.add_argument("--set", help="the name of the data set")
    parser.add_argument("--classes", nargs="+", help="their names, or how many there are")
    parser.add_argument("--mean", nargs="+", type=float, help="by which channels were normalised, of pixels in [0, 1]")
    parser.add_argument("--std", nargs="+", type=float)
    return parser


def _about(p, *more):
    """What sets that belong together share, as ImageSet.about() has it: from --like, or from the command line with `more` of it."""
    if p.like:
        return imageset.load(p.like).about()
    classes = p.classes or []
    if len(classes) == 1 and classes[0].isdecimal():
        classes = [str(k) for k in range(int(classes[0]))]
    about = {"name": p.set, "classes": classes, "mean": p.mean, "std": p.std, **{key: getattr(p, key) for key in more}}
    if missing := ["--set" if key == "name" else f"--{key}" for key, value in about.items() if not value]:
        raise ValueError(f"{HERE}: found neither --like nor {', '.join(missing)}; wanted a set file, or what it would say")
    foreign.held(HERE, imageset.About, {"kind": "set", **about})
    if "shape" in about and not about["shape"][0] == len(p.mean) == len(p.std):
        raise ValueError(f"{HERE}: found {len(p.mean)} means and {len(p.std)} deviations; wanted one of each for {p.shape[0]} channels")
    return about
