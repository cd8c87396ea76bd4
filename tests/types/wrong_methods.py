"""What a user gets wrong of the methods, and a strict type checker finds: each line that is marked; it is never run."""

from transformers import BertForSequenceClassification

from finetune_lessons.adapters import add_adapters
from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import eject, load_method, save_method
from finetune_lessons.prefix_tuning import add_prefix
from finetune_lessons.prompt_tuning import add_prompt

bert = BertForSequenceClassification.from_pretrained("folder")
add_lora(bert, rank=3)  # wrong
add_lora(bert, r="8")  # wrong
add_lora("bert")  # wrong
add_adapters(bert, placement=3)  # wrong
add_adapters(bert, bottleneck=16)  # wrong
add_prefix(bert, tokens=5)  # wrong
add_prompt(bert, num_virtual_tokens="5")  # wrong
add_lora(bert).no_such_method()  # wrong
save_method(bert)  # wrong
load_method(bert, 3)  # wrong
eject(bert, merge="yes")  # wrong
