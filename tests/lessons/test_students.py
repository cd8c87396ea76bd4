"""What a layer is by its number stays with it in a student, in memory and in a file, or is refused by name."""

import copy

import pytest
import tiny
import torch
import transformers

from finetune_lessons.distillation import make_student

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = {"vocab_size": 103, "num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4} | {
    "intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 5, "eos_token_id": 6
}  # fmt: skip
GROUPED = SHAPE | {"num_key_value_heads": 2, "head_dim": 8}
GPT2 = {"vocab_size": 103, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}
NEO = {"vocab_size": 103, "hidden_size": 32, "num_layers": 4, "num_heads": 4, "intermediate_size": 64}
NEO |= {"window_size": 3, "attention_types": [[["global", "local"], 2]]}
SLIDING = GROUPED | {"use_sliding_window": True, "sliding_window": 3}
EXPERTS = GROUPED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
ARCHITECTURES = {
    "bert": ("BertForMaskedLM", SHAPE, "encoder.layer"),
    "gpt2": ("GPT2LMHeadModel", GPT2, "h"),
    "opt": ("OPTForCausalLM", SHAPE | {"ffn_dim": 64, "word_embed_proj_dim": 32}, "decoder.layers"),
    "llama": ("LlamaForCausalLM", GROUPED, "layers"),
    "falcon": ("FalconForCausalLM", SHAPE, "h"),
    "gpt-neo, local and global": ("GPTNeoForCausalLM", NEO, "h"),
    "smollm3, no rope in every fourth": ("SmolLM3ForCausalLM", GROUPED, "layers"),
    "smollm3, sliding too": ("SmolLM3ForCausalLM", SLIDING, "layers"),
    "qwen2, sliding from the third": ("Qwen2ForCausalLM", SLIDING | {"max_window_layers": 2}, "layers"),
    "gemma2, sliding in turn": ("Gemma2ForCausalLM", GROUPED | {"sliding_window": 3}, "layers"),
    "gpt2, scaled by number": ("GPT2LMHeadModel", GPT2 | {"scale_attn_by_inverse_layer_idx": True}, "h"),
    "diffllama, lambda by number": ("DiffLlamaForCausalLM", GROUPED, "layers"),
    "modernbert, no norm in the first": (
        "ModernBertForMaskedLM", SHAPE | {"local_attention": 4, "cls_token_id": 2, "sep_token_id": 3}, "layers"),
    "qwen3_moe, experts in turn": ("Qwen3MoeForCausalLM", EXPERTS | {"decoder_sparse_step": 2}, "layers"),
}  # fmt: skip
MOVED = {  # students that are none, by what would change
    "gpt2, scaled by number": ([0, 2], r"layer 2 of GPT2LM.* as layer 1 of 2 \(attn.scaling: 0.17\d* for 0.11"),
    "diffllama, lambda by number": ([3], r"layer 3 of DiffLlamaForCausalLM .* as layer 0 of 1 \(self_attn.lambda_init"),
    "modernbert, no norm in the first": ([1], r"layer 1 of ModernBert.* \(attn_norm: Identity for LayerNorm\)"),
    "qwen3_moe, experts in turn": ([0, 2], r"layer 2 of Qwen3Moe.* \(mlp: Qwen3MoeSparseMoeBlock for Qwen3MoeMLP\)"),
}
IDS = torch.randint(7, 100, (2, 9), generator=torch.Generator().manual_seed(0))


def random_model(architecture: str):
    name, shape, path = ARCHITECTURES[architecture]
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    model = kind(kind.config_class(**shape)).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    return model, f"{model.base_model_prefix}.{path}"


class Through(torch.nn.Module):
    "In a layer's place, and nothing more."

    def __init__(self, layer: torch.nn.Module, gives_a_tuple: bool):
        super().__init__()
        self.attention_type, self.gives_a_tuple = getattr(layer, "attention_type", None), gives_a_tuple

    def forward(self, hidden_states, *_, **__):
        return (hidden_states,) if self.gives_a_tuple else hidden_states


def without_the_others(model, path: str, kept: list[int]) -> torch.Tensor:
    "The logits of the model itself, where all layers but these hand on what they get."
    model, tuples = copy.deepcopy(model), []
    layers = model.get_submodule(path)
    hook = layers[0].register_forward_hook(lambda _, __, output: tuples.append(isinstance(output, tuple)))
    model(input_ids=IDS)
    hook.remove()
    for number in set(range(4)) - set(kept):
        layers[number] = Through(layers[number], tuples[0])
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("kept", [[0, 1, 2, 3], [0, 1], [0, 2], [1, 3], [3], [1, 2]], ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_a_students_layers_compute_what_they_computed_in_the_model(architecture, kept, tmp_path):
    model, path = random_model(architecture)
    expected = without_the_others(model, path, kept)
    before = tiny.weights(model)
    try:
        student = make_student(model, kept)
    except ValueError as error:
        assert "goes by the numbers of its layers" in str(error)
        assert architecture in MOVED and kept != list(range(len(kept)))
        return
    assert torch.equal(student(input_ids=IDS).logits, expected)
    student.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(input_ids=IDS).logits, expected)
    assert tiny.same_bits(tiny.weights(model), before)


@pytest.mark.parametrize("architecture", MOVED)
def test_a_layer_that_cannot_be_itself_in_another_place_is_refused_by_name(architecture):
    kept, message = MOVED[architecture]
    with pytest.raises(ValueError, match=message):
        make_student(random_model(architecture)[0], kept)


@torch.no_grad()
def test_the_last_layers_of_unequal_sides_are_the_last_of_each():
    model = tiny.tiny_model("bart", "seq2seq", dropout=False, encoder_layers=4, decoder_layers=2).eval()
    student, reference = make_student(model, [-1]), copy.deepcopy(model)
    reference.model.encoder.layers = reference.model.encoder.layers[3:]
    reference.model.decoder.layers = reference.model.decoder.layers[1:]
    inputs = {"input_ids": IDS, "decoder_input_ids": IDS}
    assert torch.equal(student(**inputs).logits, reference(**inputs).logits)


def test_a_model_whose_depth_is_not_in_its_configuration_is_refused():
    config, decoding = transformers.BertConfig(**SHAPE), {"is_decoder": True, "add_cross_attention": True}
    decoder = transformers.BertLMHeadModel(transformers.BertConfig(**SHAPE, **decoding))
    pair = transformers.EncoderDecoderModel(encoder=transformers.BertModel(config), decoder=decoder)
    with pytest.raises(ValueError, match="configuration of EncoderDecoderModel does not say in a way known here"):
        make_student(pair, [0])
