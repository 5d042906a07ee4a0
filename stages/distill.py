"""Buffer, train, validation -> the distilled set, by matching training trajectories (Cazenavette et al. 2022, Algorithm 1)."""

import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field

from mtt import dsa, imageset, pictures, store, tensorfile
from mtt.buffer import Buffer
from mtt.convnet import ConvNet
from mtt.imageset import ImageSet
from mtt.params import Augmentation, Network, Section, read, run
from mtt.progress import bar
from mtt.seeds import generator
from mtt.training import accuracy, fit, initialise
from mtt.unroll import as_function, batches, match
from mtt.workers import device, end_with_parent, keep_memory


class Validate(Section):
    """`distill.validate:`, how the images are scored on the validation set while they are learned."""

    every: int = Field(ge=0)  # iterations; 0: never, and the last iterate is the result
    networks: int = Field(ge=1)  # fresh networks trained on the images
    epochs: int = Field(ge=1)
    batch: int = Field(ge=1)
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)


class Distill(Section):
    """`distill:`"""

    ipc: int = Field(ge=1)  # images per class
    start: Literal["real", "noise"]  # what the pixels start from
    iterations: int = Field(ge=1)
    syn_steps: int = Field(ge=1)  # N, steps of the student
    expert_epochs: int = Field(ge=1)  # M, epochs of the expert that they are matched with
    max_start_epoch: int = Field(ge=1)  # T+: the start epoch is drawn from 0 .. T+ - 1
    batch_syn: Literal["all"] | Annotated[int, Field(ge=1)]  # synthetic images a step
    lr_img: float = Field(gt=0)  # of the pixels
    lr_lr: float = Field(ge=0)  # of the step size alpha
    lr_init: float = Field(gt=0)  # alpha's start
    momentum: float = Field(ge=0, lt=1)  # of both optimisers
    validate_: Validate = Field(alias="validate")
    seed: int = Field(ge=0)


FLOOR = 0.01  # alpha is kept at or above this share of where it started


def main(buffer, train, validation, out, last, curves, scores, metrics, picture):
    """Learn the images and the step size; write the best set on validation to `out`, the `last` one, curves, metrics and a picture."""
    network, augmentation, p = read("network", Network), read("augmentation", Augmentation), read("distill", Distill)
    end_with_parent()
    keep_memory()
    experts = Buffer(buffer)
    experts.check(network.model_dump(), augmentation.model_dump(), p.max_start_epoch + p.expert_epochs)
    needed = [train] * (p.start == "real") + [validation] * (p.validate_.every > 0)
    settings = [network.model_dump(), augmentation.model_dump(), p.model_dump(exclude={"iterations"})]
    folder = store.folder("distill", [Path(buffer, "index.json"), *needed], settings)
    with store.held(folder):
        state = resume(folder, p) or begin(p, experts.index, imageset.load(train) if p.start == "real" else None)
        score = partial(validated, p.validate_, network, augmentation, experts.index, imageset.load(validation)) if p.validate_.every else None
        learn(state, p, experts, network, augmentation, score, folder)
    finish(state, p, experts.index, out, last, curves, scores, metrics, picture)


