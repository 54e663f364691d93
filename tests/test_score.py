"""The score: one class per row, chosen once, checked, and differentiated in chunks of any size."""

import gc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import rand
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from manifold_xai.chunks import Chunks, value_and_grad, values
from manifold_xai.score import check_input, score


def linear(classes=4, features=6, seed=0):
    torch.manual_seed(seed)
    return (
        nn.Sequential(nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, classes))
        .double()
        .requires_grad_(False)
    )


@pytest.fixture
def x():
    return rand(5, 6, seed=1)


@pytest.mark.parametrize(
    "target", [2, torch.tensor(2), torch.full((5,), 2), [2] * 5, lambda out: out.softmax(1)[:, 2]]
)
def test_every_kind_of_target_names_the_same_class(x, target):
    model = linear()
    torch.testing.assert_close(score(model, target)(x), model(x).softmax(1)[:, 2])


def test_logit_is_the_output_as_it_is(x):
    model = linear()
    assert torch.equal(score(model, 1, "logit")(x), model(x)[:, 1])


def test_preprocessing_is_inside_the_gradient(x):
    model = linear()
    plain = value_and_grad(score(model, 1, "logit"), (x - 0.5) / 0.25)[1]
    inside = value_and_grad(score(model, 1, "logit", preprocess=lambda x: (x - 0.5) / 0.25), x)[1]
    torch.testing.assert_close(inside, plain / 0.25)


def test_without_a_target_the_class_is_the_one_predicted_at_x_not_elsewhere(x):
    model, x0 = linear(), torch.zeros(5, 6, dtype=torch.float64)
    f = score(model)
    assert f(x).shape == (5, 4)
    at_x, far = f.at(x := 6 * x - 3), -x
    predicted = model(x).argmax(1)
    # otherwise the next line proves nothing
    assert len(predicted.unique()) > 1
    assert not torch.equal(predicted, model(far).argmax(1))
    torch.testing.assert_close(at_x(far), model(far).softmax(1).gather(1, predicted[:, None])[:, 0])
    # settled once; f itself remembers nothing
    assert at_x.at(x0) is at_x
    assert torch.equal(f(x), score(model)(x))


def test_rows_carry_their_targets(x):
    f = score(linear(), torch.tensor([0, 1, 2, 3, 0]))
    rows = torch.tensor([3, 3, 1])
    torch.testing.assert_close(f(x[rows], rows=rows), f(x)[rows])


def test_a_score_of_a_score_passes_rows_on(x):
    inner = score(linear(), torch.tensor([0, 1, 2, 3, 0]))
    outer = score(inner, output="logit")
    rows = torch.tensor([4, 2])
    torch.testing.assert_close(outer(x[rows], rows=rows), inner(x)[rows])


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (4, r"0…3, got 4; the model's output is \(5, 4\)"),
        (-1, r"0…3, got -1"),
        (torch.tensor([0, 1, 2, 3, 9]), r"got 9; the model's output is \(5, 4\)"),
        (torch.tensor([0, 1]), r"one class per row, got 2 for outputs of shape \(5, 4\)"),
    ],
)
def test_a_target_that_does_not_fit_the_outputs_is_refused(x, target, says):
    with pytest.raises(ValueError, match=says):
        score(linear(), target)(x)


@pytest.mark.parametrize(
    "target",
    [torch.tensor([0.5, 1.0]), torch.zeros(2, 2).long(), torch.tensor([True, False]), 1.5, "cat"],
)
def test_a_target_of_another_kind_is_refused(target):
    with pytest.raises(ValueError, match="target must be"):
        score(linear(), target)


def test_outputs_without_classes_say_what_to_do(x):
    with pytest.raises(ValueError, match="one output per class.*output='logit'"):
        score(nn.Sequential(linear(1), nn.Flatten(0)), 0)(x)
    # a softmax over one class is 1 whatever the input
    with pytest.raises(ValueError, match=r"output is \(5, 1\)"):
        score(linear(1), 0)(x)
    with pytest.raises(ValueError, match="dict, not a tensor"):
        score(lambda x: {"logits": x}, 0)(x)
    with pytest.raises(ValueError, match="callable target"):
        score(lambda x: x[:, None, :, None], 0, "logit")(x)
    with pytest.raises(ValueError, match="'probability' or 'logit'"):
        score(linear(), 0, "odds")
    assert score(lambda x: {"logits": linear()(x)}, lambda out: out["logits"][:, 1])(x).shape == (
        5,
    )


