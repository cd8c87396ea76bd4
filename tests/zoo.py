"""Tiny models with random weights of every architecture and kind that the methods are held to: `zoo.PAIRS`.

Each is made from the configuration that its class has by default, with all that is wide, deep or long made small.
"""

import inspect
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from transformers.models.auto import modeling_auto

VOCABULARY, TOKENS, LABELS = 103, 12, 2
PAD, SEPARATOR, EOS = 0, 3, 6
LENGTHS = (12, 9, 7)  # of the three rows, all padded to the first
IMAGE, SAMPLES, FRAMES = 16, 200, 32

MAPPINGS = {
    "classifier": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token_classifier": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "question_answering": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "causal_lm": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "masked_lm": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "speech_to_text": modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    "image_classifier": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "audio_classifier": modeling_auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    "bare": modeling_auto.MODEL_MAPPING_NAMES,  # the body that all kinds have in common, which is no kind
}  # the name of each architecture's class of this kind
KINDS = tuple(MAPPINGS)[:-1]
HEADS = ("classifier", "token_classifier", "question_answering")
FAMILIES: dict[str, tuple[tuple[str, ...], str]] = {  # the kinds, as far as an architecture has them; the architectures
    "encoders": (
        (*HEADS, "masked_lm"),
        "albert bert big_bird camembert convbert data2vec-text deberta deberta-v2 distilbert electra ernie esm fnet "
        "funnel ibert longformer megatron-bert mobilebert modernbert mpnet nystromformer rembert roberta roformer "
        "squeezebert xlm-roberta xlnet",
    ),
    "decoders": (
        (*HEADS, "causal_lm"),
        "bloom codegen cohere falcon gemma gemma2 gemma3_text glm gpt2 gpt_bigcode gpt_neo gpt_neox gptj granite llama "
        "mistral mpt olmo2 opt phi phi3 qwen2 qwen3 smollm3 stablelm starcoder2",
    ),
    "mixtures of experts": (
        (*HEADS, "causal_lm"),
        "deepseek_v3 gpt_oss granitemoe mixtral olmoe phimoe qwen2_moe qwen3_moe",
    ),
    "state spaces and hybrids": (
        (*HEADS, "causal_lm"),
        "bamba falcon_mamba jamba lfm2 mamba mamba2 recurrent_gemma rwkv zamba2",
    ),
    "encoder-decoders": (
        (*HEADS, "seq2seq"),
        "bart led m2m_100 marian mbart mt5 pegasus prophetnet t5 umt5",
    ),
    "images and sounds": (
        ("speech_to_text", "image_classifier", "audio_classifier"),
        "audio-spectrogram-transformer beit clip deit dinov2 hubert siglip swin vit wav2vec2 whisper",
    ),
}  # fmt: skip

_SIZES: list[tuple[Any, str]] = [
    (
        0.0,
        "dropout hidden_dropout attention_dropout activation_dropout hidden_dropout_prob attention_probs_dropout_prob "
        "classifier_dropout classifier_dropout_prob pooler_dropout qa_dropout seq_classif_dropout summary_last_dropout "
        "summary_first_dropout resid_pdrop embd_pdrop emb_pdrop attn_pdrop embed_dropout resid_dropout mlp_dropout "
        "embedding_dropout dropout_rate drop_path_rate layerdrop encoder_layerdrop decoder_layerdrop feat_proj_dropout "
        "feat_quantizer_dropout final_dropout mask_time_prob router_jitter_noise input_jitter_noise",
    ),
    (0.2, "initializer_range init_std"),  # at the usual 0.02 so narrow a model answers every input alike
    (PAD, "pad_token_id decoder_start_token_id"),
    (
        2,
        "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_encoder_layers "
        "num_decoder_layers num_key_value_heads num_experts_per_tok n_group mamba_expand",
    ),
    (SEPARATOR, "sep_token_id"),
    (
        4,
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads patch_size "
        "num_encoder_attention_heads num_decoder_attention_heads num_experts num_local_experts n_routed_experts "
        "rotary_dim num_conv_pos_embedding_groups",
    ),
    (5, "bos_token_id cls_token_id"),
    (EOS, "eos_token_id"),
    (
        8,
        "head_dim d_head d_kv qk_rope_head_dim qk_nope_head_dim v_head_dim attention_window sliding_window window_size "
        "local_attention state_size mamba_d_state time_step_rank mamba_dt_rank num_landmarks segment_means_seq_len "
        "mamba_d_head mamba_n_heads n_mamba_heads mamba_headdim adapter_rank num_conv_pos_embeddings block_multiple_of",
    ),
    (
        16,
        "intra_bottleneck_size input_embedding_size kv_lora_rank q_lora_rank chunk_size mamba_chunk_size "
        "max_source_positions num_mel_bins",
    ),
    (IMAGE, "image_size"),
    (
        32,
        "hidden_size d_model n_embd dim embedding_size pooler_hidden_size pooler_output_size output_embedding_size "
        "word_embed_proj_dim projection_dim classifier_proj_size lru_width attention_hidden_size output_hidden_size",
    ),
    (FRAMES, "max_length"),
    (
        64,
        "intermediate_size ffn_dim hidden_dim d_inner d_ff encoder_ffn_dim decoder_ffn_dim n_inner ffn_hidden_size "
        "moe_intermediate_size shared_expert_intermediate_size max_position_embeddings n_positions context_length "
        "max_target_positions max_encoder_position_embeddings max_decoder_position_embeddings max_seq_len",
    ),
    (VOCABULARY, "vocab_size decoder_vocab_size"),
]
SMALL = {name: value for value, names in _SIZES for name in names.split()}  # wherever a configuration has it

