"""What a user writes, and a strict type checker accepts; it is read, never run."""

from collections.abc import Mapping
from typing import assert_type

import torch
from torch import Tensor
from transformers import BertForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from finetune_lessons.cross_entropy import classification_loss, cross_entropy
from finetune_lessons.lab import (
    NonFiniteLoss,
    Run,
    Step,
    early_stopping,
    generate,
    load_causal_lm,
    load_data,
    load_encoder,
    predict,
    read_csv,
    save_model,
    trim_vocabulary,
)
from finetune_lessons.multitask import MultiTask, MultiTaskModel, UncertaintyWeighting, regression_loss

model, tokenizer = load_encoder("minilm", num_labels=2, seed=0)
assert_type(model, PreTrainedModel)
assert_type(tokenizer, PreTrainedTokenizerBase)
assert_type(trim_vocabulary(model, tokenizer, ["a film"]), tuple[PreTrainedModel, PreTrainedTokenizerBase])
data = load_data("movies", n_train=2000, seed=0)


def loss_of_my_own(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    return cross_entropy(torch.zeros(2, 2), batch["labels"], label_smoothing=0.1)


run = Run(model, tokenizer, data, loss=classification_loss, lr=1e-4, epochs=2, keep_best="accuracy")
Run(model, tokenizer, data, loss=loss_of_my_own, optimizer=torch.optim.SGD, precision="bf16", eval_every=0)
Run(model, tokenizer, read_csv("reviews.csv"), loss=classification_loss)
try:
    for step in run:
        assert_type(step, Step)
        assert_type(step.loss, float)
except NonFiniteLoss as error:
    print(error)
for step in early_stopping(run, patience=2, metric="accuracy"):
    print(step.metrics["accuracy"], run.history)
assert_type(run.finish(), Run)
assert_type(run.evaluate("test"), dict[str, float])
run.predict(["a fine film"])
run.save("run.safetensors")
assert_type(Run.resume("run.safetensors", model, tokenizer, data, loss=classification_loss), Run)
save_model(model, tokenizer, "folder")
predict(model, tokenizer, ["a fine film"], batch_size=8)

decoder, its_tokenizer = load_causal_lm()
generate(decoder, its_tokenizer, "The capital of France is", max_new_tokens=8, do_sample=True)

tasks = MultiTaskModel(BertForSequenceClassification.from_pretrained("folder"), {"topic": 5, "mood": 1})
losses = {"topic": classification_loss, "mood": regression_loss}
MultiTask(losses, UncertaintyWeighting(losses, regressions=["mood"]))
tasks(**tasks.dummy_inputs)
