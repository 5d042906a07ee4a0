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

from mtt import dsa, imageset, pictures, store
from mtt.buffer import Buffer
from mtt.convnet import ConvNet
from mtt.imageset import ImageSet
from mtt.params import Augmentation, Network, Section, read, run
from mtt.progress import bar
from mtt.seeds import generator
from mtt.state import State, resume
from mtt.training import accuracy, fit, initialise
from mtt.unroll import as_function, batches, match
from mtt.workers import device, end_with_parent, keep_memory, set_threads


class Validate(Section):
    """`distill.validate:`, how the images are scored on the validation set while they are learned."""

    every: int = Field(ge=0)  # iterations; 0: never, and the last iterate is the result
    networks: int = Field(ge=1)  # fresh networks trained on the images
    epochs: int = Field(ge=2)
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
    lr_init: float = Field(gt=0)  # alpha's start; it is kept at or above a hundredth of it
    momentum: float = Field(ge=0, lt=1)  # of both
    scoring: Validate = Field(alias="validate")
    seed: int = Field(ge=0)


def main(buffer, train, validation, out, last, curves, scores, metrics, picture):
    """Learn images and step size; write the best set on validation to `out`, the `last` one, curves, metrics and a picture."""
    network, families, p = read("network", Network), read("augmentation", Augmentation).families, read("distill", Distill)
    end_with_parent()
    keep_memory()
    experts = Buffer(buffer)
    set_threads(math.prod(experts.index["shape"][1:]) * network.width * len(experts.index["classes"]) * p.ipc)
    experts.check(network.model_dump(), {"families": families}, p.max_start_epoch + p.expert_epochs)
    experts.verify()
    used = [train] * (p.start == "real") + [validation] * (p.scoring.every > 0)  # else the buffer alone suffices
    for path in used:
        experts.check_set(path, imageset.load(path).about())
    settings = [network.model_dump(), families, p.model_dump(exclude={"iterations"})]
    folder = store.folder("distill", [Path(buffer, "index.json"), *used], settings)
    with store.held(folder):
        state, warning = resume(folder, p.iterations, device())
        if state:
            print(f"going on from iteration {state.iteration}{warning}", flush=True)
        state = state or begin(p, experts.index, train)
        score = partial(validate, p.scoring, network, families, imageset.load(validation)) if p.scoring.every else None
        learn(state, p, experts, network, families, score, folder)
    finish(state, p, experts.index, out, last, curves, scores, metrics, picture)


def learn(state, p, experts, network, families, score, folder):
    """The algorithm: match a segment of an expert's path, step images and step size; until p.iterations are done."""
    y, index, where, n = state.y, experts.index, state.x.device, len(state.x)
    net = ConvNet(*state.x.shape[1:3], len(index["classes"]), network.width, network.depth).to(where)
    loss, batch, saved = as_function(net, F.cross_entropy), n if p.batch_syn == "all" else p.batch_syn, time.monotonic()
    with bar(p.iterations, "distill", "iteration", state.iteration) as progress:
        for iteration in range(state.iteration, p.iterations):
            draws = generator("distill", p.seed, iteration)
            expert, start = visited(iteration, len(experts.experts), p.seed), int(torch.randint(p.max_start_epoch, (), generator=draws))
            theta, target = (row.to(where) for row in experts.segment(expert, start, p.expert_epochs))
            steps = [
                (b.to(where), partial(dsa.apply, drawn=dsa.draw(families, len(b), draws))) for b in batches(n, batch, p.syn_steps, draws)
            ]
            value, dx, dalpha = match(loss, theta, target, state.x, y, state.alpha, steps)
            try:
                if not value.isfinite():
                    raise ArithmeticError("the loss is not finite")
                clamped = state.step(dx, dalpha, p.lr_img, p.lr_lr, p.momentum, floor=p.lr_init / 100)
            except ArithmeticError as error:
                state.save(folder / "rolling.safetensors")
                raise run_away(iteration, start, value, state.alpha, error) from None
            state.curve.append([iteration + 1, expert, start, float(value), float(state.alpha), int(clamped)])
            if score and state.iteration % p.scoring.every == 0:
                state.score(score(state.x, y, float(state.alpha), state.iteration))
            if time.monotonic() - saved > 20:
                state.save(folder / "rolling.safetensors")
                saved = time.monotonic()
            best = f", validation {state.scores[-1][1]:.3f}" if state.scores else ""
            progress.set_postfix_str(f"loss {float(value):.4f}, step size {float(state.alpha):.5f}{best}", refresh=False)
            progress.update()
    state.save(folder / f"{p.iterations:06d}.safetensors")
    (folder / "rolling.safetensors").unlink(missing_ok=True)


