"""Tiny models with random weights, and texts that they can learn: seconds, and no network."""

import math
import random
from functools import cache

import torch
import transformers
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn.functional import cross_entropy

from finetune_lessons.lab.training.batches import model_inputs
from finetune_lessons.lab.training.run import Run
from finetune_lessons.lab.training.tokenising import tokenize

ENCODERS = ("bert", "distilbert", "roberta", "electra")
DECODERS = ("gpt2", "opt", "llama", "qwen2")
ARCHITECTURES = (*ENCODERS, *DECODERS, "t5")
ENCODER_DECODERS = ("t5", "bart")
EVERY = (*ENCODERS, "modernbert", *DECODERS, *ENCODER_DECODERS)  # that the methods are tested on

GOOD = "good great fine lovely brilliant warm clever moving".split()
BAD = "bad awful poor dull clumsy cold stupid boring".split()
PLAIN = [f"word{i}" for i in range(80)]
SPECIAL = {
    "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
    "mask_token": "[MASK]", "bos_token": "[BOS]", "eos_token": "[EOS]",
}  # fmt: skip
VOCABULARY = {token: i for i, token in enumerate([*SPECIAL.values(), *GOOD, *BAD, *PLAIN])}

BASE = {"vocab_size": len(VOCABULARY), "pad_token_id": 0, "bos_token_id": 5, "eos_token_id": 6}
SPREAD = {"initializer_range": 0.2}  # at the usual 0.02 a model this narrow learns nothing for many steps
WIDE = SPREAD | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SHAPES = {
    "bert": ("Bert", WIDE | {"max_position_embeddings": 64}),
    "distilbert": (
        "DistilBert",
        SPREAD | {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64},
    ),
    "roberta": ("Roberta", WIDE | {"max_position_embeddings": 64}),
    "electra": ("Electra", WIDE | {"embedding_size": 32, "max_position_embeddings": 64}),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "opt": (
        "OPT",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64, "word_embed_proj_dim": 32,
         "max_position_embeddings": 64},
    ),
    "llama": ("Llama", WIDE | {"num_key_value_heads": 2, "max_position_embeddings": 64}),
    "qwen2": ("Qwen2", WIDE | {"num_key_value_heads": 2, "max_position_embeddings": 64}),
    "t5": (
        "T5",
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0,
         "eos_token_id": VOCABULARY["[SEP]"]},
    ),
    "modernbert": ("ModernBert", WIDE | {"max_position_embeddings": 64, "cls_token_id": 2, "sep_token_id": 3}),
    "bart": (
        "Bart",
        {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "init_std": 0.2,
         "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
         "decoder_start_token_id": VOCABULARY["[SEP]"], "eos_token_id": VOCABULARY["[SEP]"]},
    ),
}  # fmt: skip
NO_DROPOUT = {
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "roberta": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "electra": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "distilbert": ("dropout", "attention_dropout", "seq_classif_dropout"),
    "gpt2": ("embd_pdrop", "attn_pdrop", "resid_pdrop"),
    "opt": ("dropout", "attention_dropout"),
    "llama": ("attention_dropout",),
    "qwen2": ("attention_dropout",),
    "t5": ("dropout_rate", "classifier_dropout"),
    "modernbert": ("embedding_dropout", "mlp_dropout", "attention_dropout", "classifier_dropout"),
    "bart": ("dropout", "attention_dropout", "activation_dropout", "classifier_dropout"),
}