SPEECH = {"conv_dim": [32, 32], "conv_stride": [5, 2], "conv_kernel": [10, 3]}
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},  # as in every checkpoint
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True},
    "deepseek_v3": {"topk_group": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4},
    "esm": {"mask_token_id": 4, "token_dropout": False},
    "funnel": {"block_sizes": [1, 1], "block_repeats": [1, 1]},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "hubert": SPEECH,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "mobilebert": {"hidden_size": 64, "initializer_range": 0.05},  # without norms it grows from layer to layer
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "swin": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 2},
    "t5": {"decoder_start_token_id": PAD},
    "wav2vec2": SPEECH,
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "attention_hidden_size": 64},
}


PAIRS = [
    (arch, kind)
    for kinds, architectures in FAMILIES.values()
    for arch in architectures.split()
    for kind in kinds
    if arch in MAPPINGS[kind]
]
ARCHITECTURES = tuple(dict.fromkeys(arch for arch, _ in PAIRS))


def config(arch: str) -> Any:
    "The configuration of this architecture, small."
    make = transformers.CONFIG_MAPPING[arch]
    made = make(**_shrunk(make().to_dict()) | EXCEPTIONS.get(arch, {}))
    made.classifier_dropout = 0.0  # which some models read though their configuration does not have it
    return made


def _shrunk(settings: dict[str, Any]) -> dict[str, Any]:
    inner = {key: _shrunk(settings[key]) for key in ("vision_config", "text_config") if key in settings}
    return {key: SMALL[key] for key in settings if key in SMALL} | inner


def model(arch: str, kind: str, seed: int = 0) -> Any:
    "A random model of two layers, in evaluation mode; the same for the same seed."
    name = MAPPINGS[kind][arch]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return getattr(transformers, name if isinstance(name, str) else name[0])(config(arch)).eval()


def inputs(model: Any) -> dict[str, torch.Tensor]:
    "Three rows of what this model reads, padded on the right where that kind is, and without labels."
    takes = inspect.signature(model.forward).parameters
    given = {name: x for name, x in _first(model).items() if name in takes}
    if model.config.is_encoder_decoder and model.can_generate():
        given |= {"decoder_input_ids": _ids()[:, :5]}
    return given


def _first(model: Any) -> dict[str, torch.Tensor]:
    c, noise = model.config, torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(3, 3, IMAGE, IMAGE, generator=noise)}
    if model.main_input_name == "input_features":
        return {"input_features": torch.randn(3, c.num_mel_bins, 2 * c.max_source_positions, generator=noise)}
    if model.main_input_name == "input_values" and hasattr(c, "num_mel_bins"):
        return {"input_values": torch.randn(3, c.max_length, c.num_mel_bins, generator=noise)}
    if model.main_input_name == "input_values":
        mask = _mask(SAMPLES)
        return {"input_values": torch.randn(3, SAMPLES, generator=noise) * mask, "attention_mask": mask}
    return {"input_ids": _ids(), "attention_mask": _mask(TOKENS)}


def _mask(width: int) -> torch.Tensor:
    lengths = torch.tensor(LENGTHS) * width // max(LENGTHS)
    return (torch.arange(width) < lengths[:, None]).long()


def _ids() -> torch.Tensor:
    "Words, three separators (which Longformer looks for), an end (which BART and T5 look for), and padding."
    ids = torch.randint(EOS + 1, VOCABULARY, (3, TOKENS), generator=torch.Generator().manual_seed(0))
    ids[:, 1:4] = SEPARATOR
    ids[range(3), torch.tensor(LENGTHS) - 1] = EOS
    return ids.where(_mask(TOKENS) > 0, PAD)


def labels(model: Any, kind: str) -> dict[str, torch.Tensor]:
    "What belongs to `inputs`, by the names that `forward` has for it; -100 where there is padding."
    if kind == "question_answering":
        return {"start_positions": torch.tensor([1, 2, 0]), "end_positions": torch.tensor([3, 4, 5])}
    if kind.endswith("classifier") and kind != "token_classifier":
        return {"labels": torch.tensor([0, 1, 1])}
    if kind in ("seq2seq", "speech_to_text"):
        return {"labels": _ids()[:, :5].contiguous()}
    ids = _ids() % LABELS if kind == "token_classifier" else _ids()
    return {"labels": ids.where(_mask(TOKENS) > 0, -100)}


def needs_transformers(
    version: str,
    because: str,  # what an older one does
) -> None:
    "Skips the test that calls it where an older one is installed."
    if Version(transformers.__version__) < Version(version):
        pytest.skip(f"before transformers {version}, {because}")
