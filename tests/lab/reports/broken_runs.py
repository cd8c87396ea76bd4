"""Runs that cannot learn, each for one reason, and runs that can."""

import random

import torch
from datasets import Dataset, DatasetDict
from tiny import (
    BAD,
    GOOD,
    PLAIN,
    classification,
    language_model,
    tiny_data,
    tiny_language_data,
    tiny_model,
    tiny_rows,
    tiny_run,
    tiny_tokenizer,
)  # fmt: skip
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from finetune_lessons.adapters import add_adapters
from finetune_lessons.cross_entropy import language_model_loss, multi_label_loss
from finetune_lessons.distillation import Distillation
from finetune_lessons.lab.training.batches import model_inputs
from finetune_lessons.lab.training.tokenising import tokenize
from finetune_lessons.lora import add_lora
from finetune_lessons.multitask import MultiTask, MultiTaskModel, regression_loss
from finetune_lessons.prefix_tuning import add_prefix
from finetune_lessons.prompt_tuning import add_prompt


def of(rows: dict, **columns) -> DatasetDict:
    "Training data alone."
    return DatasetDict(train=Dataset.from_dict(rows | columns))


def frozen_after_all():
    run = tiny_run()
    run.model.requires_grad_(False)
    return run


def other_optimizer():
    return tiny_run(optimizer=lambda groups, lr: torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr))


def trained(run):
    for _ in run:
        pass
    return run


def constant_labels():
    return tiny_run(data=of(tiny_rows(64), label=[1] * 64))


def shuffled_labels():
    rows = tiny_rows(200)
    return tiny_run(data=of(rows, label=random.Random(3).sample(rows["label"], 200)), epochs=4)


def cut_away():
    "The telling words come last."
    rng, rows = random.Random(0), {"text": [], "label": []}
    for i in range(120):
        words = rng.choices(PLAIN, k=20) + rng.choices((BAD, GOOD)[i % 2], k=4)
        rows["text"].append(" ".join(words))
        rows["label"].append(i % 2)
    return tiny_run(data=tokenize(of(rows), tiny_tokenizer(), 12), epochs=4)


def frozen_head():
    run = tiny_run()
    run.model.classifier.requires_grad_(False)
    return run


def prompt_fills_all():
    data = tiny_language_data()
    masked = data.map(lambda row: {"labels": [-100] * len(row["input_ids"])})
    return tiny_run(tiny_model("gpt2", "causal_lm"), masked, loss=language_model)


def flat(model, batch):
    logits = model(**model_inputs(batch)).logits
    return (logits - logits.detach()).sum() + cross_entropy(logits.detach(), batch["labels"])


def no_slope(model, batch):
    return flat(model, batch) * 0 + 0.7


def in_training_mode(model, batch):
    model.train()
    return classification(model, batch)


def softmax_twice(model, batch):
    return cross_entropy(model(**model_inputs(batch)).logits.softmax(-1), batch["labels"])


def unknown_words():
    texts = ["совсем другой язык " * (1 + i % 3) for i in range(64)]
    return tiny_run(data=of(tiny_rows(64), text=texts), epochs=4)


def hidden_texts():
    data = tokenize(tiny_data(64, 0, 0), tiny_tokenizer())
    return tiny_run(data=data.map(lambda row: {"attention_mask": [1] + [0] * (len(row["input_ids"]) - 1)}))


def broken_weights():
    run = tiny_run()
    with torch.no_grad():
        run.model.bert.pooler.dense.weight[0, 0] = torch.nan
    return run


def not_a_number(model, batch):
    return classification(model, batch).sub(10).log()


def by_heart():
    "What is learnt of the training texts is wrong of the others."
    data = tiny_data(64, 64, 0)
    data["validation"] = data["validation"].map(lambda row: {"label": 1 - row["label"]})
    return trained(tiny_run(data=data, epochs=6, eval_every=8))


def rare_class():
    return tiny_run(data=of(tiny_rows(200), label=[int(i == 7) for i in range(200)]), epochs=1)


BROKEN = {
    "Nothing is trained": frozen_after_all,
    "The optimizer does not hold": other_optimizer,
    "The learning rate is too low": lambda: tiny_run(lr=1e-7),
    "The learning rate is too low, trained": lambda: trained(tiny_run(lr=1e-7)),
    "The learning rate is too high": lambda: tiny_run(lr=3.0),
    "The learning rate is too high, trained": lambda: trained(tiny_run(lr=3.0, epochs=4)),
    "The learning rate is too high, collapsed": lambda: trained(tiny_run(lr=0.3, epochs=4)),
    "The learning rate is too low, LoRA": lambda: tiny_run(add_lora(tiny_model("bert"), r=4), lr=1e-6),
    "The labels are all the same": constant_labels,
    "The labels have nothing to do with the texts": shuffled_labels,
    "What decides is cut away": cut_away,
    "The head is frozen": frozen_head,
    "The answers are masked away": prompt_fills_all,
    "No gradient arrives": lambda: tiny_run(loss=no_slope),
    "The gradient is clipped to nothing": lambda: tiny_run(max_grad_norm=1e-9),
    "Dropout is active in evaluation": lambda: tiny_run(loss=in_training_mode, epochs=4),
    "Dropout leaves too little": lambda: tiny_run(tiny_model("bert", hidden_dropout_prob=0.95), epochs=1),
    "The loss takes the softmax twice": lambda: tiny_run(loss=softmax_twice, epochs=6),
    "The tokenizer does not know the words": unknown_words,
    "The attention mask hides the texts": hidden_texts,
    "The learning rate is zero in every step": lambda: tiny_run(epochs=0.1, warmup=1.0),
    "The learning rate is zero": lambda: tiny_run(optimizer=lambda groups, lr: torch.optim.AdamW(groups, lr=0.0)),
    "Weight decay shrinks the weights": lambda: tiny_run(weight_decay=50.0),
    "There are too few steps": lambda: tiny_run(epochs=0.1),
    "The loss is at its floor": lambda: tiny_run(trained(tiny_run(epochs=12)).model, lr=1e-5),
    "Nearly all labels are the same": rare_class,
    "The loss falls, and the validation does not follow": by_heart,
    "The weights are broken": broken_weights,
    "The loss is no finite number": lambda: tiny_run(loss=not_a_number),
}  # fmt: skip


