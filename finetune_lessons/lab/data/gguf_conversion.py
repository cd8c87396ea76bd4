"""SmolLM2 as its package holds it, a GGUF file, turned into the files that transformers loads."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_lessons.lab.data.weights import save_in_halves

if TYPE_CHECKING:
    import torch
    from gguf import GGUFReader
    from transformers import LlamaConfig


def convert_smollm2(
    folder: Path,  # holds model.gguf
) -> None:
    """Replace `model.gguf` by the weights (safetensors, float16), configuration and tokenizer made from it."""
    print("smollm2: turning the GGUF file into safetensors, once.")
    from gguf import GGUFReader

    reader = GGUFReader(folder / "model.gguf")
    facts = {name: field.contents() for name, field in reader.fields.items()}
    _save_llama(reader, facts, folder)
    _save_gpt2_tokenizer(facts, folder)
    del reader  # it maps the file into memory
    (folder / "model.gguf").unlink()


def _save_llama(reader: "GGUFReader", facts: dict[str, Any], folder: Path) -> None:
    """Write the dequantised weights, config.json and generation_config.json."""
    import torch
    from gguf import MODEL_ARCH, dequantize, get_tensor_name_map
    from transformers import GenerationConfig, LlamaForCausalLM

    config = _llama_config(facts)
    with torch.device("meta"):
        names = [name for name, _ in LlamaForCausalLM(config).named_parameters()]  # lists tied weights once
    tensors: dict[str | None, Any] = {t.name: t for t in reader.tensors}
    gguf_names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    weights = {}
    for name in names:
        tensor = tensors[gguf_names.get_name(name, try_suffixes=(".weight",))]
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        weights[name] = _uninterleaved(name, weight, config)
    save_in_halves(weights, config, folder)
    tokens = {role: getattr(config, role) for role in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GenerationConfig(**tokens).save_pretrained(folder)


def _uninterleaved(name: str, weight: "torch.Tensor", config: "LlamaConfig") -> "torch.Tensor":
    """Undo GGUF's order of the query and key rows, which interleaves the two halves of each head."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = next((heads[part] for part in name.split(".") if part in heads), None)
    if count is None:
        return weight
    return weight.reshape(count, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _llama_config(facts: dict[str, Any]) -> "LlamaConfig":
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=facts["llama.vocab_size"],
        hidden_size=facts["llama.embedding_length"],
        intermediate_size=facts["llama.feed_forward_length"],
        num_hidden_layers=facts["llama.block_count"],
        num_attention_heads=facts["llama.attention.head_count"],
        num_key_value_heads=facts["llama.attention.head_count_kv"],
        max_position_embeddings=facts["llama.context_length"],
        rms_norm_eps=round(facts["llama.attention.layer_norm_rms_epsilon"], 9),  # float32's 9.99999975e-06
        rope_parameters={"rope_type": "default", "rope_theta": facts["llama.rope.freq_base"]},
        bos_token_id=facts["tokenizer.ggml.bos_token_id"],
        eos_token_id=facts["tokenizer.ggml.eos_token_id"],
        pad_token_id=facts["tokenizer.ggml.padding_token_id"],
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )


def _save_gpt2_tokenizer(facts: dict[str, Any], folder: Path) -> None:
    """Write the byte-level BPE tokenizer; like the original it splits numbers into single digits first."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    bpe = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    control = [word for word, kind in zip(words, facts["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    bpe.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in control])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=words[facts["tokenizer.ggml.bos_token_id"]],
        eos_token=words[facts["tokenizer.ggml.eos_token_id"]],
        pad_token=words[facts["tokenizer.ggml.padding_token_id"]],
        unk_token=words[facts["tokenizer.ggml.unknown_token_id"]],
        model_max_length=facts["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = facts["tokenizer.chat_template"]
    tokenizer.save_pretrained(folder)
