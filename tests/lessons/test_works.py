"""Each method on every model of the zoo: it works, or it refuses the model as it should, and the table says which."""

from functools import partial

import nbformat
import pytest
import tiny
import torch
import works
import works_table
import zoo

from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import wrappers

TABLE = works_table.read()
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("arch, kind", zoo.PAIRS)
@pytest.mark.parametrize("method", works_table.OURS)
def test_a_method_does_what_the_table_says(arch, kind, method, tmp_path):
    assert works.outcome(arch, kind, method, tmp_path) == TABLE[arch, kind][method]


def test_the_table_has_a_row_for_every_model():
    assert list(TABLE) == zoo.PAIRS
    assert tuple(works.METHODS) == works_table.OURS
    assert len(zoo.ARCHITECTURES) >= 40 and len({kind for _, kind in zoo.PAIRS}) >= 7


def test_the_index_shows_the_table():
    cells = {cell.id: cell.source for cell in nbformat.read(works_table.INDEX, as_version=4).cells}
    assert cells[works_table.CELL] == works_table.markdown(TABLE.values()), "run `make works`"
    assert len(cells[works_table.CELL].splitlines()) <= 60


def test_a_zoo_made_twice_is_the_same():
    for arch, kind in zoo.PAIRS[::9]:
        assert tiny.same_bits(tiny.weights(zoo.model(arch, kind)), tiny.weights(zoo.model(arch, kind)))


# that the measure finds what is not as promised


def refuse(model, message):
    raise ValueError(message)


def add_and_refuse(model):
    add_lora(model)
    raise ValueError("no; use add_adapters")


def unfreeze(model):
    add_lora(model)
    model.bert.embeddings.requires_grad_(True)


def move(model):
    add_lora(model)
    torch.nn.init.ones_(next(iter(wrappers(model))).B)


@pytest.mark.parametrize(
    "method, error",
    [
        (partial(refuse, message="no"), "no way out"),
        (partial(refuse, message="No. Not here. Not now. Use add_adapters."), "one or two sentences"),
        (add_and_refuse, "other modules than before"),
        (unfreeze, "what is added is not what is trained"),
        (move, "changes the answer"),
        (torch.nn.Module.eval, "what is added is not what is trained"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_as_promised_is_found(method, error, tmp_path, monkeypatch):
    monkeypatch.setitem(works.METHODS, "broken", (method,))
    with pytest.raises(AssertionError, match=error):
        works.outcome("bert", "classifier", "broken", tmp_path)


def test_any_other_error_is_let_through(tmp_path, monkeypatch):
    monkeypatch.setitem(works.METHODS, "broken", (lambda model: model.nothing,))
    with pytest.raises(AttributeError):
        works.outcome("bert", "classifier", "broken", tmp_path)