def visited(iteration, count, seed):
    """The expert of an iteration: a permutation of all `count` is walked, then the next (without replacement, as published)."""
    order = torch.randperm(count, generator=generator("experts", seed, iteration // count))
    return int(order[iteration % count])


def run_away(iteration, start, value, alpha, error):
    """The error that stops a run whose numbers are no longer finite, before they change anything."""
    found = f"distill stopped at iteration {iteration + 1}, start epoch {start}: loss {float(value)}, step size {float(alpha)}: {error}"
    return ArithmeticError(f"{found}; lower distill.lr_img or distill.lr_lr; the last good checkpoint is kept")


def begin(p, index, train):
    """The State before the first iteration: real images from the file `train`, or noise."""
    k, draws = len(index["classes"]), generator("distill", p.seed, "start")
    y = torch.arange(k).repeat_interleave(p.ipc)
    x = torch.randn(len(y), *index["shape"], generator=draws)
    if p.start == "real":
        data = imageset.load(train)
        x = data.normalised()[data.some(p.ipc, draws)]
    batch = len(x) if p.batch_syn == "all" else p.batch_syn
    if batch > len(x):
        raise ValueError(f"params.yaml: distill.batch_syn = {batch}; wanted at most the {len(x)} images of the set")
    if p.syn_steps * batch < len(x):
        print(f"warning: syn_steps x batch_syn = {p.syn_steps * batch} < {len(x)}: not every image is used in each iteration")
    return State.begin(x.to(device()), y.to(device()), p.lr_init)


def validate(p, network, families, held_out, x, y, alpha, iteration):
    """Mean validation accuracy of p.networks fresh networks, trained on the images with the learned step size."""
    x_val, y_val, scores = held_out.normalised().to(x.device), held_out.labels.to(x.device), []
    for number in range(p.networks):
        draws = generator("validate", iteration, number)
        net = ConvNet(*x.shape[1:3], len(held_out.classes), network.width, network.depth)
        fit(
            initialise(net, draws).to(x.device), x, y, epochs=p.epochs, batch=p.batch, learning_rate=alpha, momentum=p.momentum,
            weight_decay=p.weight_decay, augment=partial(dsa.augment, families=families), generator=draws,
        )  # fmt: skip
        scores.append(accuracy(net, x_val, y_val))
    return sum(scores) / len(scores)


def finish(state, p, index, out, last, curves, scores, metrics, picture):
    """Write what the run leaves behind."""
    about = {key: index[key] for key in ("classes", "mean", "std")} | {"name": index["set"], "labels": state.y.cpu()}
    about["provenance"] = {"network": index["network"], "augmentation": index["augmentation"], "distill": p.model_dump(by_alias=True)}
    final = ImageSet(state.x.cpu(), learning_rate=float(state.alpha), **about)
    chosen = ImageSet(state.best_x.cpu(), learning_rate=float(state.best_alpha), **about) if state.scores else final
    chosen.save(out)
    final.save(last)
    for path in (curves, scores, metrics, picture):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    curve = pd.DataFrame(state.curve, columns=["iteration", "expert", "start_epoch", "loss", "step_size", "clamped"])
    curve.to_csv(curves, index=False, float_format="%.6g")
    pd.DataFrame(state.scores, columns=["iteration", "validation_accuracy"]).to_csv(scores, index=False, float_format="%.6g")
    recent = curve.tail(math.ceil(len(curve) / 10))
    numbers = {"loss": recent.loss.mean(), "step_size": chosen.learning_rate, "clamped": int(curve.clamped.sum()), "iterations": len(curve)}
    if state.scores:
        best, accuracy = max(state.scores, key=lambda row: row[1])
        numbers |= {"validation_accuracy": accuracy, "best_iteration": best}
    Path(metrics).write_text(json.dumps(numbers, indent=1) + "\n")
    pictures.save_grid(picture, chosen.pixels(), len(index["classes"]))


if __name__ == "__main__":
    run(main)
