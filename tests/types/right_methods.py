"""What a user does with the methods, and a strict type checker accepts; it is read, never run."""

from typing import assert_type

from transformers import BertForSequenceClassification

from finetune_lessons.adapters import add_adapters
from finetune_lessons.lora import add_lora, merge_lora
from finetune_lessons.model_surgery import activate, disable, eject, load_method, save_method
from finetune_lessons.prefix_tuning import add_prefix
from finetune_lessons.prompt_tuning import add_prompt

bert = BertForSequenceClassification.from_pretrained("folder")
assert_type(add_lora(bert, r=8, lora_alpha=16, target_modules=["query", "value"]), BertForSequenceClassification)
assert_type(add_lora(bert, target_modules="all-linear", name="films"), BertForSequenceClassification)
assert_type(add_adapters(bert, bottleneck_size=16, placement="pfeiffer"), BertForSequenceClassification)
assert_type(add_prefix(bert, num_virtual_tokens=5), BertForSequenceClassification)
assert_type(add_prompt(bert, num_virtual_tokens=5), BertForSequenceClassification)
save_method(bert, "folder", "films")
load_method(bert, "folder", name="shops")
activate(bert, "films", "shops")
activate(bert, {"films": 0.7, "shops": 0.3})
with disable(bert, "films") as without:
    without.train(False)
merge_lora(bert)
eject(bert, merge=True)
