"""With which token, and on which side, texts are padded."""

from typing import TYPE_CHECKING

from torch import nn

from finetune_lessons.lab.models.inputs import unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def padding_side(model: nn.Module) -> str:
    """Where padding changes nothing that the model says of a text: behind it, whatever the tokenizer's habit.

    In front it would move the text to other positions, and a language model would name its first token after padding.
    Only who reads the answer off the end of the row, as XLNet does, needs the end to be the text's.
    """
    config = getattr(unwrapped(model), "config", None)
    return "left" if getattr(config, "summary_type", None) == "last" else "right"


def align_padding(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Let both name the same padding token, in place: the tokenizer's, or, if it has none, the model's or the end.

    A decoder that classifies looks for the last token that is no padding, so it must know what the tokenizer pads with.
    A model that counts its positions from the number of its padding token keeps that, and the tokenizer follows.
    Raises ValueError for a tokenizer that has neither a padding token nor an end.
    """
    of_model = _token(model.config.get_text_config().pad_token_id, tokenizer)
    if of_model is not None and (tokenizer.pad_token is None or _counts_from_padding(model)):
        tokenizer.pad_token = of_model
    elif tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise ValueError(
            "the tokenizer has neither a padding token nor an end of text: give it one that its vocabulary has, "
            "tokenizer.pad_token = '...', and save it beside the model"
        )
    elif tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    for config in (model.config, model.config.get_text_config(), getattr(model, "generation_config", None)):
        if config is not None:
            config.pad_token_id = tokenizer.pad_token_id


def _token(number: int | None, tokenizer: "PreTrainedTokenizerBase") -> str | None:
    "None for a number that the tokenizer does not have, such as the -1 of some configurations."
    if number is None or not 0 <= number < len(tokenizer):
        return None
    return str(tokenizer.convert_ids_to_tokens(number))


def _counts_from_padding(model: nn.Module) -> bool:
    "As RoBERTa does. Embeddings have a `padding_idx` too, but it only keeps one of their rows at zero."
    modules = (module for module in model.modules() if not isinstance(module, nn.Embedding))
    return any(isinstance(getattr(module, "padding_idx", None), int) for module in modules)