def learn(state, p, experts, network, augmentation, score, folder):
    """The algorithm: match a segment of an expert's path, step the images and alpha, until p.iterations are done."""
    x, alpha = state["x"], state["alpha"]
    y = state["y"]
    net = ConvNet(*x.shape[1:3], len(experts.index["classes"]), network.width, network.depth).to(x.device)
    loss = as_function(net, F.cross_entropy)
    optimizers = torch.optim.SGD([x], p.lr_img, p.momentum), torch.optim.SGD([alpha], p.lr_lr, p.momentum)
    for optimizer, velocity in zip(optimizers, state["velocity"], strict=True):
        optimizer.state[optimizer.param_groups[0]["params"][0]]["momentum_buffer"] = velocity
    batch, saved = len(x) if p.batch_syn == "all" else p.batch_syn, time.monotonic()
    with bar(p.iterations, "distill", "iteration", state["iteration"]) as progress:
        for iteration in range(state["iteration"], p.iterations):
            draws = generator("distill", p.seed, iteration)
            expert, start = visited(iteration, len(experts.experts), p.seed), int(torch.randint(p.max_start_epoch, (), generator=draws))
            theta, target = (row.to(x.device) for row in experts.segment(expert, start, p.expert_epochs))
            steps = [
                (b.to(x.device), partial(dsa.apply, drawn=dsa.draw(augmentation.families, len(b), draws)))
                for b in batches(len(x), batch, p.syn_steps, draws)
            ]
            value, x.grad, alpha.grad = match(loss, theta, target, x, y, alpha, steps)
            stop_unless_finite(iteration, start, value, alpha, x.grad)
            for optimizer in optimizers:
                optimizer.step()
            clamped = bool(alpha < FLOOR * p.lr_init)
            alpha.clamp_(min=FLOOR * p.lr_init)
            state["iteration"] = iteration + 1
            state["curve"].append([iteration + 1, expert, start, float(value), float(alpha), int(clamped)])
            if score and (iteration + 1) % p.validate_.every == 0:
                keep_best(state, score(x, y, float(alpha), iteration + 1))
            if time.monotonic() - saved > 20:
                save(folder / "rolling.safetensors", state, optimizers)
                saved = time.monotonic()
            best = f", best validation {state['best']:.3f}" if state["scores"] else ""
            progress.set_postfix_str(f"loss {float(value):.4f}, step size {float(alpha):.5f}{best}", refresh=False)
            progress.update()
    save(folder / f"{p.iterations:06d}.safetensors", state, optimizers)
    (folder / "rolling.safetensors").unlink(missing_ok=True)