# runs that learn


def mse(model, batch):
    return mse_loss(model(**model_inputs(batch)).logits.squeeze(-1), batch["labels"])


def regression():
    rows = tiny_rows(64)
    data = of(rows, label=[2.0 * y - 1 for y in rows["label"]])
    return tiny_run(tiny_model("distilbert", num_labels=1), data, loss=mse)


def several_labels():
    rows = tiny_rows(64)
    labels = [[float(y), float("word1 " in text), 1.0 - y] for text, y in zip(*rows.values(), strict=True)]
    model = tiny_model("roberta", num_labels=3, problem_type="multi_label_classification")
    return tiny_run(model, of(rows, label=labels), loss=multi_label_loss, epochs=4)


def frozen_body():
    model = tiny_model("electra")
    model.electra.requires_grad_(False)
    return tiny_run(model, lr=3e-2, epochs=8)


def two_tasks(weighting=None, **settings):
    encoder, rows = tiny_model("bert").bert, tiny_rows(48)
    tasks = {"tone": of(rows), "size": of(rows, label=[float(len(text)) / 50 for text in rows["text"]])}
    loss = MultiTask({"tone": classification, "size": regression_loss}, weighting)
    return tiny_run(MultiTaskModel(encoder, {"tone": 2, "size": 1}), tasks, loss=loss, epochs=4, **settings)


def unlabelled(temperature=2.0):
    rows = tiny_rows(64)
    data = of(rows, label=[y if i < 16 else -100 for i, y in enumerate(rows["label"])])
    data["train"] = data["train"].add_column("teacher_logits", [[2.0 * (1 - y), 2.0 * y] for y in rows["label"]])
    return tiny_run(data=data, loss=Distillation(temperature=temperature, alpha=0.5), epochs=4)


def stars():
    rows = tiny_rows(90)
    return tiny_run(tiny_model("bert", num_labels=5), of(rows, label=[2 * y for y in rows["label"]]), epochs=4)


def seldom():
    rows, kept = tiny_rows(120), [i for i in range(120) if i % 2 == 0 or i % 8 == 1]
    return tiny_run(data=of({name: [values[i] for i in kept] for name, values in rows.items()}), epochs=4)


def writer(arch, kind="causal_lm", **settings):
    return tiny_run(tiny_model(arch, kind), tiny_language_data(), **{"loss": language_model, "epochs": 8} | settings)


def momentum(groups, lr):
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)


HEALTHY = {
    "bert": lambda: tiny_run(),
    "bert, trained": lambda: trained(tiny_run(epochs=6)),
    "gpt2 classifies": lambda: tiny_run(tiny_model("gpt2"), epochs=6),
    "llama writes": lambda: writer("llama", loss=language_model_loss),
    "qwen2 writes, with prompts": lambda: writer("qwen2"),
    "t5": lambda: writer("t5", "seq2seq", lr=1e-2),
    "regression": regression,
    "several labels a text": several_labels,
    "few texts": lambda: tiny_run(data=of(tiny_rows(12)), batch_size=4, epochs=8),
    "frozen body": frozen_body,
    "LoRA": lambda: tiny_run(add_lora(tiny_model("bert"), r=4), lr=1e-2, epochs=6),
    "adapters": lambda: tiny_run(add_adapters(tiny_model("opt"), bottleneck_size=8), lr=1e-2, epochs=6),
    "prefix": lambda: tiny_run(add_prefix(tiny_model("bert"), 4), lr=3e-2, epochs=8),
    "prompt": lambda: tiny_run(add_prompt(tiny_model("bert"), 4), lr=3e-2, epochs=8),
    "two tasks": two_tasks,
    "most texts without a label": unlabelled,
    "fewer classes than outputs": stars,
    "one class in five": seldom,
    "SGD": lambda: tiny_run(optimizer=momentum, lr=3e-2, epochs=6),
    "a low rate for long": lambda: tiny_run(lr=1e-4, epochs=60),
    "a gradient that is clipped in every step": lambda: tiny_run(max_grad_norm=0.01, epochs=6),
    "labels that say little, already validated": lambda: tiny_run(epochs=4, eval_every=8),
}  # fmt: skip