def test_layers_in_train_mode_are_named_and_only_those_that_matter(x):
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5)).double()
    with pytest.raises(ValueError, match="in train mode: 1, 3"):
        score(model, 0)(x)
    f = score(model.eval(), 0)
    model[3].train()
    with pytest.raises(ValueError, match="in train mode: 3"):
        f(x)
    assert score(nn.Sequential(nn.Linear(6, 4).double(), nn.ReLU()).train(), 0)(x).shape == (5,)


# value and gradient


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 12), b=st.integers(1, 9))
def test_the_chunk_size_changes_nothing(batch, b):
    x = rand(b, 6, seed=b)
    model = linear()
    f = score(model, torch.arange(b) % 4)
    value, grad = value_and_grad(f, x, batch=batch)
    one_by_one = [
        torch.func.grad(lambda x, i=i: model(x).softmax(0)[i % 4])(x[i]) for i in range(b)
    ]
    assert (grad - torch.stack(one_by_one)).abs().max() < 1e-12
    assert (value - f(x)).abs().max() < 1e-12
    assert torch.equal(values(f, x, batch=batch), value)


def scarce(f, room, seen):
    """f on a machine whose memory holds `room` rows."""

    def g(x, rows):
        seen.append(len(x))
        if len(x) > room:
            raise torch.OutOfMemoryError("no room")
        return f(x, rows)

    return g


def test_out_of_memory_halves_the_chunk_says_so_and_gives_the_same(x):
    f, seen = score(linear(), torch.tensor([0, 1, 2, 3, 0])), []
    with pytest.warns(UserWarning, match="Out of memory: going on with 2 at once. Set batch=2"):
        value, grad = value_and_grad(scarce(f, 2, seen), x, batch=5)
    assert seen == [5, 2, 2, 1]
    expected = value_and_grad(f, x)
    torch.testing.assert_close((value, grad), expected)


def test_a_chunk_that_has_shrunk_stays_small(x):
    seen, chunks = [], Chunks(5)
    with pytest.warns(UserWarning, match="Out of memory"):
        value_and_grad(scarce(score(linear(), 0), 2, seen), x, batch=chunks)
    # a warning here would be an error
    value_and_grad(scarce(score(linear(), 0), 2, seen), x, batch=chunks)
    assert chunks.batch == 2 and max(seen[1:]) == 2


def test_the_cpus_own_allocator_is_heard(x):
    """It reports that memory ran out as a RuntimeError with a message, NumPy as a MemoryError."""
    for ask_for_it in (lambda: torch.empty(2**50), lambda: np.empty(2**50)):
        seen = []

        def f(x):
            seen.append(len(x))
            if len(x) > 2:
                ask_for_it()
            return x.square().sum(1)

        with pytest.warns(UserWarning, match="going on with 2 at once"):
            assert torch.equal(values(f, x, batch=5), x.square().sum(1))
        assert seen == [5, 2, 2, 1]


def test_other_errors_are_not_taken_for_a_lack_of_memory(x):
    seen = []

    def f(x):
        seen.append(len(x))
        raise RuntimeError("CPU: something else")

    with pytest.raises(RuntimeError, match="something else"):
        values(f, x, batch=5)
    assert seen == [5]


def test_input_that_is_not_finite_is_named_by_row():
    x = torch.rand(8, 3)
    x[2, 1], x[5, 0], x[5, 2] = torch.nan, torch.inf, torch.nan
    words = "3 of its 24 values are NaN or infinite, in rows 2, 5. Mend"
    with pytest.raises(ValueError, match=words):
        check_input(x)
    with pytest.raises(ValueError, match="in rows 0, 1, 2, 3, 4 and 3 more"):
        check_input(torch.full((8, 3), torch.nan))


