"""The sets of the comparison methods."""

import statistics

import pytest
import torch
import torch.nn.functional as F
from test_matching import slow_distance

from mtt import coresets, dsa, imageset, tensorfile
from mtt.convnet import ConvNet
from mtt.seeds import generator
from mtt.training import initialise
from stages import baseline

REAL, LEARNED = ("random", "herding", "k_center"), ("dc", "dsa", "dm")


@pytest.fixture
def run(make_run):
    """A run whose images are prepared."""
    run = make_run()
    run("prepare")
    return run


def made(run, method):
    """The bytes of a method's set."""
    run("baseline", method=method)
    return (run.folder / f"data/{method}/set.safetensors").read_bytes()


def changed(run, method, **changes):
    """Its bytes after a change of params.yaml."""
    run.set(**changes)
    return made(run, method)


def curve(run, method):
    """The loss of every iteration, from the checkpoint that a run leaves."""
    (path,) = run.folder.glob(f"work/baseline@{method}/*/*.safetensors")
    return [loss for _, loss in tensorfile.load(path, "checkpoint")[1]["curve"]]


@pytest.mark.parametrize("method", baseline.METHODS)
def test_every_method_gives_as_many_images_of_each_class_in_a_set_like_the_distilled_one(run, method):
    """Class by class; what is chosen are so many training images of the class, what is learned are none."""
    run.set(baseline={"ipc": 3})
    made(run, method)
    train, found = imageset.load("data/prepared/train.safetensors"), imageset.load(f"data/{method}/set.safetensors")
    assert found.about() == train.about()
    assert found.labels.tolist() == [label for label in range(10) for _ in range(3)]
    assert found.provenance["baseline"]["method"] == method
    for label in range(10):
        real, own = [{image.numpy().tobytes() for image in data.normalised()[data.labels == label]} for data in (train, found)]
        assert len(own) == 3
        assert len(own & real) == (3 if method in REAL else 0)


def test_random_images_depend_on_seed_and_number_alone(run):
    first = made(run, "random")
    others = {name: {"iterations": 9} for name in LEARNED} | {"herding": {"epochs": 9}}
    assert changed(run, "random", network={"width": 9}, augmentation={"families": []}, baseline=others) == first
    assert changed(run, "random", baseline={"seed": 1}) != first


def test_gradient_matching_augments_in_dsa_and_not_in_dc(run):
    first = {method: made(run, method) for method in ("dc", "dsa")}
    run.set(augmentation={"families": ["flip"]})
    assert made(run, "dc") == first["dc"]
    assert made(run, "dsa") != first["dsa"]


def test_coresets_depend_on_the_seed_in_their_network_and_k_center_in_its_first_image(run):
    first = {method: made(run, method) for method in ("herding", "k_center")}
    assert first == {method: made(run, method) for method in first}
    run.set(baseline={"seed": 1})
    assert all(made(run, method) != first[method] for method in first)


@pytest.mark.parametrize("method", ["herding", "k_center"])
def test_what_was_chosen_is_not_chosen_again(run, method, monkeypatch):
    wanted, choose, calls = made(run, method), baseline.choose, []
    monkeypatch.setattr(baseline, "choose", lambda *words: (calls.append(words), choose(*words))[1])
    assert made(run, method) == wanted
    assert not calls
    assert changed(run, method, baseline={"seed": 1}) != wanted
    assert len(calls) == 1


def begun(data, method, count):
    """The first images, `count` of each class: noise, or real ones."""
    draws = generator(method, 0, "start")
    return torch.randn(10 * count, 1, 8, 8, generator=draws) if method == "dc" else data.normalised()[data.some(count, draws)]


def before_last(net):
    """Its layers without the last, the linear one."""
    return torch.nn.Sequential(*[layer for layer in net if not isinstance(layer, torch.nn.Linear)])


def drawn(data, label, families, draws):
    """Twenty real images of a class, and the function of images by which they and those that are learned are augmented alike."""
    own = data.of_class(label)
    real = data.normalised()[own[torch.randperm(len(own), generator=draws)[:20]]]
    once = dsa.draw(families, 1, draws)
    return real, lambda x: torch.cat([dsa.apply(image[None], once) for image in x])


@pytest.mark.parametrize(("method", "families"), [("dc", []), ("dsa", ["crop", "scale"])])
def test_gradient_matching_is_its_algorithm_written_out(run, method, families):
    """Two iterations, a fresh network each, of two steps of X; between them the network is trained on X, augmented for DSA."""
    changes = {"iterations": 2, "outer": 2, "inner": 3, "batch_real": 20, "batch_train": 8, "learning_rate": 0.1}
    run.set(baseline={"ipc": 2, method: changes}, augmentation={"families": families or ["flip"]})
    made(run, method)
    data, y = imageset.load("data/prepared/train.safetensors"), torch.arange(20) // 2
    x, velocity = begun(data, method, 2), 0
    start = x
    for iteration in range(2):
        draws = generator(method, 0, iteration)
        net = initialise(ConvNet(1, 8, 10, width=4, depth=2), draws)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for step in range(2):
            for _ in range(3 * step):
                for chunk in torch.randperm(20, generator=draws).split(8):
                    seen = dsa.augment(x[chunk], families, draws)
                    optimizer.zero_grad()
                    F.cross_entropy(net(seen), y[chunk]).backward()
                    optimizer.step()
            x, total = x.clone().requires_grad_(), 0
            for label in range(10):
                real, augment = drawn(data, label, families, draws)
                total = total + slow_distance(net, label, augment(real), augment(x[y == label]))
            velocity = 0.5 * velocity + torch.autograd.grad(total, x)[0]
            x = (x - 0.1 * velocity).detach()
    found = imageset.load(f"data/{method}/set.safetensors").images
    assert torch.allclose(found, x, rtol=0, atol=1e-4)
    assert float((x - start).norm()) > 0.1


