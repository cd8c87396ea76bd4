"""What can be no loss is refused when the run is made, and told what a loss is called with."""

from functools import partial

import pytest
import torch
from tiny import classification, tiny_run
from torch import nn
from torch.nn import functional as F

REFUSED = {
    "nothing": (None, "loss is None"),
    "a name": ("cross_entropy", "loss is 'cross_entropy'"),
    "torch's function": (F.cross_entropy, "loss is cross_entropy, which takes logits and labels"),
    "torch's function with settings": (partial(F.cross_entropy, label_smoothing=0.1), "loss is cross_entropy, which"),
    "torch's module": (nn.CrossEntropyLoss(), "loss is CrossEntropyLoss, which takes logits and labels"),
    "torch's class": (nn.CrossEntropyLoss, "loss is <class 'torch.nn.modules.loss.CrossEntropyLoss'>"),
    "of one argument": (lambda batch: 0, r"<lambda>\(batch\)"),
    "of three arguments": (lambda model, batch, weight: 0, r"<lambda>\(model, batch, weight\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_loss_is_refused_when_the_run_is_made(name):
    loss, says = REFUSED[name]
    with pytest.raises(ValueError, match=says) as error:
        tiny_run(loss=loss)
    assert "called as loss(model, batch)" in str(error.value) and "model_inputs(batch)" in str(error.value)


class Own(nn.Module):
    def forward(self, model, batch, scale=1.0):
        return scale * classification(model, batch)


@pytest.mark.parametrize(
    "loss",
    [
        lambda *given: classification(*given),
        lambda model, batch, scale=2: scale * classification(model, batch),
        partial(lambda weight, model, batch: weight * classification(model, batch), torch.tensor(2.0)),
        partial(Own(), scale=2.0),
        Own(),
        Own().forward,
    ],
)
def test_whatever_takes_a_model_and_a_batch_is_a_loss(loss):
    assert next(tiny_run(loss=loss)).loss > 0


def test_a_loss_that_was_made_by_exec_needs_no_module():
    made = {"classification": classification}
    exec("def loss(model, batch): return classification(model, batch)", made)
    assert made["loss"].__module__ is None
    assert next(tiny_run(loss=made["loss"])).loss > 0
