"""Buffer, first images, validation -> the distilled set, by matching training trajectories (Cazenavette et al. 2022, Algorithm 1)."""

import math
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from mtt import compiling, dsa, imageset, objectives, ranks, soft_labels, starts, store, textures, trajectory
from mtt.buffer import Buffer
from mtt.convnet import ConvNet
from mtt.functional import as_function
from mtt.outcome import Outs, described, finish, shoot
from mtt.params import Augmentation, Network, Section, read, run
from mtt.seeds import generator
from mtt.soft_labels import answer
from mtt.state import TENSORS, Checkpoints, State, resume
from mtt.unroll import Step, batches, distance, match
from mtt.validation import scorer
from mtt.watch import watching
from mtt.workers import device, end_with_parent, keep_memory, set_threads
from stages import PARENT


class Validate(Section):
    """`distill.validate:`, how the images are scored on the validation set while they are learned."""

    every: int = Field(ge=0)  # iterations; 0: never, and the last iterate is the result
    networks: int = Field(ge=1)  # fresh networks trained on the images
    epochs: int = Field(ge=2)
    batch: int = Field(ge=1)
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)


class StartEpochs(Section):
    """`distill.start_epochs:`, which part of 0 .. T+ - 1 start epochs are drawn from, and which iterations count."""

    floor: int = Field(ge=0)  # T-: none below; published but for DATM: 0
    first: Literal["all"] | Annotated[int, Field(ge=1)]  # at the first iteration none from this on; all: T+ throughout
    growing: int = Field(ge=1)  # iterations until it is T+
    threshold: Literal["none"] | Annotated[float, Field(gt=0)]  # an iteration whose loss is above changes nothing


class Distill(Section):
    """`distill:`"""

    ipc: int = Field(ge=1)  # images per class
    start: Literal["real", "noise"]  # what the pixels start from
    start_images: Literal["any", "right"]  # which real ones: any of a class, or those that experts classify right in the end (DATM)
    images: str  # the set file that real ones are drawn from; one of `ipc` a class, such as an imported one, is gone on from
    learned: float = Field(gt=0, le=1)  # the share of each class's images that is learned; the others stay as they start (SelMatch)
    iterations: int = Field(ge=1)
    syn_steps: int = Field(ge=1)  # N, steps of the student
    expert_epochs: int = Field(ge=1)  # M, epochs of the expert that they are matched with
    max_start_epoch: int = Field(ge=1)  # T+: the start epoch is drawn from 0 .. T+ - 1
    start_epochs: StartEpochs
    segments: int = Field(ge=1)  # of experts' paths, averaged in each iteration
    batch_syn: Literal["all"] | Annotated[int, Field(ge=1)]  # synthetic images a step
    batch_per: Literal["step", "iteration"]  # how long a mini-batch is kept; published: another in each step
    loss: Literal["match", "raw", "cosine", "logits", "task"]  # what the student's end is held to; published: match, the others ablate
    layers: float = Field(ge=0, lt=1)  # the share of parameters, from the first layer on, that is not matched (PAD)
    stop: Literal["last", "nearest"]  # the student's end: its last step, or that nearest to the target (ATT)
    gradient: Literal["exact", "truncated"]  # truncated: without the Hessian terms (TESLA)
    labels: Literal["hard", "teacher", "learned"]  # classes; the target expert's probabilities (TESLA); learned ones (DATM)
    lr_label: float = Field(ge=0)  # of learned labels' logits
    momentum_label: float = Field(ge=0, lt=1)
    batch_real: int = Field(ge=1)  # real images of `images` that `logits` and `task` draw in each iteration
    lr_img: float = Field(gt=0)  # of the pixels
    lr_lr: float = Field(ge=0)  # of the step size alpha
    lr_init: float = Field(gt=0)  # alpha's start; it is kept at or above a hundredth of it
    momentum: float = Field(ge=0, lt=1)  # of both
    ema: float = Field(ge=0, lt=1)  # decay of the average of the images that is scored and kept (FTD); 0: the images themselves
    canvas_size: int = Field(ge=1)  # what is learned is a canvas of so many times the image's side
    canvas_samples: int = Field(ge=1)  # images cropped from it in each use
    scoring: Validate = Field(alias="validate")
    seed: int = Field(ge=0)


