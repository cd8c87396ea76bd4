"""What a user gets wrong, and a strict type checker finds: each line that is marked, and no other; it is never run."""

import finetune_lessons.lab
from finetune_lessons.cross_entropy import classification_loss, cross_entropy
from finetune_lessons.lab import Run, generate, load_data, load_encoder, predict, save_model
from finetune_lessons.multitask import MultiTaskModel, UncertaintyWeighting

finetune_lessons.lab.Runs()  # wrong
model, tokenizer = load_encoder("minilm", num_labels="2")  # wrong
load_encoder("minilm", labels=2)  # wrong
data = load_data("movies")
Run(model, tokenizer, data, loss=3)  # wrong
Run(model, tokenizer, data, classification_loss)  # wrong
Run(model, tokenizer, data)  # wrong
Run(model, tokenizer, data, loss=classification_loss, rate=1e-4)  # wrong
Run(model, tokenizer, data, loss=classification_loss, epochs="2")  # wrong
Run(model, None, data, loss=classification_loss)  # wrong
run = Run(model, tokenizer, data, loss=classification_loss)
run.predicted("test")  # wrong
run.evaluate(split=3)  # wrong
for step in run:
    print(step.losses)  # wrong
predict(tokenizer, model, ["a fine film"])  # wrong
generate(model, tokenizer, "The capital", max_new_tokens="8")  # wrong
save_model(model, "folder")  # wrong
cross_entropy([0.5], [1])  # wrong
MultiTaskModel(model, ["topic"])  # wrong
UncertaintyWeighting(3)  # wrong
