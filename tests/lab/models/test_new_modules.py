"""What nobody has trained yet is found, whatever the model is made of, and learns with every method."""

import pickle
from copy import deepcopy
from functools import partial

import pytest
import tiny
import torch
import transformers
from torch import nn

from finetune_lessons.adapters import add_adapters
from finetune_lessons.lab.models.loading import load_causal_lm, load_encoder
from finetune_lessons.lab.models.new_modules import new_modules
from finetune_lessons.lora import add_lora
from finetune_lessons.multitask import MultiTaskModel
from finetune_lessons.prefix_tuning import add_prefix
from finetune_lessons.prompt_tuning import add_prompt

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
VISION = SMALL | {"image_size": 8, "patch_size": 4}
SOUND = SMALL | {"conv_dim": (8, 8), "conv_kernel": (3, 3), "conv_stride": (2, 2), "num_feat_extract_layers": 2}
SOUND |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8}
SOUND |= {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "apply_spec_augment": False}
WHISPER = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "vocab_size": 40}
WHISPER |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_mel_bins": 4}
WHISPER |= {"max_source_positions": 16, "classifier_proj_size": 8, "pad_token_id": 0, "decoder_start_token_id": 1}
WHISPER |= {"bos_token_id": 1, "eos_token_id": 2}
XLNET = {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}


class OnesOwn(nn.Module):
    "A model of transformers, and in a part of one's own another head."

    def __init__(self):
        super().__init__()
        self.reader = nn.Module()
        self.reader.body = tiny.tiny_model("bert").bert
        self.reader.towers = nn.ModuleList([nn.Linear(32, 4), nn.Sequential(nn.Linear(4, 2), nn.Tanh())])
        self.empty, self.out = nn.Dropout(), nn.Linear(2, 2)


def of(name: str, arch: str = "bert", **config):
    "A random model of this class of transformers, in the shape of a tiny one."
    return getattr(transformers, name)(tiny.tiny_model(arch, **config).config)


def made(name: str, config=None):
    kind = getattr(transformers, name)
    return kind(kind.config_class(**config or {}))


CLIP = {"text_config": SMALL | {"vocab_size": 40}, "vision_config": VISION, "projection_dim": 8}
FOUND = {
    "classifier": (lambda: tiny.tiny_model("bert"), ["classifier"]),
    "head of two layers": (lambda: tiny.tiny_model("distilbert"), ["pre_classifier", "classifier"]),
    "decoder that classifies": (lambda: tiny.tiny_model("llama"), ["score"]),
    "encoder-decoder that classifies": (lambda: tiny.tiny_model("bart"), ["classification_head"]),
    "question answering, T5": (lambda: of("T5ForQuestionAnswering", "t5"), ["qa_outputs"]),
    "question answering, XLNet": (
        lambda: made("XLNetForQuestionAnswering", XLNET),
        ["start_logits", "end_logits", "answer_class"],
    ),
    "token classes, T5": (lambda: of("T5ForTokenClassification", "t5"), ["classifier"]),
    "sound, Whisper": (lambda: made("WhisperForAudioClassification", WHISPER), ["projector", "classifier"]),
    "sound, wav2vec2": (lambda: made("Wav2Vec2ForSequenceClassification", SOUND), ["projector", "classifier"]),
    "images, CLIP": (lambda: made("CLIPForImageClassification", CLIP), ["classifier"]),
    "images, ViT": (lambda: made("ViTForImageClassification", VISION), ["classifier"]),
    "second head beside a language model": (lambda: of("GPT2DoubleHeadsModel", "gpt2"), ["multiple_choice_head"]),
    "several tasks": (
        lambda: MultiTaskModel(tiny.tiny_model("bert"), {"mood": 2, "length": 1}),
        ["heads.mood", "heads.length"],
    ),
    "several tasks, T5": (lambda: MultiTaskModel(tiny.tiny_model("t5"), {"mood": 2}), ["heads.mood"]),
    "one's own": (OnesOwn, ["out", "reader.towers.0", "reader.towers.1"]),
    "one's own around a classifier": (
        lambda: nn.ModuleDict({"net": tiny.tiny_model("bert"), "out": nn.Linear(2, 2)}),
        ["out", "net.classifier"],
    ),
}
NONE = {
    "body": lambda: tiny.tiny_model("bert").bert,
    "encoder of an encoder-decoder": lambda: tiny.tiny_model("t5", "seq2seq").get_encoder(),
    "decoder": lambda: tiny.tiny_model("gpt2", "causal_lm"),
    "T5": lambda: tiny.tiny_model("t5", "seq2seq"),
    "BART": lambda: tiny.tiny_model("bart", "seq2seq"),
    "masked words": lambda: tiny.tiny_model("bert", "masked_lm"),
    "masked words, in several modules": lambda: tiny.tiny_model("distilbert", "masked_lm"),
    "masked words, in two modules": lambda: tiny.tiny_model("electra", "masked_lm"),
    "masked words and the next sentence": lambda: of("BertForPreTraining"),
    "both towers of CLIP": lambda: made("CLIPModel", CLIP),
    "tower with its projection": lambda: made("CLIPVisionModelWithProjection", VISION),
    "no model of transformers": lambda: nn.Sequential(nn.Linear(2, 2)),
}