def main(buffer, images, validation, *outs):
    """Learn images and step size; write what `Outs` names, a path each. Raises ValueError for more or fewer, before any work."""
    if len(outs) != len(Outs._fields):
        raise ValueError(f"stages.distill: found {len(outs)} paths to write to; wanted {len(Outs._fields)}: {', '.join(Outs._fields)}")
    network, families, p = read("network", Network), read("augmentation", Augmentation).families, read("distill", Distill)
    end_with_parent(PARENT)
    keep_memory()
    torch.backends.cudnn.allow_tf32 = False  # in which CUDA's convolutions are by default: a step's derivatives are off by 1 to 3 % then
    experts, size = Buffer(buffer), ranks.count(p.segments)
    set_threads(math.prod(experts.index["shape"][1:]) * network.width * len(experts.index["classes"]) * p.ipc, sharing=ranks.here(size))
    used = checked(p, experts, network, families, images, validation)
    about = described(experts.index, p.model_dump(by_alias=True), images)
    settings = {"network": network.model_dump(), "augmentation": {"families": families}}
    settings["distill"] = p.model_dump(by_alias=True, exclude={"iterations", "images"})
    folder = store.folder("distill", [Path(buffer, "index.json"), *used], settings)
    net = convnet(network, experts.index)
    how = {"compiled": repays(p, net, experts.index), "ranks": size}
    with ranks.joined(size) as rank, store.held(folder) if rank == 0 else nullcontext() as folder:
        state, warning = resume(folder, p.iterations, device(), how) if rank == 0 else (None, "")  # others get the state of rank 0
        if state:
            print(f"going on from iteration {state.iteration}{warning}", flush=True)
        net = net.to(device())
        labels = soft_labels.of(p.labels, net, experts, p.max_start_epoch + p.expert_epochs - 1)
        state = state or begin(p, experts, images, labels, net, how)
        state.iteration = ranks.from_first(state.iteration, [getattr(state, name) for name in TENSORS])
        score = scoring(p, net, families, labels, validation, how) if p.scoring.every and rank == 0 else None
        matched = matcher(state, p, experts, net, families, labels, objective(p, net, images))
        look = partial(shoot, about, Path(folder, "history")) if rank == 0 else None
        with watching(state, p.iterations, p.scoring.every, score, look, Checkpoints(folder, p.iterations)) as after:
            learn(state, p, experts, matched, after)
        if rank == 0:
            finish(state, about, labels, Path(folder, "history"), Outs(*outs))


def learn(state, p, experts, matched, after):
    """Algorithm 1: match segments of experts' paths, and step images and step size along the slopes; until p.iterations are done.

    `matched(segment)` gives the loss of one and its slopes; `after(values)` is called once the state is that of the next iteration.
    """
    for iteration in range(state.iteration, p.iterations):
        segments = [segment(p, experts, iteration, iteration * p.segments + number) for number in range(p.segments)]
        values, *slopes = ranks.average(matched, segments)
        try:
            clamped, skipped = step_along(state, p, values, slopes)
        except ArithmeticError as error:
            raise run_away(iteration, segments, values, state.alpha, error) from None
        state.note(segments, values, clamped, skipped)
        after(values)


def segment(p, experts, iteration, number):
    """The segment that is matched as the `number`-th of the run: expert, start epoch t, and the generator of all else that it draws."""
    draws, own = generator("distill", p.seed, number), p.start_epochs
    first = p.max_start_epoch if own.first == "all" else own.first
    end = starts.end(iteration, first, p.max_start_epoch, own.growing)
    return starts.visited(number, len(experts.experts), p.seed), starts.epoch(own.floor, end, experts.straight, draws), draws