def test_distribution_matching_is_its_algorithm_written_out(run):
    """Three steps of X, each with a fresh network, of which all but the last layer is asked; X and real images augmented alike."""
    run.set(baseline={"ipc": 2, "dm": {"iterations": 3, "batch_real": 20}}, augmentation={"families": ["crop", "scale"]})
    made(run, "dm")
    data = imageset.load("data/prepared/train.safetensors")
    x, velocity = begun(data, "dm", 2), 0
    start, own = x, run.values["baseline"]["dm"]
    for iteration in range(3):
        draws = generator("dm", 0, iteration)
        features = before_last(initialise(ConvNet(1, 8, 10, width=4, depth=2), draws))
        x, total = x.clone().requires_grad_(), 0
        for label in range(10):
            real, augment = drawn(data, label, ["crop", "scale"], draws)
            means = [features(augment(images)).mean(0) for images in (real, x[2 * label : 2 * label + 2])]
            total = total + (means[0] - means[1]).square().sum()
        velocity = own["momentum"] * velocity + torch.autograd.grad(total, x)[0]
        x = (x - own["lr_img"] * velocity).detach()
    found = imageset.load("data/dm/set.safetensors").images
    assert torch.allclose(found, x, rtol=0, atol=1e-4)
    assert float((x - start).norm()) > 0.1


@pytest.mark.parametrize("method", ["herding", "k_center"])
def test_coresets_choose_by_what_a_trained_network_has_before_its_last_layer(run, method):
    run.set(baseline={"ipc": 3, method: {"epochs": 3, "batch": 64, "learning_rate": 0.05}})
    made(run, method)
    data, draws = imageset.load("data/prepared/train.safetensors"), generator(method, 0)
    x, first = data.normalised(), data.some(3, draws)[::3]
    net = initialise(ConvNet(1, 8, 10, width=4, depth=2), draws)
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    for _ in range(3):
        for chunk in torch.randperm(len(x), generator=draws).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[chunk]), data.labels[chunk]).backward()
            optimizer.step()
    chosen = []
    for label in range(10):
        own = data.of_class(label)
        features = before_last(net)(x[own]).detach()
        begin = [] if method == "herding" else [own.tolist().index(first[label])]
        chosen.append(own[getattr(coresets, method)(features, 3, *begin)])
    assert torch.equal(imageset.load(f"data/{method}/set.safetensors").images, data.images[torch.cat(chosen)])


@pytest.mark.parametrize("method", LEARNED)
def test_a_run_lowers_its_own_loss(run, method):
    """On random images, which every class has others of."""
    data = imageset.load("data/prepared/train.safetensors")
    data.images = torch.randint(256, data.images.shape, dtype=torch.uint8, generator=generator("noise"))
    data.save("data/prepared/train.safetensors")
    run.set(baseline={method: {"iterations": 25, "batch_real": 500}})
    made(run, method)
    losses = curve(run, method)
    assert len(losses) == 25
    assert statistics.fmean(losses[-5:]) < 0.9 * statistics.fmean(losses[:5])


@pytest.mark.parametrize("method", LEARNED)
def test_what_was_stopped_goes_on_and_ends_in_the_same_bytes(run, method, monkeypatch, capsys):
    """Stopped in the middle of the third iteration; and done with two iterations, then asked for four. What is done is done once."""
    wanted, losses = made(run, method), curve(run, method)
    for path in run.folder.glob("work/baseline@*/*/*.safetensors"):
        path.unlink()
    calls, slope = [], baseline.slope

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == (3 if method == "dm" else 6):
            raise KeyboardInterrupt
        return slope(*arguments)

    monkeypatch.setenv("MTT_SAVE_EVERY", "0")
    monkeypatch.setattr(baseline, "slope", stopping)
    with pytest.raises(KeyboardInterrupt):
        run("baseline", method=method)
    assert made(run, method) == wanted
    assert "going on from iteration 2" in capsys.readouterr().out
    assert curve(run, method) == losses
    before = len(calls)
    assert made(run, method) == wanted
    assert len(calls) == before
    for path in run.folder.glob("work/baseline@*/*/*.safetensors"):
        path.unlink()
    half = changed(run, method, baseline={method: {"iterations": 2}})
    assert changed(run, method, baseline={method: {"iterations": 4}}) == wanted != half


def test_numbers_that_are_no_longer_finite_stop_a_run_in_one_line(run):
    run.set(baseline={"dm": {"lr_img": 1e30}})
    with pytest.raises(ArithmeticError, match=r"^dm stopped at iteration \d: .* finite; lower baseline.dm.lr_img$"):
        run("baseline", method="dm")


def test_more_images_than_a_class_has_are_refused_by_every_method_that_draws_real_ones(run):
    run.set(baseline={"ipc": 500})
    for method in ("random", "herding", "k_center", "dsa", "dm"):
        with pytest.raises(ValueError, match=r"ipc = 500; wanted at most \d+, the images of class"):
            run("baseline", method=method)
