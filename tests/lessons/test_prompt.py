"""A soft prompt is in front of the text, and nobody but the model notices: outputs, labels, masks, types, refusals."""

import copy
import inspect

import pytest
import tiny
import torch
import transformers
from test_methods import disturbed
from torch import Tensor
from torch.testing import assert_close

from finetune_lessons.prompt_tuning import add_prompt, soft_prompt

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