def tiny_model(arch: str, kind: str = "classifier", *, dropout: bool = True, seed: int = 0, **config):
    """A random model of two layers: `kind` is classifier, causal_lm, masked_lm or seq2seq."""
    name, shape = SHAPES[arch]
    if not dropout:
        config = dict.fromkeys(NO_DROPOUT[arch], 0.0) | config
    if kind == "classifier":
        config = {"num_labels": 2} | config
    head = {
        "classifier": "ForSequenceClassification",
        "causal_lm": "LMHeadModel" if arch in ("gpt2", "bert") else "ForCausalLM",
        "masked_lm": "ForMaskedLM",
        "seq2seq": "ForConditionalGeneration",
    }[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return getattr(transformers, name + head)(getattr(transformers, f"{name}Config")(**BASE | shape | config))


def tiny_tokenizer(padding_side: str = "right", model_max_length: int = 64):
    """One token a word, `[CLS] ... [SEP]` around them."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(SPECIAL[name], VOCABULARY[SPECIAL[name]]) for name in ("cls_token", "sep_token")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side=padding_side, model_max_length=model_max_length, **SPECIAL
    )


def tiny_rows(n: int, seed: int = 0) -> dict[str, list]:
    """Texts of 3 to 20 words: the label says whether the telling words among them are good or bad."""
    rng = random.Random(seed)
    rows: dict[str, list] = {"text": [], "label": []}
    for i in range(n):
        words = rng.choices(PLAIN, k=rng.randint(1, 14)) + rng.choices((BAD, GOOD)[i % 2], k=rng.randint(2, 6))
        rng.shuffle(words)
        rows["text"].append(" ".join(words))
        rows["label"].append(i % 2)
    return rows


def tiny_data(train: int = 64, validation: int = 16, test: int = 21) -> DatasetDict:
    sizes = {"train": train, "validation": validation, "test": test}
    features = Features({"text": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    splits = {name: Dataset.from_dict(tiny_rows(n, seed), features) for seed, (name, n) in enumerate(sizes.items())}
    return DatasetDict({name: split for name, split in splits.items() if len(split)})


@cache
def tiny_tokens(train: int = 64, validation: int = 16, test: int = 21) -> DatasetDict:
    return tokenize(tiny_data(train, validation, test), tiny_tokenizer())


def tiny_language_data(train: int = 24, validation: int = 10) -> DatasetDict:
    """Token sequences of 3 to 20, already tokenised; the labels leave out a prompt of random length."""

    def rows(n: int, seed: int) -> dict[str, list]:
        rng = random.Random(seed)
        ids = [[rng.randrange(7, len(VOCABULARY)) for _ in range(rng.randint(3, 20))] for _ in range(n)]
        labels = [[-100] * (cut := rng.randint(0, len(row) - 2)) + row[cut:] for row in ids]
        return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], "labels": labels}

    return DatasetDict(
        {"train": Dataset.from_dict(rows(train, 0)), "validation": Dataset.from_dict(rows(validation, 1))}
    )


def classification(model, batch):
    return cross_entropy(model(**model_inputs(batch)).logits, batch["labels"])


def language_model(model, batch):
    return model(**model_inputs(batch), labels=batch["labels"]).loss


def tiny_run(model=None, data=None, **settings) -> Run:
    """A run of a classifier: 64 examples in 8 steps an epoch, in fp32 and without evaluation unless told."""
    settings = {"loss": classification, "lr": 3e-3, "epochs": 2, "batch_size": 8} | settings
    settings = {"precision": "fp32", "eval_every": 0} | settings
    tokenizer = settings.pop("tokenizer", None) or tiny_tokenizer()
    return Run(tiny_model("bert") if model is None else model, tokenizer, data or tiny_tokens(), **settings)


def run_with_running_means(broken_at: int) -> Run:
    "A run of a model with a batch normalisation, whose loss is no number in one step."

    class Normed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert, self.norm = tiny_model("bert"), torch.nn.BatchNorm1d(2)

        def forward(self, **inputs):
            return self.norm(self.bert(**inputs).logits)

    def loss(model, batch):
        value = cross_entropy(model(**model_inputs(batch)), batch["labels"])
        return value * math.nan if run.index == broken_at else value

    run = tiny_run(Normed(), loss=loss)
    return run


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name].cpu(), b[name].cpu()) for name in a)
