"""What holds for every method that changes a model, on every architecture."""

from functools import partial

import pytest
import tiny
import torch
from safetensors import safe_open
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from finetune_lessons.adapters import add_adapters
from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import (
    disable,
    eject,
    load_method,
    method_parameters,
    pretrained_parameters,
    save_method,
)
from finetune_lessons.prefix_tuning import add_prefix
from finetune_lessons.prompt_tuning import add_prompt

IDENTICAL_AT_FIRST = {
    "LoRA": add_lora,
    "Houlsby": add_adapters,
    "Pfeiffer": partial(add_adapters, placement="pfeiffer"),
    "parallel": partial(add_adapters, placement="parallel"),
}
PROMPTING = {
    "prefix": partial(add_prefix, num_virtual_tokens=3),
    "prefix from a network": partial(add_prefix, num_virtual_tokens=3, reparametrization=8),
    "prompt": partial(add_prompt, num_virtual_tokens=3),
}
METHODS = IDENTICAL_AT_FIRST | PROMPTING
LENGTHS = (12, 8, 5)

every_architecture = pytest.mark.parametrize("arch", tiny.EVERY)
every_method = pytest.mark.parametrize("method", METHODS)
pytestmark = pytest.mark.usefixtures("one_thread")


def texts() -> dict[str, torch.Tensor]:
    "Three texts of different lengths, padded on the right, each with one token that ends it."
    ids = torch.randint(7, 100, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    for row, length in enumerate(LENGTHS):
        ids[row, length - 1] = tiny.VOCABULARY["[SEP]"]
        ids[row, length:], mask[row, length:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**texts()).logits


def disturbed(model):
    "The model with its trainable parameters far from where they started."
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@every_architecture
@pytest.mark.parametrize("method", IDENTICAL_AT_FIRST)
def test_at_first_nothing_changes_where_that_is_promised(arch, method):
    model = tiny.tiny_model(arch)
    before = logits(model)
    assert torch.equal(logits(METHODS[method](model)), before)


@every_architecture
@pytest.mark.parametrize("method", PROMPTING)
def test_a_prefix_or_prompt_changes_the_logits_and_gets_a_gradient(arch, method):
    model = tiny.tiny_model(arch, dropout=False)
    before = logits(model)
    METHODS[method](model)
    assert (logits(model) - before).abs().max() > 1e-4
    model(**texts()).logits.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)


@every_architecture
@every_method
def test_only_what_was_added_and_the_head_move(arch, method):
    model = METHODS[method](tiny.tiny_model(arch, dropout=False))
    frozen = {p: p.detach().clone() for p in pretrained_parameters(model)}
    added = {name: p for name, p in model.named_parameters() if p not in frozen}
    before = {name: p.detach().clone() for name, p in added.items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        cross_entropy(model(**texts()).logits, torch.tensor([0, 1, 1])).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(p, old) for p, old in frozen.items())
    assert [name for name, p in added.items() if torch.equal(p, before[name])] == []
    assert any(".copy." in name for name in added)


@every_architecture
@every_method
def test_disabled_or_ejected_it_is_the_pretrained_model_to_the_bit(arch, method):
    model = tiny.tiny_model(arch)
    before, weights = logits(model), tiny.weights(model)
    disturbed(METHODS[method](model))
    assert (logits(model) - before).abs().max() > 1e-4
    with disable(model):
        assert torch.equal(logits(model), before)
    eject(model)
    assert torch.equal(logits(model), before)
    assert tiny.same_bits(tiny.weights(model), weights)


@every_architecture
@every_method
def test_a_file_holds_what_was_trained_and_gives_the_same_logits(arch, method, tmp_path):
    model = disturbed(METHODS[method](tiny.tiny_model(arch)))
    (name,) = {wrapper.name for wrapper in model.modules() if hasattr(wrapper, "own_parameters")}
    save_method(model, tmp_path)
    loaded = load_method(tiny.tiny_model(arch), tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    with safe_open(tmp_path / "method.safetensors", "pt") as file:
        assert set(file.keys()) == set(method_parameters(model, name))
    trained = {p for p in model.parameters() if p.requires_grad}
    assert trained == set(method_parameters(model, name).values())


@every_architecture
@every_method
def test_gradient_checkpointing_changes_no_gradient(arch, method):
    def gradients(checkpointing):
        model = disturbed(METHODS[method](tiny.tiny_model(arch, dropout=False))).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        cross_entropy(model(**texts()).logits, torch.tensor([0, 1, 1])).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    assert_close(gradients(True), gradients(False), rtol=1e-4, atol=1e-5)


@every_architecture
@every_method
def test_padding_changes_nothing(arch, method):
    model = disturbed(METHODS[method](tiny.tiny_model(arch)))
    together = logits(model)
    for row, length in enumerate(LENGTHS):
        alone = {name: x[row : row + 1, :length] for name, x in texts().items()}
        with torch.no_grad():
            assert_close(model(**alone).logits[0], together[row], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", [*tiny.DECODERS, *tiny.ENCODER_DECODERS])
@every_method
def test_generation_needs_no_other_care_with_a_cache(arch, method):
    kind = "seq2seq" if arch in tiny.ENCODER_DECODERS else "causal_lm"
    model = disturbed(METHODS[method](tiny.tiny_model(arch, kind).eval()))
    inputs = {name: x.flip(1) for name, x in texts().items()}  # decoders are padded on the left
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with_cache, without = (model.generate(**inputs, **settings, use_cache=cache) for cache in (True, False))
    assert torch.equal(with_cache, without)
    with disable(model):
        assert not torch.equal(model.generate(**inputs, **settings), with_cache)


@every_architecture
def test_lora_merges_into_the_weights(arch):
    model = disturbed(add_lora(tiny.tiny_model(arch)))
    trained = logits(model)
    eject(model, merge=True)
    assert_close(logits(model), trained, rtol=1e-4, atol=1e-5)
    assert tiny.weights(model).keys() == tiny.weights(tiny.tiny_model(arch)).keys()


@every_architecture
@pytest.mark.parametrize("other", ["Houlsby", "prefix", "prompt"])
def test_methods_work_together(arch, other):
    model = tiny.tiny_model(arch)
    before = logits(model)
    disturbed(METHODS[other](add_lora(model)))
    both = logits(model)
    with disable(model, "lora"):
        without_lora = logits(model)
    assert not torch.equal(both, without_lora) and not torch.equal(without_lora, before)
    eject(model)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("arch", tiny.DECODERS)
def test_positions_that_are_given_count_on_behind_a_prompt(arch):
    model = disturbed(add_prompt(tiny.tiny_model(arch, "causal_lm").eval(), num_virtual_tokens=3))
    text = {name: x[:1] for name, x in texts().items()}
    with torch.no_grad():
        given = model(**text, position_ids=torch.arange(12)[None]).logits
        assert_close(given, model(**text).logits, rtol=1e-5, atol=1e-5)