@pytest.mark.parametrize("kind", FOUND)
def test_what_stands_beside_the_pretrained_body_is_new(kind):
    make, expected = FOUND[kind]
    model = make()
    assert new_modules(model) == expected
    assert [path for path in expected if next(model.get_submodule(path).parameters(), None) is None] == []


@pytest.mark.parametrize("kind", NONE)
def test_what_is_pretrained_is_not_new(kind):
    assert new_modules(NONE[kind]()) == []


# what the checkpoint lacked


def saved(model, folder):
    model.save_pretrained(folder)
    tiny.tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_pooler_that_the_checkpoint_lacked_is_new_and_one_that_it_had_is_not(tmp_path):
    lacking, _ = load_encoder(saved(tiny.tiny_model("bert", "masked_lm"), tmp_path / "lacking"))
    having, _ = load_encoder(saved(tiny.tiny_model("bert").bert, tmp_path / "having"))
    again, _ = load_encoder(saved(tiny.tiny_model("bert"), tmp_path / "classifier"))
    assert new_modules(lacking) == ["bert.pooler", "classifier"]
    assert new_modules(having) == new_modules(again) == ["classifier"]
    for copy in (deepcopy(lacking), pickle.loads(pickle.dumps(lacking))):
        assert new_modules(copy) == ["bert.pooler", "classifier"]


def test_a_new_head_in_the_place_of_a_saved_one_is_new(tmp_path):
    folder = saved(tiny.tiny_model("roberta", num_labels=3), tmp_path)
    assert new_modules(load_encoder(folder, num_labels=2, new_head=True)[0]) == ["classifier"]
    assert new_modules(load_encoder(folder, num_labels=3, new_head=True)[0]) == ["classifier"]


def test_nothing_of_a_loaded_language_model_is_new(tmp_path):
    assert new_modules(load_causal_lm(saved(tiny.tiny_model("llama", "causal_lm"), tmp_path))[0]) == []


def test_tasks_on_an_encoder_without_a_pooler_have_their_heads_alone_as_new(tmp_path):
    encoder, _ = load_encoder(saved(tiny.tiny_model("bert", "masked_lm"), tmp_path))
    assert new_modules(MultiTaskModel(encoder, {"mood": 2})) == ["heads.mood"]


# several tasks


@pytest.mark.parametrize("arch", tiny.EVERY)
def test_several_tasks_can_be_tried_on_made_up_inputs(arch):
    model = MultiTaskModel(tiny.tiny_model(arch), {"mood": 3, "length": 1})
    assert model(**model.dummy_inputs).logits.shape[1] == 3
    assert model.base_model is model.encoder


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_heads_of_several_tasks_read_an_encoder_in_half_precision(dtype):
    model = MultiTaskModel(tiny.tiny_model("bert").to(dtype), {"mood": 2})
    logits = model(**model.dummy_inputs).logits
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert model.heads.mood.weight.grad.abs().sum() > 0


# every method trains them

METHODS = {
    "LoRA": partial(add_lora, r=2),
    "adapters": partial(add_adapters, bottleneck_size=4),
    "prefix": partial(add_prefix, num_virtual_tokens=2),
    "prompt": partial(add_prompt, num_virtual_tokens=2),
}
WITHOUT = {  # methods that do not serve this kind
    "question answering, XLNet": {"LoRA", "adapters", "prefix"},
    "sound, Whisper": {"prefix", "prompt"},
    "sound, wav2vec2": {"adapters", "prefix", "prompt"},
    "images, CLIP": {"prefix", "prompt"},
    "images, ViT": {"adapters", "prefix", "prompt"},
    "token classes, T5": {"prompt"},
    "several tasks": {"prompt"},
    "several tasks, T5": {"prompt"},
}
TRAINED = [(k, m) for k in FOUND if "one's own" not in k for m in METHODS if m not in WITHOUT.get(k, ())]


def batches(model) -> list[dict]:
    "What the model reads; of several tasks a batch for each."
    if isinstance(model, MultiTaskModel):
        return [model.dummy_inputs | {"task": task} for task in model.num_labels]
    shapes = {"input_features": (2, 4, 32), "input_values": (2, 64), "pixel_values": (2, 3, 8, 8)}
    if model.main_input_name in shapes:
        return [{model.main_input_name: torch.randn(shapes[model.main_input_name])}]
    ids = torch.tensor([[7, 9, 8, tiny.VOCABULARY["[SEP]"]], [11, 10, 12, tiny.VOCABULARY["[SEP]"]]])
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}]


@pytest.mark.parametrize(("kind", "method"), TRAINED)
def test_every_method_trains_what_is_new(kind, method):
    make, expected = FOUND[kind]
    model = METHODS[method](make())
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    for batch in batches(model):
        outputs = [x for x in model(**batch).values() if torch.is_tensor(x) and x.requires_grad]
        sum(x.float().square().sum() for x in outputs).backward()
    torch.optim.SGD(trained.values(), lr=0.1).step()
    for path in expected:
        moved = [
            name for name in trained if name.startswith(f"{path}.") and not torch.equal(trained[name], before[name])
        ]
        assert len(moved) == len(list(make().get_submodule(path).parameters())), path