def matcher(state, p, experts, net, families, labels, end):
    """The function (segment) -> loss of the images along it, and its slopes: by images, step size, and labels that are learned."""
    step = Step(as_function(net), compiling.compiled if state.how["compiled"] else None, truncated=p.gradient == "truncated")
    first, learned = int(p.layers * experts.parameters), starts.learned(p.learned, p.ipc, len(state.x)).to(state.x.device)

    def matched(segment):
        expert, t, draws = segment
        theta, target = (row.to(state.x.device) for row in experts.segment(expert, t, p.expert_epochs))  # where it was at t and t + M
        y, n = labels.seen(state.y, state.x, target), len(state.x)
        chunks = batches(n, n if p.batch_syn == "all" else p.batch_syn, p.syn_steps if p.batch_per == "step" else 1, draws)
        steps = [seen(b, p, families, draws) for b in chunks * (p.syn_steps // len(chunks))]
        value, dx, dalpha, *dy = match(step, theta, target, state.x, y, state.alpha, steps, end(draws), p.stop, first)
        return value, dx * learned, dalpha, *labels.slope(state.y, *(slope * learned.view(-1, 1) for slope in dy))

    return matched


def seen(b, p, families, draws):
    """The images b of a step as `match` takes them: indices, once for each crop, and what the student sees of them, drawn anew."""
    b = b.repeat_interleave(p.canvas_samples)
    offsets, drawn = textures.draw(len(b), p.canvas_size, draws), dsa.draw(families, len(b), draws)
    return b.to(device()), lambda x: dsa.apply(textures.crop(x, offsets, p.canvas_size), drawn)


def step_along(state, p, values, slopes):
    """Step images, step size and learned labels along their slopes, unless the loss is above the threshold.

    Gives whether the step size was clamped, and whether the iteration was skipped. Raises ArithmeticError where a number is not finite.
    """
    if not values.isfinite().all():
        raise ArithmeticError("the loss is not finite")
    threshold = p.start_epochs.threshold
    if threshold != "none" and float(values.mean()) > threshold:
        state.skip(p.ema)
        return False, True
    rates = {"x": p.lr_img, "alpha": p.lr_lr, "y": p.lr_label}
    momenta = {"x": p.momentum, "alpha": p.momentum, "y": p.momentum_label}
    return state.step(dict(zip(rates, slopes, strict=False)), rates, momenta, floor=p.lr_init / 100, decay=p.ema), False


def run_away(iteration, segments, values, alpha, error):
    """The error that stops a run whose numbers are no longer finite, before they change anything."""
    starts, loss = ", ".join(str(start) for _, start, _ in segments), ", ".join(map(str, values.tolist()))
    found = f"distill stopped at iteration {iteration + 1}, start epoch {starts}: loss {loss}, step size {float(alpha)}: {error}"
    before = f", or keep what was good with distill.iterations = {iteration}" if iteration else ""
    return ArithmeticError(f"{found}; lower distill.lr_img or distill.lr_lr and begin anew{before}")


def checked(p, experts, network, families, images, validation):
    """The set files that this run reads; raises ValueError unless they, the buffer and params.yaml belong together."""
    experts.check(network.model_dump(), {"families": families}, p.max_start_epoch + p.expert_epochs)
    with torch.device("meta"):  # before any network is made: its sizes are those of the buffer's index
        experts.check_layout(trajectory.layout(convnet(network, experts.index)))
    experts.verify()
    if p.canvas_size > 1 and "whitening" in experts.index:
        raise ValueError(f"params.yaml: distill.canvas_size = {p.canvas_size}; wanted 1: the buffer's experts saw whitened images")
    if p.batch_syn != "all" and p.batch_syn > (count := p.ipc * len(experts.index["classes"])):
        raise ValueError(f"params.yaml: distill.batch_syn = {p.batch_syn}; wanted at most the {count} images of the set")
    needed = p.start == "real" or p.loss in ("logits", "task")  # else the buffer alone suffices
    needed |= "whitening" in experts.index  # of which the buffer has no more than the digest
    used = [images] * needed + [validation] * (p.scoring.every > 0)
    for path in used:
        experts.check_set(path, imageset.load(path).about())
    return used


def begin(p, experts, images, labels, net, how):
    """The State before the first iteration: images of the set file `images`, or noise."""
    k, draws = len(experts.index["classes"]), generator("distill", p.seed, "start")
    y = torch.arange(k).repeat_interleave(p.ipc)
    channels, *sides = experts.index["shape"]
    x = torch.randn(len(y), channels, *(p.canvas_size * side for side in sides), generator=draws)
    if p.start == "real":
        right = partial(starts.right, experts, answer(net)) if p.start_images == "right" else None
        x = starts.real(images, p.ipc, p.canvas_size, right, draws)
    batch = len(x) if p.batch_syn == "all" else p.batch_syn
    if (used := batch * (p.syn_steps if p.batch_per == "step" else 1)) < len(x):
        print(f"warning: {used} of {len(x)} images at most are used in each iteration (syn_steps, batch_syn, batch_per)")
    x, y = x.to(device()), y.to(device())
    return State.begin(x, labels.begin(y, x), p.lr_init, how)


def objective(p, net, images):
    """The function (draws) -> what the student's end is held to: p.loss, on real images where it needs some."""
    if p.loss in (simple := {"match": distance, "raw": objectives.raw, "cosine": objectives.cosine}):
        return lambda draws: simple[p.loss]
    data, loss = imageset.load(images), as_function(net)
    if data.images.dtype != torch.uint8:
        raise ValueError(f"{images}: found images that were learned; wanted real ones with distill.loss = {p.loss}")
    x, y = data.on(device()), data.labels.to(device())

    def drawn(draws):
        b = torch.randint(len(x), (p.batch_real,), generator=draws).to(y.device)
        return objectives.task(loss, x[b], y[b]) if p.loss == "task" else objectives.logits(answer(net), x[b])

    return drawn


def scoring(p, net, families, labels, validation, how):
    """The function (State) -> score of its images on validation."""
    settings = p.scoring.model_dump(exclude={"every"}) | {"samples": p.canvas_samples}
    augment = textures.cropped(partial(dsa.augment, families=families), p.canvas_size)
    score = scorer(net, imageset.load(validation), compiling.compiled if how["compiled"] else None, augment=augment, **settings)
    return lambda state: score(state.average, labels.kept(state.y, state.average), float(state.alpha), state.iteration)


def convnet(network, index):
    """The student, for the images of the buffer."""
    return ConvNet(*index["shape"][:2], len(index["classes"]), network.width, network.depth)


def repays(p, net, index):
    """Whether to compile: each of the student's steps takes about two of training, there and back."""
    images = p.ipc * len(index["classes"]) if p.batch_syn == "all" else p.batch_syn
    steps = 2 * p.iterations * p.segments * p.syn_steps
    return compiling.repays(net, index["shape"], steps, images * p.canvas_samples, cost=3)


if __name__ == "__main__":
    run(main)
