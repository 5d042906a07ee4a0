from dataclasses import fields
from pathlib import Path

import pytest
import torch

from mtt import imageset, tensorfile, whitening
from mtt.imageset import ImageSet
from mtt.seeds import generator
from mtt.whitening import Whitening


def example(**changes):
    """Six colour images of two classes, as uint8 pixels."""
    draws = generator("imageset")
    values = {
        "images": torch.randint(256, (6, 3, 4, 5), generator=draws).to(torch.uint8),
        "labels": torch.tensor([0, 1, 1, 0, 1, 1]),
        "name": "toy",
        "classes": ["ant", "bee"],
        "mean": [0.5, 0.25, 0.4],
        "std": [0.2, 0.25, 0.3],
        "provenance": {"prepare": {"seed": 1}},
    }
    return ImageSet(**{**values, **changes})


def learned(**changes):
    """The same in the normalised space, partly beyond black and white, with probabilities for labels."""
    draws = generator("learned")
    images = 3 * torch.randn(6, 3, 4, 5, generator=draws)
    return example(images=images, labels=torch.rand(6, 2, generator=draws).softmax(1), learning_rate=0.0123, **changes)


def whitened(**changes):
    """The same uint8 pixels, whitened by a map that was fitted on others."""
    others = torch.rand(80, 3, 4, 5, generator=generator("whitened")).cumsum(3) / 5
    return example(**{"mean": [0.0] * 3, "std": [1.0] * 3, "whitening": whitening.fit(others), **changes})


@pytest.mark.parametrize("make", [example, learned])
def test_what_was_saved_is_loaded(tmp_path, make):
    wanted = make()
    wanted.save(tmp_path / "set.safetensors")
    found = imageset.load(tmp_path / "set.safetensors")
    for field in fields(ImageSet):
        a, b = getattr(found, field.name), getattr(wanted, field.name)
        assert torch.equal(a, b) and a.dtype == b.dtype if isinstance(b, torch.Tensor) else a == b, field.name


def test_images_that_need_gradients_can_be_saved(tmp_path):
    """They are what a distillation holds; nothing of autograd goes into the file."""
    images = torch.randn(6, 3, 4, 5, generator=generator(1), requires_grad=True) * 2
    example(images=images).save(tmp_path / "set.safetensors")
    assert torch.equal(imageset.load(tmp_path / "set.safetensors").images, images)


def test_normalising_is_per_channel():
    data = example()
    for channel in range(3):
        wanted = (data.images[:, channel].double() / 255 - data.mean[channel]) / data.std[channel]
        assert torch.allclose(data.normalised()[:, channel].double(), wanted, atol=1e-6)
    assert data.normalised().dtype == torch.float32


@pytest.mark.parametrize("make", [example, learned])
@pytest.mark.parametrize("index", [slice(1, 4), slice(4, 99), torch.tensor([5, 0, 0, 2])], ids=str)
def test_images_normalised_when_they_are_taken_are_those_of_the_whole_bit_for_bit(make, index):
    data = make()
    assert torch.equal(data.on("cpu")[index], data.normalised()[index])
    assert len(data.on("cpu")) == 6


def test_a_set_is_used_from_its_file_without_a_copy(tmp_path):
    """Loaded, and on the CPU, its pixels lie where the file is mapped."""
    example().save(tmp_path / "set.safetensors")
    found = imageset.load(tmp_path / "set.safetensors")
    place = found.images.data_ptr()
    assert found.on("cpu").images.data_ptr() == place
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    spans = [[int(end, 16) for end in line[0].split("-")] for line in lines if line[-1] == str(tmp_path / "set.safetensors")]
    assert any(first <= place < last for first, last in spans)


def test_pixels_that_would_fill_half_of_a_gpus_free_memory_stay_where_they_are(monkeypatch):
    """And are gathered there; a GPU is not needed to see it."""
    data = example()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * data.images.nbytes, 1 << 40))
    found = data.on("cuda")
    assert found.images is data.images
    found.device = torch.device("cpu")
    assert torch.equal(found[torch.tensor([3, 1])], data.normalised()[[3, 1]])


