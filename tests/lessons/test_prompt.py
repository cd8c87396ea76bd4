"""A soft prompt is in front of the text, and nobody but the model notices: outputs, labels, masks, types, refusals."""

import copy
import inspect
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny
import torch
import transformers
import zoo
from test_methods import disturbed
from torch import Tensor
from torch.testing import assert_close

from finetune_lessons.model_surgery import eject, wrappers
from finetune_lessons.multitask import MultiTaskModel
from finetune_lessons.prompt_tuning import Verbalizer, add_prompt, init_prompt, soft_prompt

N = 3  # virtual tokens
pytestmark = pytest.mark.usefixtures("one_thread")

HEADS = {
    "bert": "Model ForMaskedLM ForTokenClassification ForQuestionAnswering ForSequenceClassification ForMultipleChoice "
    "ForPreTraining ForNextSentencePrediction",
    "roberta": "Model ForMaskedLM ForTokenClassification ForQuestionAnswering ForSequenceClassification "
    "ForMultipleChoice ForCausalLM",
    "distilbert": "Model ForMaskedLM ForTokenClassification ForQuestionAnswering ForSequenceClassification",
    "electra": "Model ForPreTraining ForQuestionAnswering",
    "gpt2": "Model LMHeadModel ForTokenClassification ForQuestionAnswering ForSequenceClassification",
    "llama": "Model ForCausalLM ForTokenClassification ForQuestionAnswering ForSequenceClassification",
    "t5": "Model ForConditionalGeneration EncoderModel ForTokenClassification ForQuestionAnswering "
    "ForSequenceClassification",
    "bart": "Model ForConditionalGeneration ForQuestionAnswering ForSequenceClassification ForCausalLM",
}
CASES = [(arch, head) for arch, heads in HEADS.items() for head in heads.split()]


def a_model(arch: str, head: str, **config):
    name, shape = tiny.SHAPES[arch]
    torch.manual_seed(0)
    kind = getattr(transformers, name + head)
    config = {"num_labels": 2, "attn_implementation": "eager"} | config
    return kind(getattr(transformers, f"{name}Config")(**tiny.BASE | shape | config)).eval()


def some_texts(head: str = "") -> dict[str, Tensor]:
    "Two texts; where a head reads the last token, of one length, for embeddings do not tell what is padding."
    ids = torch.randint(7, 100, (2, 7), generator=torch.Generator().manual_seed(1))
    ids[:, -1] = tiny.VOCABULARY["[SEP]"]
    mask = torch.ones_like(ids)
    if head != "ForSequenceClassification":
        ids[1, 5:], mask[1, 5:] = 0, 0
    if head == "ForMultipleChoice":
        ids, mask = (x.repeat_interleave(2, 0).view(2, 2, 7) for x in (ids, mask))
    return {"input_ids": ids, "attention_mask": mask}


def labels_of(arch: str, head: str, texts: dict[str, Tensor]) -> dict[str, Tensor]:
    ids = texts["input_ids"]
    if head == "ForQuestionAnswering":
        return {"start_positions": torch.tensor([1, 0]), "end_positions": torch.tensor([4, 2])}
    if head in ("ForSequenceClassification", "ForMultipleChoice", "ForNextSentencePrediction"):
        return {"labels": torch.tensor([0, 1])}
    if head == "ForTokenClassification" or (arch, head) == ("electra", "ForPreTraining"):
        return {"labels": ids % 2}
    if head == "ForPreTraining":
        return {"labels": ids, "next_sentence_label": torch.tensor([0, 1])}
    return {} if head.endswith("Model") and head != "LMHeadModel" else {"labels": ids}


def by_hand(model, vectors: Tensor, texts: dict[str, Tensor], labels: dict[str, Tensor], **settings):
    "The vectors before those of the words, as `inputs_embeds`."
    ids, mask = (x.flatten(0, -2) for x in texts.values())
    words = model.get_encoder() if hasattr(model.get_encoder(), "get_input_embeddings") else model
    embedded = words.get_input_embeddings()(ids)
    embedded = torch.cat([vectors.expand(len(ids), -1, -1), embedded], 1).unflatten(0, texts["input_ids"].shape[:-1])
    mask = torch.cat([torch.ones_like(mask[:, :N]), mask], 1).view(embedded.shape[:-1])
    if "decoder_input_ids" in inspect.signature(model.forward).parameters:
        read = words(inputs_embeds=embedded, attention_mask=mask, **settings)
        return model(**texts | {"attention_mask": mask}, encoder_outputs=read, **labels, **settings)
    for name, x in labels.items():
        if name.endswith("positions"):
            labels[name] = x + N
        elif x.shape == ids.shape:
            labels[name] = torch.cat([torch.full_like(x[:, :N], -100), x], 1)
    if model.config.model_type == "roberta":  # counts from 2, and gives padding 1
        settings["position_ids"] = mask.cumsum(-1) * mask + tiny.VOCABULARY["[PAD]"]
    return model(inputs_embeds=embedded, attention_mask=mask, **labels, **settings)


