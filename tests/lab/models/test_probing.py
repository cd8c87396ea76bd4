import pytest
import torch
import transformers
from tiny import EVERY, tiny_model

from finetune_lessons.lab.models.probing import dummy_inputs
from finetune_lessons.multitask import MultiTaskModel

WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WORDS = WIDE | {"vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
PICTURES = WIDE | {"image_size": 16, "patch_size": 8}
SOUNDS = WIDE | {
    "conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
SIDES = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads", "ffn_dim")}
WHISPER = SIDES | {"vocab_size": 60, "d_model": 32, "num_mel_bins": 8, "max_source_positions": 16, "pad_token_id": 0}
WHISPER |= {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
PAIR = {"text_config": WORDS, "vision_config": PICTURES}
LONG = WORDS | {"attention_window": 8, "sep_token_id": 3}
READ = {
    "BertForMultipleChoice": ("BertConfig", WORDS, {"input_ids", "attention_mask"}),
    "LongformerForQuestionAnswering": (
        "LongformerConfig", LONG, {"input_ids", "attention_mask", "global_attention_mask"}
    ),
    "MambaForCausalLM": ("MambaConfig", {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2},
                         {"input_ids", "attention_mask"}),
    "ViTForImageClassification": ("ViTConfig", PICTURES, {"pixel_values"}),
    "VideoMAEForVideoClassification": ("VideoMAEConfig", PICTURES | {"num_frames": 4}, {"pixel_values"}),
    "CLIPModel": ("CLIPConfig", PAIR, {"input_ids", "attention_mask", "pixel_values"}),
    "CLIPVisionModel": ("CLIPVisionConfig", PICTURES, {"pixel_values"}),
    "CLIPTextModel": ("CLIPTextConfig", WORDS, {"input_ids", "attention_mask"}),
    "CLIPForImageClassification": ("CLIPConfig", PAIR, {"pixel_values"}),
    "WhisperForConditionalGeneration": (
        "WhisperConfig", WHISPER, {"input_features", "decoder_input_ids", "decoder_attention_mask"},
    ),
    "WhisperForAudioClassification": ("WhisperConfig", WHISPER, {"input_features"}),
    "Wav2Vec2ForSequenceClassification": ("Wav2Vec2Config", SOUNDS, {"input_values"}),
    "ASTForAudioClassification": ("ASTConfig", WIDE | {"max_length": 64, "num_mel_bins": 32}, {"input_values"}),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_a_model_of_any_kind_can_be_called_with_its_dummy_inputs_in_its_type(name):
    config, shape, arguments = READ[name]
    model = getattr(transformers, name)(getattr(transformers, config)(**shape)).to(torch.bfloat16)
    inputs = dummy_inputs(model)
    assert set(inputs) == arguments and all(len(value) == 2 for value in inputs.values())
    assert {value.dtype for value in inputs.values()} <= {torch.int64, torch.bfloat16}
    for training in (False, True):
        model.train(training)(**inputs)


@pytest.mark.parametrize("arch", EVERY)
def test_a_classifier_of_texts_can_be_called_with_its_dummy_inputs(arch):
    model = tiny_model(arch)
    logits = model.eval()(**dummy_inputs(model)).logits
    assert len(logits) == 2 and logits.isfinite().all()


def test_a_model_of_several_tasks_is_called_for_one_of_them():
    model = MultiTaskModel(tiny_model("bert"), {"topic": 5, "intensity": 1})
    assert model(**dummy_inputs(model)).logits.shape == (2, 5)
    assert model(**dummy_inputs(model, "intensity")).logits.shape == (2, 1)


def test_what_a_model_reads_that_is_not_known_is_named():
    config = transformers.PerceiverConfig(num_latents=4, d_latents=8, d_model=8, num_self_attends_per_block=1)
    with pytest.raises(ValueError, match="PerceiverModel reads inputs, and what that looks like is not known"):
        dummy_inputs(transformers.PerceiverModel(config))
