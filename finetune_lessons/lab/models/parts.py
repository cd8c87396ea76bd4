"""What transformers' architectures call the parts of their layers, and where these are in a model."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from finetune_lessons.lab.models.linears import shape_of
from finetune_lessons.lab.models.plain_names import PlainNames

# modules in a layer: attention, what stands in its place, and what belongs neither there nor to the FFN
_ATTENTION = re.compile(r"\w*(attn|[aA]ttention)|cross_attn_\w+")
_MIXER = re.compile(r"mixer|mamba|conv|temporal_block|mlstm_layer")
_APART = re.compile(r"bottleneck|indexer|compressor|adapter_modules|router|\w*norm")
_OF_BLOCKS = {"experts", "receptance"}  # what has one of these inside is a block that no linear layer starts or ends

# linear layers, by the ends of their paths
_QUERIES_AND_VALUES = set(
    "query value q_proj v_proj q_lin v_lin q v query_proj value_proj linear_q linear_v q_head v_head Wq Wv q_attn "
    "query_key_value qkv_proj qkv Wqkv c_attn att_proj q_b_proj kv_b_proj kv_proj "  # in one, or of a latent space
    "in_proj in_proj_qkv in_proj_qkvz linear_x linear_y receptance".split()  # of mixers
)
_ATTENTION_ENDS = set(
    "o_proj out_proj out_lin c_proj Wo o proj projection projection_layer dense output linear_out post_proj "
    "o_b_proj".split()
)
_FFN_STARTS = set(
    "fc1 lin1 linear1 linear_1 linear_fc1 dense1 proj_up c_fc fc_in up_proj gate_up_proj proj_in in_proj input_linear "
    "dense_h_to_4h Wi wi wi_0 w1 ffn ffn.0 intermediate_dense intermediate.dense intermediate_query.dense "
    "layout_intermediate.dense feed_forward.intermediate feed_forward.dense.dense".split()
)
_FFN_ENDS = set(
    "fc2 lin2 linear2 linear_2 linear_fc2 dense2 proj_down c_proj fc_out down_proj proj_out out_proj output_linear "
    "dense_4h_to_h Wo wo w2 ffn_output ffn.2 output_dense output.dense output_query.dense layout_output.dense "
    "feed_forward.output".split()
)


class Parts(NamedTuple):
    "Paths in one layer; of a kind that one attention or feed-forward network in it lacks there are none."

    queries_and_values: list[str]
    attention_ends: list[str]
    ffn_starts: list[str]
    ffn_ends: list[str]  # in the order of their starts; a mixture of experts is its own start and end


DESCRIBED = {
    "queries_and_values": "queries and values that are known here",
    "attention_ends": "attention whose last layer is known here",
    "ffn_starts": "a feed-forward network that is known here",
    "ffn_ends": "a feed-forward network that is known here",
}


def plain_modules(module: Any, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    "The modules by the paths that they have where nothing has been added; of a wrapper, what it lies around."
    while isinstance(module, PlainNames):
        module = module.base
    yield path, module
    for name, child in module.named_children():
        yield from plain_modules(child, f"{path}.{name}".strip("."))


def parts_of(model: nn.Module) -> dict[str, Parts]:
    "The parts of each transformer layer, by the layer's path."
    modules = dict(plain_modules(model))
    found = {}
    for layer in _layers(modules):
        inside = {path: modules[path] for path in modules if path.startswith(f"{layer}.")}
        attentions, others = _divided(layer, inside)
        if attentions or _ends(others, _FFN_ENDS):
            found[layer] = Parts(
                _of_each(attentions, _QUERIES_AND_VALUES), _of_each(attentions, _ATTENTION_ENDS), *_ffn(layer, others)
            )
    return {layer: parts for layer, parts in found.items() if not any(p.startswith(f"{layer}.") for p in found)}


def _layers(modules: Mapping[str, nn.Module]) -> list[str]:
    "Members of lists: those that transformers marks as layers, or, if there are none, those with attention inside."
    from transformers.modeling_layers import GradientCheckpointingLayer

    lists = {path for path, module in modules.items() if isinstance(module, nn.ModuleList)}
    members = [path for path in modules if path.rpartition(".")[0] in lists - {""} and path not in lists]
    marked = [path for path in members if isinstance(modules[path], GradientCheckpointingLayer)]
    attentions = [path for path in modules if _ATTENTION.fullmatch(path.rpartition(".")[2])]
    return marked or [path for path in members if any(a.startswith(f"{path}.") for a in attentions)]


def _divided(layer: str, inside: Mapping[str, nn.Module]) -> tuple[dict[str, dict[str, nn.Module]], dict[str, Any]]:
    "What is inside each attention, by the attention's path, and what else is in the layer."
    attentions: dict[str, dict[str, nn.Module]] = {}
    others: dict[str, nn.Module] = {}
    for path, module in inside.items():
        names = path.removeprefix(f"{layer}.").split(".")
        places = [i for i, name in enumerate(names) if _ATTENTION.fullmatch(name) or _MIXER.fullmatch(name)]
        if any(_APART.fullmatch(name) for name in names):
            continue
        if places:
            attentions.setdefault(".".join([layer, *names[: places[0] + 1]]), {})[path] = module
        else:
            others[path] = module
    return {path: there for path, there in attentions.items() if _linear(there)}, others


def _of_each(attentions: Mapping[str, Mapping[str, nn.Module]], names: set[str]) -> list[str]:
    found = [_ends(inside, names) for inside in attentions.values()]
    return [path for paths in found for path in paths] if all(found) else []


def _ffn(layer: str, others: Mapping[str, nn.Module]) -> tuple[list[str], list[str]]:
    parents = {path: path.rpartition(".")[0] for path in others if path.rpartition(".")[2] in _OF_BLOCKS}
    blocks = list(dict.fromkeys(path if parent == layer else parent for path, parent in parents.items()))
    apart = [path for path in others if blocks and "shared" in path]  # experts that every token is sent to
    hidden = {path for path in others for top in [*blocks, *apart] if f"{path}.".startswith(f"{top}.")}
    rest = {path: module for path, module in others.items() if path not in hidden}
    starts, ends = blocks + _ends(rest, _FFN_STARTS), blocks + _ends(rest, _FFN_ENDS)
    return (starts, ends) if len(starts) == len(ends) else ([], [])


def _linear(modules: Mapping[str, Any]) -> list[str]:
    return [path for path, module in modules.items() if _looks_linear(module)]


def _looks_linear(module: Any) -> bool:
    "Whether it looks like a linear layer, torch's or another, that its parent calls."
    outputs = hasattr(module, "out_features") or hasattr(module, "nf")
    return outputs and hasattr(module, "weight") and not isinstance(module, NonDynamicallyQuantizableLinear)


def _ends(modules: Mapping[str, nn.Module], names: set[str]) -> list[str]:
    paths = {path: f".{path}".removesuffix(".linear") for path in _linear(modules)}
    return [path for path, end in paths.items() if end.endswith(tuple(f".{name}" for name in names))]


def check_parts(
    model: nn.Module,
    layers: Mapping[str, Parts],  # as `parts_of` found them
    kinds: Iterable[str],  # of parts that every layer needs
) -> None:
    "Raises ValueError that says how many layers have the parts, unless all do."
    if not layers:
        what = "no transformer layers whose parts are known here"
        raise ValueError(f"{type(model).__name__} has {what}: name the modules yourself, with target_modules=[...]")
    for kind in kinds:
        having = sum(bool(getattr(parts, kind)) for parts in layers.values())
        if having < len(layers):
            ends = [path for parts in layers.values() for path in parts.attention_ends]
            instead = _shortest(ends, {path for path, _ in plain_modules(model)}) if kind.startswith("ffn") else []
            raise ValueError(
                f"{having} of {len(layers)} layers of {type(model).__name__} have {DESCRIBED[kind]}: name the modules "
                f"yourself, with target_modules={instead or '[...]'}"
                f"{' for what stands in the place of attention' if instead else ''}"
            )


def query_and_value(model: nn.Module) -> list[str]:
    """Names of the linear layers that make queries and values, or what stands in their place, in every layer.

    A model without layers is searched whole. Raises ValueError where there are none, or only some layers have them.
    """
    layers, modules = parts_of(model), dict(plain_modules(model))
    outside = [] if layers else _ends(modules, _QUERIES_AND_VALUES)
    if not outside:
        check_parts(model, layers, ["queries_and_values"])
    found = [path for parts in layers.values() for path in parts.queries_and_values]
    return _shortest(found or outside, set(modules))


def _shortest(paths: list[str], all_paths: set[str]) -> list[str]:
    "The shortest ends that these paths have and no others."
    others = [f".{path}" for path in all_paths - set(paths)]
    found = dict[str, None]()
    for path in paths:
        names = path.split(".")
        ends = (".".join(names[-n:]) for n in range(1, len(names) + 1))
        found[next(end for end in ends if not any(other.endswith(f".{end}") for other in others))] = None
    return list(found)


def width_of(
    model: nn.Module,
    path: str,  # of a linear layer, or of a module that puts out the hidden state
) -> int:
    "How many numbers it puts out for a token. Raises ValueError if neither the layer nor a configuration says it."
    modules = dict(plain_modules(model))
    if _looks_linear(modules[path]):
        return shape_of(modules[path])[0]
    above = [path[:i] for i, letter in enumerate(path) if letter == "."][::-1] + [""]
    configs = (getattr(modules[owner], "config", None) for owner in above)
    widths = (getattr(config, "hidden_size", None) for config in configs)
    if width := next((width for width in widths if isinstance(width, int)), None):
        return width
    raise ValueError(f"{path} is no linear layer, and no configuration of {type(model).__name__} says how wide it is")