def tensors(x) -> list[Tensor]:
    if isinstance(x, Tensor):
        return [x]
    return [t for part in x for t in tensors(part)] if isinstance(x, (tuple, list)) else []


def text_alone(x: Tensor, shape: torch.Size) -> Tensor:
    for axis, (size, wanted) in enumerate(zip(x.shape, shape, strict=True)):
        assert size in (wanted, wanted + N)
        x = x.narrow(axis, size - wanted, wanted)
    return x


@pytest.mark.parametrize(("arch", "head"), CASES)
def test_every_output_is_that_of_the_text_alone(arch, head):
    plain, texts = a_model(arch, head), some_texts(head)
    settings = {"output_hidden_states": True, "output_attentions": True}
    if arch in tiny.ENCODER_DECODERS and head == "Model":
        settings["decoder_input_ids"] = texts["input_ids"][:, :4]
    labels = labels_of(arch, head, texts)
    model = disturbed(add_prompt(copy.deepcopy(plain), N, modules_to_save=[]))
    with torch.no_grad():
        unprompted = plain(**texts, **labels, **settings)
        ours = model(**texts, **labels, **settings)
        as_tuple = model(*texts.values(), **labels, **settings, return_dict=False) if arch == "bert" else None
        hand = by_hand(plain, soft_prompt(model).vectors, texts, dict(labels), **settings)
    assert ours.keys() == unprompted.keys()
    for name in ours:
        for x, before, expected in zip(*(tensors(output[name]) for output in (ours, unprompted, hand)), strict=True):
            assert x.shape == before.shape
            assert_close(x, text_alone(expected, x.shape), rtol=1e-4, atol=1e-5)
    if as_tuple is not None:
        assert all(torch.equal(a, b) for a, b in zip(tensors(as_tuple), tensors(ours.to_tuple()), strict=True))


SCALED = ("gemma", "gemma2", "gemma3_text", "gpt2", "llama", "bloom", "gpt_neox", "opt", "mistral", "qwen3", "mamba")


