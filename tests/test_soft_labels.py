import torch
import torch.nn.functional as F
from test_unroll import relative

from mtt import soft_labels
from mtt.seeds import generator

X = torch.randn(6, 1, 2, 2, generator=generator("soft"), dtype=torch.float64)
Y = torch.arange(6) % 3
EXPERTS = list(torch.randn(5, 12, generator=generator("experts"), dtype=torch.float64))


def output(theta, x):
    """A linear network."""
    return x.flatten(1) @ theta.view(4, 3)


def test_hard_labels_are_the_classes_throughout():
    labels = soft_labels.Hard()
    assert labels.begin(Y, X) is labels.seen(Y, X, None) is labels.kept(Y, X) is Y
    assert labels.slope(Y) == ()


def test_an_expert_teaches_the_probabilities_that_it_gives_the_images_and_all_those_that_are_kept():
    labels = soft_labels.Taught(output, lambda: EXPERTS)
    assert labels.begin(Y, X) is Y
    assert torch.allclose(labels.seen(Y, X, EXPERTS[2]), output(EXPERTS[2], X).softmax(1))
    assert torch.allclose(labels.kept(Y, X), sum(output(theta, X).softmax(1) for theta in EXPERTS) / 5)
    assert labels.slope(Y, torch.ones(6, 3)) == ()


def test_learned_labels_start_from_the_mean_logits_of_the_experts_that_are_right():
    """Image by image; where none is right, its class has the largest logit nevertheless."""
    z = soft_labels.Learned(output, lambda: EXPERTS).begin(Y, X)
    alone = soft_labels.Learned(output, lambda: EXPERTS[:1]).begin(Y, X)
    none = 0
    for image in range(6):
        logits = [output(theta, X[image : image + 1])[0] for theta in EXPERTS]
        right = [own for own in logits if int(own.argmax()) == int(Y[image])]
        if right:
            assert torch.allclose(z[image], sum(right) / len(right))
        if int(logits[0].argmax()) != int(Y[image]):
            none += 1
            assert sorted(alone[image].tolist()) == sorted(logits[0].tolist())
        assert int(alone[image].argmax()) == int(Y[image])
    assert none, "some image is mistaken by the first expert"


def test_the_slope_of_learned_labels_is_autograds_through_the_softmax():
    labels, z = soft_labels.Learned(output, lambda: EXPERTS), torch.randn(6, 3, generator=generator("z"), dtype=torch.float64)
    assert torch.equal(labels.seen(z, X, None), z.softmax(1))
    assert torch.equal(labels.kept(z, X), z.softmax(1))
    own = z.clone().requires_grad_()
    value = F.cross_entropy(output(EXPERTS[0], X), own.softmax(1))
    seen = z.softmax(1).requires_grad_()
    (dy,) = torch.autograd.grad(F.cross_entropy(output(EXPERTS[0], X), seen), seen)
    (found,) = labels.slope(z, dy)
    assert relative(found, torch.autograd.grad(value, own)[0]) < 1e-12