def visited(iteration, count, seed):
    """The expert of an iteration: a permutation of all `count` is walked, then the next (without replacement, as published)."""
    order = torch.randperm(count, generator=generator("experts", seed, iteration // count))
    return int(order[iteration % count])


def stop_unless_finite(iteration, start, value, alpha, gradient):
    """Raise ArithmeticError, before anything is changed, where the numbers have run away."""
    if not (value.isfinite() and alpha.isfinite() and gradient.isfinite().all()):
        raise ArithmeticError(
            f"distill stopped at iteration {iteration + 1}, start epoch {start}: loss {float(value)}, step size {float(alpha)}, gradient "
            f"{'finite' if gradient.isfinite().all() else 'not finite'}; lower distill.lr_img or distill.lr_lr. The last good checkpoint is kept."
        )


def begin(p, index, train):
    """The state before the first iteration: images from `train`, or noise where it is None."""
    k, draws = len(index["classes"]), generator("distill", p.seed, "start")
    y = torch.arange(k).repeat_interleave(p.ipc)
    if train is None:
        x = torch.randn(len(y), *index["shape"], generator=draws)
    else:
        x = train.normalised()[torch.cat([some(train, label, p.ipc, draws) for label in range(k)])]
    if p.batch_syn != "all" and p.batch_syn > len(x):
        raise ValueError(f"params.yaml: distill.batch_syn = {p.batch_syn}; wanted at most the {len(x)} images of the set")
    if p.batch_syn != "all" and p.syn_steps * p.batch_syn < len(x):
        print(f"warning: syn_steps x batch_syn = {p.syn_steps * p.batch_syn} < {len(x)}: not every image is used in each iteration")
    where = device()
    x, y, alpha = x.to(where), y.to(where), torch.tensor(p.lr_init, device=where)
    zero = [torch.zeros_like(x), torch.zeros_like(alpha)]
    return {"x": x, "y": y, "alpha": alpha, "velocity": zero, "iteration": 0, "curve": [], "scores": [], "best": -1.0, "best_x": x.clone(), "best_alpha": alpha.clone()}  # fmt: skip


def some(train, label, count, draws):
    """`count` random indices of the training images of one class."""
    indices = train.of_class(label)
    if len(indices) < count:
        raise ValueError(f"params.yaml: distill.ipc = {count}; wanted at most {len(indices)}, the images of class {train.classes[label]!r}")
    return indices[torch.randperm(len(indices), generator=draws)[:count]]


def validated(p, network, augmentation, index, held_out, x, y, alpha, iteration):
    """Mean validation accuracy of p.networks fresh networks, trained on the images with the learned step size."""
    x_val, y_val = held_out.normalised().to(x.device), held_out.labels.to(x.device)
    scores = []
    for number in range(p.networks):
        draws = generator("validate", iteration, number)
        net = ConvNet(*x.shape[1:3], len(index["classes"]), network.width, network.depth)
        net = fit(
            initialise(net, draws).to(x.device), x.detach().clone(), y, epochs=p.epochs, batch=p.batch, learning_rate=alpha, momentum=p.momentum,
            weight_decay=p.weight_decay, augment=partial(dsa.augment, families=augmentation.families), generator=draws,
        )  # fmt: skip
        scores.append(accuracy(net, x_val, y_val))
    return sum(scores) / len(scores)


def keep_best(state, score):
    """Note the score, and the images where it is the best so far."""
    state["scores"].append([state["iteration"], score])
    if score > state["best"]:
        state.update(best=score, best_x=state["x"].clone(), best_alpha=state["alpha"].clone())


TENSORS = ("x", "y", "alpha", "best_x", "best_alpha")
NUMBERS = ("iteration", "curve", "scores", "best")


def save(path, state, optimizers):
    """Write a checkpoint: all that the next iteration depends on, and the history. Draws need none: they are made from the iteration."""
    tensors = {name: state[name] for name in TENSORS}
    for number, optimizer in enumerate(optimizers):
        tensors[f"velocity.{number}"] = optimizer.state[optimizer.param_groups[0]["params"][0]]["momentum_buffer"]
    header = {name: state[name] for name in NUMBERS}
    tensorfile.save(path, tensors, {"kind": "checkpoint", "torch": torch.__version__, "threads": torch.get_num_threads(), **header})


def resume(folder, p):
    """The newest state in the store that is not past p.iterations; None where there is none."""
    found = [(tensorfile.open_file(path, "checkpoint")[1]["iteration"], path) for path in folder.glob("*.safetensors")]
    found = [(iteration, path) for iteration, path in found if iteration <= p.iterations]
    if not found:
        return None
    iteration, path = max(found)
    tensors, header = tensorfile.load(path, "checkpoint")
    print(f"going on from iteration {iteration}")
    for name, now in {"torch": torch.__version__, "threads": torch.get_num_threads()}.items():
        if header[name] != now:
            print(f"warning: these were made with {name} {header[name]}, now {now}: the result may differ in its last bits")
    tensors = {name: tensor.to(device()) for name, tensor in tensors.items()}
    velocity = [tensors.pop("velocity.0"), tensors.pop("velocity.1")]
    return {**tensors, **{name: header[name] for name in NUMBERS}, "velocity": velocity}


def finish(state, p, index, out, last, curves, scores, metrics, picture):
    """Write what the run leaves behind."""
    common = {key: index[key] for key in ("classes", "mean", "std")}
    provenance = {"network": index["network"], "augmentation": index["augmentation"], "distill": p.model_dump(by_alias=True)}
    labels = state["y"].cpu()
    final = ImageSet(state["x"].cpu(), labels, index["set"], **common, learning_rate=float(state["alpha"]), provenance=provenance)
    best = ImageSet(state["best_x"].cpu(), labels, index["set"], **common, learning_rate=float(state["best_alpha"]), provenance=provenance)
    chosen = best if state["scores"] else final
    chosen.save(out)
    final.save(last)
    for path in (curves, scores, metrics, picture):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    curve = pd.DataFrame(state["curve"], columns=["iteration", "expert", "start_epoch", "loss", "step_size", "clamped"])
    curve.to_csv(curves, index=False, float_format="%.6g")
    pd.DataFrame(state["scores"], columns=["iteration", "validation_accuracy"]).to_csv(scores, index=False, float_format="%.6g")
    recent = curve.tail(math.ceil(len(curve) / 10))
    numbers = {"loss": recent.loss.mean(), "step_size": chosen.learning_rate, "clamped": int(curve.clamped.sum()), "iterations": len(curve)}
    if state["scores"]:
        numbers |= {"validation_accuracy": state["best"], "best_iteration": max(state["scores"], key=lambda row: row[1])[0]}
    Path(metrics).write_text(json.dumps(numbers, indent=1) + "\n")
    pictures.save_grid(picture, chosen.pixels(), len(index["classes"]))


if __name__ == "__main__":
    run(main)