def test_pixels_and_normalised_undo_each_other():
    """uint8 -> normalised -> pixels -> the same uint8."""
    data = example()
    back = example(images=data.normalised()).pixels()
    assert torch.allclose(back, data.pixels(), atol=1e-6)
    assert torch.equal((back * 255).round().to(torch.uint8), data.images)


def test_learned_images_are_used_as_they_are_and_clipped_only_for_the_eye():
    data = learned()
    assert torch.equal(data.normalised(), data.images)
    mean, std = torch.tensor(data.mean).view(3, 1, 1), torch.tensor(data.std).view(3, 1, 1)
    unclipped = data.images * std + mean
    assert unclipped.min() < 0
    assert unclipped.max() > 1
    assert torch.allclose(data.pixels(), unclipped.clamp(0, 1), atol=1e-6)


def test_a_whitened_set_is_loaded_with_its_whitening(tmp_path):
    wanted = whitened()
    wanted.save(tmp_path / "set.safetensors")
    found = imageset.load(tmp_path / "set.safetensors")
    assert torch.equal(found.whitening.mean, wanted.whitening.mean)
    assert torch.equal(found.whitening.matrix, wanted.whitening.matrix)
    assert found.about() == wanted.about()
    assert torch.equal(found.normalised(), wanted.normalised())


def test_whitening_is_in_place_of_mean_and_deviation_and_of_each_batch_for_itself():
    data = whitened()
    pixels = data.images.flatten(1).double() / 255
    wanted = (pixels - data.whitening.mean.double()) @ data.whitening.matrix.double()
    assert torch.allclose(data.normalised().flatten(1).double(), wanted, atol=1e-5)
    assert torch.allclose(data.normalise(data.images[2:4]), data.normalised()[2:4], atol=1e-6)
    assert torch.equal(data.pixels(), example().pixels())


def test_whitened_images_can_be_looked_at_and_used_in_pixel_space():
    """uint8 -> whitened -> pixels -> the same uint8; and -> plainly normalised by given numbers, then clipped nowhere."""
    data, plain = whitened(), example()
    seen = whitened(images=data.normalised(), learning_rate=0.02)
    assert torch.equal((seen.pixels() * 255).round().to(torch.uint8), data.images)
    back = seen.plain(plain.mean, plain.std)
    assert torch.allclose(back.normalised(), plain.normalised(), atol=1e-4)
    assert back.about() == plain.about()
    assert (back.whitening, back.learning_rate) == (None, None)
    beyond = whitened(images=3 * data.normalised())
    assert beyond.pixels().min() == 0
    assert beyond.pixels().max() == 1
    again = data.whitening.forward(beyond.plain([0.0] * 3, [1.0] * 3).images)
    assert torch.allclose(again, beyond.images, atol=1e-4)
    assert torch.equal(data.plain(plain.mean, plain.std).images, data.images)


def test_sets_of_another_whitening_or_of_none_differ_in_what_they_share():
    one, other = whitened(), whitened(whitening=whitening.fit(torch.rand(80, 3, 4, 5, generator=generator("other"))))
    bare = whitened(whitening=None)
    assert one.about() == whitened().about()
    assert one.about() != other.about()
    assert one.about() != bare.about()
    assert "whitening" not in bare.about()


def test_a_set_without_whitening_or_canvas_has_the_bytes_it_had_before_there_were_any(tmp_path):
    example(learning_rate=0.5).save(tmp_path / "set.safetensors")
    tensors, header = tensorfile.load(tmp_path / "set.safetensors", "set")
    assert set(tensors) == {"images", "labels"}
    assert set(header) == {"kind", "name", "classes", "mean", "std", "learning_rate", "provenance"}


def test_a_canvas_set_says_so_and_shares_the_shape_of_its_images(tmp_path):
    data = example(canvas_size=2, canvas_samples=3, images=torch.randn(6, 3, 8, 10, generator=generator("canvas")))
    data.save(tmp_path / "set.safetensors")
    found = imageset.load(tmp_path / "set.safetensors")
    assert (found.canvas_size, found.canvas_samples) == (2, 3)
    assert found.about() == example().about()


def test_the_images_of_a_class_are_those_with_its_label():
    assert example().of_class(0).tolist() == [0, 3]
    assert example().of_class(1).tolist() == [1, 2, 4, 5]