def test_not_even_one_row_fits(x):
    with pytest.warns(UserWarning), pytest.raises(torch.OutOfMemoryError):
        value_and_grad(scarce(score(linear(), 0), 0, []), x)


@pytest.mark.parametrize(
    ("f", "says"),
    [
        (lambda x: x.detach().sum(1), "does not depend on x"),
        (lambda x: torch.ones(len(x), requires_grad=True) * 2, "does not depend on x"),
        (lambda x: x, r"one number per row, \(5,\), got \(5, 6\)"),
        (lambda x: x.sum(), r"got \(\) for x of shape \(5, 6\)"),
        (score(linear()), r"score\(model, target\), or score\(model\)\.at\(x\)"),
    ],
)
def test_a_score_that_cannot_be_explained_says_why(x, f, says):
    with pytest.raises(ValueError, match=says):
        value_and_grad(f, x)
    with pytest.raises(ValueError, match="batch must be at least 1"):
        value_and_grad(score(linear(), 0), x, batch=0)


def test_gradients_come_whatever_the_callers_mode_and_leave_nothing_behind(x):
    model = linear().requires_grad_(True)
    f, expected = score(model, 1), value_and_grad(score(linear(), 1), x)
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            torch.testing.assert_close(value_and_grad(f, x * 1), expected)
    value, grad = value_and_grad(f, x.clone().requires_grad_())
    assert not value.requires_grad
    assert not grad.requires_grad
    assert all(p.grad is None for p in model.parameters())
    held = [value_and_grad(f, x) for _ in range(5)]

    def tensors():
        return sum(type(o) is torch.Tensor for o in gc.get_objects())

    gc.collect(), (before := tensors())
    held += [value_and_grad(f, x) for _ in range(20)]
    gc.collect()
    assert tensors() - before <= 40  # the 20 values and gradients held, and no graph with them


@pytest.mark.parametrize("relu", [nn.ReLU(), nn.ReLU(inplace=True), F.relu, torch.relu_])
def test_every_way_to_write_a_relu(relu):
    conv, x = nn.Conv2d(1, 3, 3).requires_grad_(False), torch.rand(4, 1, 6, 6)
    value, grad = value_and_grad(score(lambda x: relu(conv(x)).mean((2, 3)), 1, "logit"), x)
    expected = value_and_grad(score(lambda x: conv(x).clamp_min(0).mean((2, 3)), 1, "logit"), x)
    torch.testing.assert_close((value, grad), expected)


def test_under_autocast_values_come_in_float32(x):
    f, x = score(linear().float(), 1), x.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, grad = value_and_grad(f, x)
    assert value.dtype == grad.dtype == torch.float32
    assert (grad - value_and_grad(f, x)[1]).abs().max() < 0.02  # bfloat16 keeps 8 bits
    assert value_and_grad(score(linear().bfloat16(), 1), x.bfloat16())[0].dtype == torch.float32


# input


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.tensor([[0.0, float("nan")]]), "`x` must be finite, but 1 of its 2"),
        (torch.tensor([[0.0, float("inf")]]), "must be finite"),
        (
            torch.zeros(1, 1, 2, 2, dtype=torch.uint8),
            r"floating-point tensor, got torch.uint8.*255",
        ),
        ("image", "floating-point tensor, got str"),
        (torch.full((1, 1, 2, 2), 255.0), r"spans \[255, 255\]. Stored as 0…255"),
        (torch.full((1, 1, 2, 2), -2.1), r"spans \[-2.1, -2.1\]. Normalised\?"),
    ],
)
def test_what_cannot_be_an_input_is_refused(x, says):
    with pytest.raises(ValueError, match=says):
        check_input(x)


def test_what_can_be_an_input_passes():
    check_input(torch.full((2, 1, 2, 2), 1.2))
    check_input(torch.full((2, 9), 400.0))  # not an image: any range
    check_input(torch.full((1, 1, 2, 2), 255.0), span=False)