@pytest.mark.parametrize("arch", SCALED)
def test_words_as_a_prompt_are_words_typed_in_front(arch):
    model, words = zoo.model(arch, "causal_lm"), [9, 30, 17]
    text = torch.randint(7, 100, (2, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        typed = model(torch.cat([torch.tensor([words, words]), text], 1)).logits[:, N:]
        prompted = init_prompt(add_prompt(model, N), words)(text).logits
    assert_close(prompted, typed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", ["mbart", "m2m_100", "pegasus", "bart", "t5"])
def test_words_as_a_prompt_are_words_typed_in_front_of_an_encoder(arch):
    model, words = zoo.model(arch, "seq2seq"), [9, 30, 17]
    text = torch.randint(7, 100, (2, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        typed = model(torch.cat([torch.tensor([words, words]), text], 1), decoder_input_ids=text[:, :4]).logits
        prompted = init_prompt(add_prompt(model, N), words)(text, decoder_input_ids=text[:, :4]).logits
    assert_close(prompted, typed, rtol=1e-4, atol=1e-5)


def test_a_random_prompt_is_as_large_as_what_the_embedding_puts_out():
    model = add_prompt(zoo.model("gemma2", "causal_lm"), 50)
    embedded = soft_prompt(model).base(torch.arange(100))
    assert soft_prompt(model).vectors.std().item() == pytest.approx(embedded.std().item(), rel=0.1)


NO_TEXTS = [(arch, kind) for arch, kind in zoo.PAIRS if kind in ("image_classifier", "audio_classifier")]


@pytest.mark.parametrize(("arch", "kind"), [*NO_TEXTS, ("whisper", "speech_to_text"), ("ibert", "classifier")])
def test_a_model_that_embeds_no_tokens_is_refused_and_left_alone(arch, kind):
    model = zoo.model(arch, kind)
    before = [p.requires_grad for p in model.parameters()]
    with pytest.raises(ValueError, match=f"{type(model).__name__} .*add_lora and add_adapters go into its layers$"):
        add_prompt(model)
    assert not wrappers(model) and [p.requires_grad for p in model.parameters()] == before


def test_what_the_words_in_front_of_an_input_are_is_known_or_refused():
    model, texts = add_prompt(a_model("bert", "Model"), N), some_texts()
    ids = texts["input_ids"]
    with pytest.raises(ValueError, match=r"an attention_mask is \(texts, tokens\)"):
        model(ids, attention_mask=torch.ones(2, 1, 7, 7).tril().bool())
    with pytest.raises(ValueError, match="weights has a value for each token, but it is unknown"):
        model(ids, weights=torch.ones(2, 7))
    with pytest.raises(ValueError, match=r"input_ids; given: inputs_embeds\. Give the texts as tokens"):
        model(inputs_embeds=torch.zeros(1, 3, 32))
    for n in (0, -1, 2.5, "3", True):
        with pytest.raises(ValueError, match="num_virtual_tokens must be at least 1; given:"):
            add_prompt(a_model("bert", "Model"), n)
    with pytest.raises(ValueError, match="model of transformers; given: Linear"):
        add_prompt(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="one word at least"):
        init_prompt(model, [])
    with pytest.raises(ValueError, match="hidden_states of FunnelModel has"):
        add_prompt(transformers.FunnelModel(zoo.config("funnel")), N)(**texts, output_hidden_states=True)


@pytest.mark.parametrize("keep", [2, 9, torch.tensor([0, 3]), torch.tensor([-2])])
def test_logits_to_keep_count_the_text_alone(keep):
    model, texts = disturbed(add_prompt(a_model("llama", "ForCausalLM"), N)), some_texts()
    with torch.no_grad():
        whole, kept = model(**texts).logits, model(**texts, logits_to_keep=keep).logits
    assert_close(kept, whole[:, keep] if isinstance(keep, Tensor) else whole[:, -keep:])


def test_experts_are_reported_for_the_text_alone():
    model = zoo.model("mixtral", "causal_lm")
    inputs = zoo.inputs(model) | {"output_router_logits": True}
    before = [x.shape for x in model(**inputs).router_logits]
    assert [x.shape for x in add_prompt(model, N)(**inputs).router_logits] == before


def test_a_model_of_several_tasks_means_over_the_text():
    model = MultiTaskModel(a_model("bert", "Model"), {"topic": 3}, dropout=0.0).eval()
    texts, vectors = some_texts(), torch.randn(N, 32)
    with torch.no_grad():
        hand = by_hand(copy.deepcopy(model.encoder), vectors, texts, {}).last_hidden_state[:, N:]
        mask = texts["attention_mask"].unsqueeze(-1)
        expected = model.heads["topic"]((hand * mask).sum(1) / mask.sum(1))
        add_prompt(model, N, modules_to_save=[])
        soft_prompt(model).vectors.copy_(vectors)
        assert_close(model("topic", **texts).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("arch", ["bert", "llama", "t5"])
def test_a_prompt_is_exact_beside_a_base_of_half_precision(arch, dtype):
    kind = {"bert": "Model", "llama": "ForCausalLM", "t5": "EncoderModel"}[arch]
    model = add_prompt(a_model(arch, kind).to(dtype), N, modules_to_save=[])
    assert soft_prompt(model).vectors.dtype == torch.float32
    output = model(**some_texts())[0]
    assert output.dtype == dtype
    output.float().square().sum().backward()
    assert soft_prompt(model).vectors.grad.abs().sum() > 0


def test_several_threads_get_the_bits_of_one():
    model = disturbed(add_prompt(a_model("llama", "ForCausalLM"), N))
    texts = [{"input_ids": torch.randint(7, 100, (1, 3 + i % 9))} for i in range(24)]

    def answer(i: int) -> Tensor:
        with torch.no_grad():
            if i % 10:
                return model(**texts[i % 24]).logits
            return model.generate(**texts[i % 24], max_new_tokens=4, do_sample=False, pad_token_id=0)

    alone = [answer(i) for i in range(120)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(answer, [i % 120 for i in range(1000)]))
    assert all(torch.equal(x, alone[i % 120]) for i, x in enumerate(together))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_reads_its_own_prompt(copied):
    model, texts = add_prompt(a_model("bert", "ForMaskedLM"), N), some_texts()
    with torch.no_grad():
        before, plain = model(**texts).logits, a_model("bert", "ForMaskedLM")(**texts).logits
        twin = copied(model)
        assert torch.equal(twin(**texts).logits, before)
        soft_prompt(twin).vectors.mul_(9)
        assert not torch.equal(twin(**texts).logits, before)
        assert torch.equal(model(**texts).logits, before)
        assert torch.equal(eject(twin)(**texts).logits, plain)
        assert torch.equal(model(**texts).logits, before)


@pytest.mark.parametrize("arch", ["bloom", "opt", "mamba", "rwkv", "mpt", "gpt_neox", "roberta"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_verbalizer_gives_a_model_what_it_takes(arch, side):
    if (arch, side) == ("rwkv", "left"):
        pytest.skip("reads its padding")
    lm = a_model(arch, "ForCausalLM", is_decoder=True) if arch == "roberta" else zoo.model(arch, "causal_lm")
    tokenizer = tiny.tiny_tokenizer(padding_side=side)
    texts = ["word1 good word2 word3", "bad"]
    batch = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    words = [tiny.VOCABULARY["bad"], tiny.VOCABULARY["good"]]
    for model in (lm, disturbed(add_prompt(lm, 4))):
        with torch.no_grad():
            together = Verbalizer(model, tokenizer, ["bad", "good"])(**batch).logits
            for row, text in enumerate(texts):
                alone = tokenizer([text], return_tensors="pt", return_token_type_ids=False)
                assert_close(together[row], model(**alone).logits[0, -1, words], rtol=1e-4, atol=1e-5)


def test_the_number_of_virtual_tokens_may_be_numpy_s():
    model = add_prompt(a_model("bert", "Model"), np.int64(N))
    assert type(soft_prompt(model).num_virtual_tokens) is int
