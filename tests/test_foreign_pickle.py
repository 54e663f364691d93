"""Methods and scores, pickled, copied, sent to another process, give the same maps there."""

import copy
import multiprocessing
import pickle

import pytest
import torch
from every import EVERY, NEIGHBOURS
from foreign import Conditioned, Net, autoencoder, inputs, made, method

from manifold_xai import (
    GuidedBackprop,
    IntegratedGradients,
    SmoothGrad,
    catalogue,
    digit_vae,
    score,
)
from manifold_xai.attribution.classes import Classes
from manifold_xai.door import with_arguments
from manifold_xai.together import Layout, Together

X, Y = inputs((3, 4, 4)), torch.tensor([3, 0, 4, 1])
COPIES = {
    "pickle": lambda v: pickle.loads(pickle.dumps(v)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def double(x):
    return 2 * x


def first(outputs):
    return outputs[:, 0]


def attributed(m, name):
    how = {} if name in [*NEIGHBOURS, "Guided Backprop"] else dict(n_steps=4)
    return m.attribute(X, target=Y, **how | (dict(baselines=1 - X) if name == "IG2" else {}))


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", EVERY)
def test_methods(name, way):
    """Before their first use and after it: the state that a call leaves can be pickled, too."""
    m = method(name, score(made(Net), preprocess=double))
    fresh = COPIES[way](method(name, score(made(Net), preprocess=double)))
    A = attributed(m, name)
    assert torch.equal(attributed(fresh, name), A)
    attributed(COPIES[way](m), name)


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("target", [None, 2, Y, (1,), [(1,)] * 4, first, [3, 0, 4, 1]])
def test_scores(target, way):
    f = score(made(Net), target, "logit", preprocess=double)
    again = COPIES[way](f)
    assert torch.equal(again(X), f(X)) and repr(again) == repr(f)


@pytest.mark.parametrize("way", COPIES)
def test_what_they_are_made_of(way):
    c = torch.rand(4, 5).double()
    layout = Layout.of((X, c))
    pieces = [
        (with_arguments(made(Conditioned), c, X), (X,)),
        (Together(made(Conditioned), layout), (layout.join((X, c)),)),
        (Classes(score(made(Net)), [1, 2]), (X.repeat_interleave(2, 0),)),
        (score(made(Net), rows=False), (X,)),
        (autoencoder((3, 4, 4)).encode, (X,)),
        (digit_vae().decode, (torch.rand(2, 10),)),
    ]
    for f, given in pieces:
        assert torch.equal(COPIES[way](f)(*given), f(*given))


@pytest.mark.parametrize("way", COPIES)
def test_a_catalogue(way):
    found = catalogue(made(Net), autoencoder((3, 4, 4)), steps=4, x=X)
    again = COPIES[way](found)
    assert list(again) == list(found) and again.left_out == found.left_out
    assert torch.equal(again["EIG"](X, Y), found["EIG"](X, Y))


def test_a_deep_copy_is_a_models_own():
    """Changing the copy's weights does not change the original."""
    model = made(Net)
    f = score(model, 1)
    before, again = f(X), copy.deepcopy(f)
    with torch.no_grad():
        again.model.first.weight.zero_()
    assert torch.equal(f(X), before) and not torch.equal(again(X), before)
    again.model.train()
    again(X)  # no layer of its asks for the mode


def test_a_copy_still_watches_its_own_layers():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5), torch.nn.Dropout(0.5))
    f = score(model.double().eval(), 1)
    again = pickle.loads(pickle.dumps(f))
    again.model.train()
    f(X)
    with pytest.raises(ValueError, match="train mode"):
        again(X)


def ask_there(queue, methods):
    queue.put({name: attributed(m, name).numpy() for name, m in methods.items()})


def test_in_a_spawned_process():
    methods = {name: method(name, score(made(Net))) for name in EVERY if name != "IG2"}
    relu = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 9), torch.nn.ReLU()).double()
    methods["Guided Backprop"] = GuidedBackprop(relu)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=ask_there, args=(queue, methods))
    process.start()
    found = queue.get(timeout=120)
    process.join(30)
    assert process.exitcode == 0
    for name, m in methods.items():
        here, there = attributed(m, name), torch.from_numpy(found[name])
        assert (here - there).abs().max() <= 1e-9 * here.abs().max(), name


def test_what_a_user_wrote_as_a_lambda_cannot_be_pickled_but_copied():
    m = IntegratedGradients(lambda x: x.flatten(1))
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(m)
    assert torch.equal(copy.copy(m).attribute(X, target=1), m.attribute(X, target=1))
    m = SmoothGrad(made(Net), 2)
    assert copy.copy(m).generator is None
