"""Cross-entropy some tokens at a time is that of the whole, with its gradient, and never holds all logits."""

import threading
from functools import partial

import pytest
import torch
import transformers
from tiny import BASE, WIDE, tiny_language_data, tiny_model, tiny_run
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from finetune_lessons.cross_entropy import language_model_loss
from finetune_lessons.lab.training.chunked import chunked_cross_entropy
from finetune_lessons.lora import add_lora
from finetune_lessons.prompt_tuning import add_prompt

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = BASE["vocab_size"]


def batch(labels: bool = True) -> dict:
    torch.manual_seed(0)
    ids, mask = torch.randint(7, WORDS, (3, 11)), torch.ones(3, 11, dtype=torch.long)
    mask[0, 7:] = mask[1, 4:] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    return given | {"labels": ids.masked_fill((mask == 0) | (torch.arange(11) < 3), -100)} if labels else given


def of(model, chunk, given=None):
    "The loss and all gradients."
    model.zero_grad()
    torch.manual_seed(1)
    loss = language_model_loss(model, given or batch(), chunk=chunk)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


def assert_equal(model, chunk, given=None):
    (loss, gradients), (expected, theirs) = of(model, chunk, given), of(model, None, given)
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    assert gradients.keys() == theirs.keys() and gradients
    for name, gradient in theirs.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("chunk", [1, 4, 30, 1000])
@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2", "opt"])
def test_it_is_the_loss_of_the_whole_and_its_gradient(arch, chunk):
    assert_equal(tiny_model(arch, "causal_lm", dropout=False).train(), chunk)


@pytest.mark.parametrize("tied", [True, False])
def test_with_tied_and_untied_embeddings(tied):
    model = tiny_model("llama", "causal_lm", tie_word_embeddings=tied)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert_equal(model, 7)


def test_without_labels_and_with_lora_on_the_head_and_everywhere():
    assert_equal(tiny_model("gpt2", "causal_lm", dropout=False), 5, batch(labels=False))
    model = tiny_model("llama", "causal_lm", tie_word_embeddings=False)
    model = add_lora(model, r=2, target_modules=["lm_head", "q_proj"])
    assert any("lm_head" in name for name in of(model, 5)[1])
    assert_equal(model, 5)


def test_a_peft_model_and_a_run_with_accumulation():
    import peft

    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "lm_head"])
    assert_equal(peft.get_peft_model(tiny_model("llama", "causal_lm"), config), 6)

    def losses(chunk):
        settings = {"batch_size": 2, "grad_accum": 2, "epochs": 1, "eval_every": None}
        loss = partial(language_model_loss, chunk=chunk)
        run = tiny_run(tiny_model("llama", "causal_lm"), tiny_language_data(), loss=loss, **settings).finish()
        return [step.loss for step in run.steps] + [run.evaluate()["loss"]]

    assert losses(8) == pytest.approx(losses(None), rel=1e-5)


class Largest(TorchDispatchMode):
    "The most numbers of a tensor that some operation puts out."

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(output) if isinstance(x, torch.Tensor)]
        self.numbers = max([self.numbers, *sizes])
        return output


def test_no_tensor_is_as_large_as_all_logits():
    def largest(chunk):
        with Largest() as seen:
            of(model, chunk, given)
        return seen.numbers

    model = tiny_model("llama", "causal_lm", vocab_size=500)
    ids = torch.randint(7, 500, (4, 50))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert largest(None) >= 4 * 49 * 500
    assert largest(10) == max(500 * 32, 10 * 500)  # the embedding's gradient


def test_models_that_do_more_with_their_logits_are_refused():
    config = transformers.Gemma2Config(
        **BASE | WIDE | {"head_dim": 8, "num_key_value_heads": 2, "final_logit_softcapping": 30.0}
    )
    capped = transformers.Gemma2ForCausalLM(config)
    with pytest.raises(ValueError, match="Gemma2ForCausalLM does more with them, such as capping or scaling"):
        language_model_loss(capped, batch(), chunk=4)
    config.final_logit_softcapping = None
    assert_equal(transformers.Gemma2ForCausalLM(config).train(), 4)
    with pytest.raises(ValueError, match="leave chunk out"):
        language_model_loss(add_prompt(tiny_model("gpt2", "causal_lm"), 3), batch(), chunk=4)
    with pytest.raises(ValueError, match="OptimizedModule hides it"):
        language_model_loss(torch.compile(tiny_model("gpt2", "causal_lm")), batch(), chunk=4)


@pytest.mark.parametrize("chunk", [0, -3, 2.0, True, "all"])
def test_a_chunk_is_a_number_of_tokens(chunk):
    with pytest.raises(ValueError, match="chunk is a number of tokens, at least 1; given: "):
        language_model_loss(tiny_model("gpt2", "causal_lm"), batch(), chunk=chunk)


def test_labels_beyond_the_vocabulary_are_named():
    given = batch()
    given["labels"][0, 5] = WORDS + 2
    with pytest.raises(ValueError, match=f"none of the {WORDS} words of the vocabulary"):
        language_model_loss(tiny_model("gpt2", "causal_lm"), given, chunk=4)
    head, nothing = torch.nn.Linear(4, 9), torch.full((2, 3), -100)
    assert chunked_cross_entropy(torch.zeros(2, 3, 4), head, nothing, 2).isnan()


def test_other_threads_see_the_model_as_it_is():
    model, inside, done = tiny_model("llama", "causal_lm"), threading.Event(), threading.Event()
    given, head = batch(), model.lm_head
    expected = model(given["input_ids"]).logits

    def hold(*_):
        if threading.current_thread() is worker:
            inside.set()
            done.wait(30)

    model.model.layers[1].register_forward_hook(hold)
    worker = threading.Thread(target=lambda: language_model_loss(model, given, chunk=4))
    worker.start()
    assert inside.wait(30)
    assert torch.equal(model(given["input_ids"]).logits, expected) and model.lm_head is head
    done.set()
    worker.join()