def test_some_images_are_distinct_and_come_class_by_class():
    data = example()
    chosen = [data.some(2, generator("some", seed)) for seed in range(20)]
    assert all(data.labels[indices].tolist() == [0, 0, 1, 1] and len(set(indices.tolist())) == 4 for indices in chosen)
    assert len({tuple(sorted(indices.tolist())) for indices in chosen}) == 6, "each pair of the four bees is drawn now and then"
    assert torch.equal(chosen[3], data.some(2, generator("some", 3)))


def test_more_images_than_a_class_has_are_refused_by_its_name():
    with pytest.raises(ValueError, match="ipc = 3; wanted at most 2, the images of class 'ant'"):
        example().some(3, generator(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"canvas_size": 2}, r"canvases \(6, 3, 4, 5\); wanted sides of whole images, canvas_size 2"),
        ({"canvas_samples": 2}, "canvas_samples 2; wanted 1 where a canvas is an image"),
        ({"whitening": Whitening(torch.zeros(59), torch.eye(59))}, r"a whitening by \(59,\) .*; wanted \(60,\) and \(60, 60\)"),
        ({"whitening": Whitening(torch.zeros(60), torch.ones(60, 61))}, r"\(60, 61\) of torch.float32; wanted"),
        ({"whitening": Whitening(torch.zeros(60).double(), torch.eye(60))}, "float64 .*; wanted"),
        ({"whitening": Whitening(torch.zeros(60), torch.eye(60) / 0)}, "a whitening that is not finite"),
        (
            {"whitening": Whitening(torch.zeros(48), torch.eye(48)), "images": torch.zeros(6, 3, 4, 4), "canvas_size": 2},
            "whitened canvases",
        ),
        ({"labels": torch.tensor([0, 1, 2, 0, 1, 1])}, "labels from 0 to 2; wanted 0 to 1"),
        ({"labels": torch.tensor([0, 1, -1, 0, 1, 1])}, "labels from -1 to 1; wanted 0 to 1"),
        ({"labels": torch.tensor([0, 1, 1])}, r"labels \(3,\); wanted"),
        ({"labels": torch.full((6, 3), 1 / 3)}, "label rows of 3; wanted 2"),
        ({"labels": torch.zeros(6, 1, 1, dtype=torch.int64)}, r"labels \(6, 1, 1\); wanted"),
        ({"labels": torch.tensor([0.0, 1.0, 0.5, 0.0, 1.0, 1.0])}, "labels"),
        ({"mean": [0.5], "std": [0.2]}, "3 channels, 1 means and 1 deviations"),
        ({"std": [0.2, 0.2]}, "3 channels, 3 means and 2 deviations"),
        ({"images": torch.zeros(6, 4, 5, dtype=torch.uint8)}, r"images \(6, 4, 5\)"),
        ({"images": torch.zeros(0, 3, 4, 4), "labels": torch.zeros(0, dtype=torch.int64)}, r"images \(0, 3, 4, 4\)"),
        ({"images": torch.zeros(6, 3, 4, 4, dtype=torch.int64)}, "int64"),
    ],
)
def test_a_set_that_nobody_can_train_on_is_refused_by_name(tmp_path, changes, message):
    path = tmp_path / "set.safetensors"
    example(**changes).save(path)
    with pytest.raises(ValueError, match=message) as caught:
        imageset.load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_of_another_kind_is_refused_by_name(tmp_path):
    tensorfile.save(tmp_path / "a.safetensors", {"theta": torch.ones(2, 3)}, {"kind": "trajectory"})
    with pytest.raises(ValueError, match="a.safetensors: found a trajectory file; wanted a set file"):
        imageset.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("tensors", [["images"], ["images", "labels", "theta"], ["images", "labels", "whitening_mean"]])
def test_a_set_of_another_layout_is_refused_by_name(tmp_path, tensors):
    header = {"kind": "set", "name": "toy", "classes": ["a"], "mean": [0.5], "std": [0.5]}
    tensorfile.save(tmp_path / "a.safetensors", {name: torch.ones(1) for name in tensors}, header)
    with pytest.raises(ValueError, match="a.safetensors: found a set file of another layout"):
        imageset.load(tmp_path / "a.safetensors")
