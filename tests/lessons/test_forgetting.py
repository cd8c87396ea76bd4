"""What a model can do elsewhere, before and after."""

import copy
import math

import pytest
import torch
from datasets import DatasetDict
from tiny import tiny_data, tiny_model, tiny_tokenizer

from finetune_lessons.contrastive import embed, fit_head, retrieval
from finetune_lessons.forgetting import abilities, forgetting
from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import eject

pytestmark = pytest.mark.usefixtures("one_thread")


def data(n=24, titles=True):
    found = tiny_data(n)
    if not titles:
        return found
    return DatasetDict({name: rows.map(lambda row: {"title": row["text"][:12]}) for name, rows in found.items()})


def changed(model, by=0.5):
    other = copy.deepcopy(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return other


def test_an_encoder_is_asked_by_a_probe_and_by_its_titles():
    model, tokenizer, rows = tiny_model("bert"), tiny_tokenizer(), data()
    x, held = (embed(model, tokenizer, rows[split]["text"][:]) for split in ("train", "test"))
    labels = torch.tensor(rows["test"]["label"][:])
    probe = (fit_head(x, rows["train"]["label"][:])(held).argmax(-1) == labels).double().mean()
    found = abilities(model, tokenizer, rows)
    assert found["probe"] == pytest.approx(float(probe))
    assert found["retrieval"] == retrieval(embed(model, tokenizer, rows["test"]["title"][:]), held)["recall@1"]
    assert list(abilities(model, tokenizer, data(titles=False))) == ["probe"]


def test_a_decoder_is_asked_for_its_perplexity():
    model, tokenizer, rows = tiny_model("llama", "causal_lm"), tiny_tokenizer(), data()
    losses, tokens = 0.0, 0
    for text in rows["test"]["text"]:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        logits = model.eval()(input_ids=ids).logits
        losses += torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum").item()
        tokens += ids.shape[1] - 1
    found = abilities(model, tokenizer, DatasetDict(test=rows["test"]))
    assert found == {"perplexity": pytest.approx(math.exp(losses / tokens), rel=1e-4)}
    worse = changed(model)
    nats = forgetting(model, worse, tokenizer, DatasetDict(test=rows["test"]))["nats lost"]
    assert nats == pytest.approx(math.log(abilities(worse, tokenizer, rows)["perplexity"] / found["perplexity"]))


def test_what_is_lost_is_before_minus_after():
    model, tokenizer, rows = tiny_model("bert"), tiny_tokenizer(), data()
    other = changed(model)
    was, now = abilities(model, tokenizer, rows), abilities(other, tokenizer, rows)
    assert was != now
    lost = forgetting(model, other, tokenizer, rows)
    assert lost == {f"{name} lost": was[name] - now[name] for name in ("probe", "retrieval")}
    assert lost == forgetting(was, other, tokenizer, rows), "measured once, used for many"
    assert set(forgetting(model, model, tokenizer, rows).values()) == {0.0}


@pytest.mark.parametrize("arch", ["bert", "llama"])
def test_a_method_is_measured_while_it_is_on_and_lost_with_it(arch):
    kind = "causal_lm" if arch == "llama" else "classifier"
    model, tokenizer, rows = tiny_model(arch, kind), tiny_tokenizer(), data()
    was = abilities(model, tokenizer, rows)
    add_lora(model, r=2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".B"):
                parameter.normal_()
    assert any(value != 0 for value in forgetting(was, model, tokenizer, rows).values())
    eject(model)
    assert set(forgetting(was, model, tokenizer, rows).values()) == {0.0}


def test_data_without_what_a_probe_needs_are_refused():
    rows = data()
    with pytest.raises(ValueError, match=r"no train\['text'\], train\['label'\]"):
        abilities(tiny_model("bert"), tiny_tokenizer(), DatasetDict(test=rows["test"]))
    with pytest.raises(ValueError, match=r"no test\['label'\]"):
        abilities(tiny_model("bert"), tiny_tokenizer(), DatasetDict(rows, test=rows["test"].remove_columns("label")))
