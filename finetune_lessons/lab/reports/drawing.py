"""The picture of a model: one layer with its parts, and where in it a method put what."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from finetune_lessons.lab.models.linears import shape_of
from finetune_lessons.lab.models.parts import parts_of, plain_modules
from finetune_lessons.lab.models.plain_names import PlainNames
from finetune_lessons.lab.reports.boxes import Box, as_svg, as_text

_ROLES = {
    "attention_ends": "attention ends",
    "ffn_starts": "feed-forward starts",
    "ffn_ends": "feed-forward ends",
}


@dataclass(frozen=True)
class ModelPicture:
    "One layer of a model in boxes; a notebook shows it as SVG, a terminal as text."

    boxes: list[Box]  # from input to output; the parts of the layer are inside one of them
    title: str

    @property
    def alt(self) -> str:
        "The picture in words."
        return f"{self.title}. {' '.join(f'{box.words()}.' for box in self.boxes)}"

    def __repr__(self) -> str:
        return as_text(self.title, self.boxes)

    def _repr_svg_(self) -> str:
        return as_svg(self.title, self.boxes, self.alt)

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        data = {"image/svg+xml": self._repr_svg_(), "text/plain": repr(self)}
        return data, {"image/svg+xml": {"alt": self.alt}}


def draw_model(
    model: nn.Module,
    layer: int = 0,  # its number; in an encoder-decoder the decoder's go on after the encoder's
) -> ModelPicture:
    """One layer of the model with its parts, their shapes and counts, what is frozen and trained, what a method added.

    Parts stand in the order in which the model lists them, which need not be that of its calls. A model without layers
    is drawn whole. Raises ValueError for a layer that is not there.
    """
    paths = _layers(model)
    if paths and (isinstance(layer, bool) or not hasattr(layer, "__index__") or layer not in range(len(paths))):
        raise ValueError(f"{type(model).__name__} has the layers 0 to {len(paths) - 1}; given: layer={layer!r}")
    drawing = _Drawing(_roles(model), paths)
    boxes = drawing.around(model, paths[layer]) if paths else [drawing.box(model, "", type(model).__name__)]
    which = f"layer {layer} of {len(paths)}" if paths else "without layers"
    total, trained = (sum(getattr(box, name) for box in boxes) for name in ("total", "trained"))
    return ModelPicture(boxes, f"{type(model).__name__}, {which}: {total:,} parameters, {trained:,} trained")


def _layers(model: nn.Module) -> list[str]:
    "Their paths: those that transformers marks, or those with parts that are known, or the longest list."
    from transformers.modeling_layers import GradientCheckpointingLayer

    modules = dict(plain_modules(model))
    lists = {path: module for path, module in modules.items() if isinstance(module, nn.ModuleList) and len(module)}
    members = [path for path in modules if path.rpartition(".")[0] in lists and path not in lists]
    marked = [path for path in members if isinstance(modules[path], GradientCheckpointingLayer)]
    if found := marked or list(parts_of(model)):
        return [path for path in found if not any(path.startswith(f"{other}.") for other in found)]
    longest = max(lists, key=lambda path: len(lists[path]), default=None)
    return [] if longest is None else [path for path in members if path.rpartition(".")[0] == longest]


def _roles(model: nn.Module) -> dict[str, str]:
    "What parts of layers are there for, by path."
    found: dict[str, str] = {}
    for parts in parts_of(model).values():
        for kind, role in _ROLES.items():
            found |= dict.fromkeys(getattr(parts, kind), role)
    return found


@dataclass
class _Drawing:
    roles: dict[str, str]
    layers: list[str]
    counted: set[Any] = field(default_factory=set)  # parameters that are in a box already

    def around(self, module: nn.Module, target: str, path: str = "") -> list[Box]:
        "The layer, and what stands before it and after it on the way from the outside to it."
        if path == target:
            return [self.box(module, path, path)]
        if isinstance(module, PlainNames):
            return self.around(module.base, target, path) + self.added(module, f"{path} with {module.name}: ")
        boxes = [self.parameter(f"{path}.{name}".strip("."), p) for name, p in module.named_parameters(recurse=False)]
        for name, child in module.named_children():
            there = f"{path}.{name}".strip(".")
            inside = target == there or target.startswith(f"{there}.")
            boxes += self.around(child, target, there) if inside else self.outside(child, there)
        return _stacked(boxes, set(self.layers) - {target})

    def outside(self, module: nn.Module, path: str) -> list[Box]:
        "One box for a part of the model that is not drawn; a part with a method in it is, unless it has layers."
        if not any(True for _ in module.parameters()):
            return []
        inside = [layer for layer in self.layers if f"{layer}.".startswith(f"{path}.")]
        added = {part.name for part in module.modules() if isinstance(part, PlainNames) and _own(part)}
        if added and not inside:
            return [self.box(module, path, path)]
        lines = [f"{len(inside)} layers"] * (len(inside) > 1) + [f"with {' and '.join(sorted(added))}"] * bool(added)
        return [self.closed(module, path, lines)]

    def closed(self, module: nn.Module, title: str, lines: list[str]) -> Box:
        new = {p for p in module.parameters() if p not in self.counted}
        self.counted |= new
        lines = lines if new else [*lines, "shares weights with another part"]
        return Box(title, lines, sum(p.numel() for p in new), sum(p.numel() for p in new if p.requires_grad))

    def box(self, module: nn.Module, path: str, title: str) -> Box:
        "A module with all that is in it; without parts that have no parameters."
        if isinstance(module, PlainNames):
            return self.wrapped(module, path, title)
        children = [(name, child) for name, child in module.named_children() if _drawn(child)]
        own = dict(module.named_parameters(recurse=False))
        if not children:
            return self.closed(module, title, [*_shapes(module), *filter(None, [self.roles.get(path)])])
        if len(children) == 1 and not own:
            (name, child), *_ = children
            return self.box(child, f"{path}.{name}".strip("."), f"{title}.{name}")
        inside = [self.parameter(name, p) for name, p in own.items()]
        role = self.roles.get(path)
        if isinstance(module, nn.ModuleList) and len({_kind(child) for _, child in children}) == 1:
            return self.alike(children, path, title)
        inside += [self.box(child, f"{path}.{name}".strip("."), name) for name, child in children]
        return _of(title, [role] if role else [], inside)

    def alike(self, children: list[tuple[str, nn.Module]], path: str, title: str) -> Box:
        "The first of several modules of one kind, for all."
        boxes = [self.box(child, f"{path}.{name}", name) for name, child in children]
        whole = _of(title, [f"{len(boxes)} of the same kind, here the first"], boxes)
        whole.children = boxes[:1]
        return whole

    def wrapped(self, wrapper: PlainNames, path: str, title: str) -> Box:
        "What a method put around a module."
        if not _own(wrapper):
            inner = self.box(wrapper.base, path, title)
            inner.lines.append(f"read by {wrapper.name} too")
            return inner
        inside = [self.box(wrapper.base, path, title.rpartition(".")[2]), *self.added(wrapper)]
        off = "" if getattr(wrapper, "enabled", True) else ", switched off"
        kind = type(wrapper).__name__
        whole = _of(f"{title} with {wrapper.name or kind}", [f"{kind}{off}"], inside)
        whole.added = True
        return whole

    def added(self, wrapper: PlainNames, before: str = "") -> list[Box]:
        "What a method put there, without what it lies around."
        boxes = [self.parameter(before + name, p) for name, p in wrapper.named_parameters(recurse=False)]
        parts = [(name, child) for name, child in wrapper.named_children() if name != "base" and _drawn(child)]
        boxes += [self.box(child, "", before + name) for name, child in parts]
        for box in boxes:
            box.added = True
        return boxes

    def parameter(self, name: str, p: nn.Parameter) -> Box:
        new = p not in self.counted
        self.counted.add(p)
        count = p.numel() if new else 0
        return Box(name, [_by(p.shape)] + ["shared"] * (not new), count, count if p.requires_grad else 0)


def _own(wrapper: PlainNames) -> list[str]:
    return [name for name, _ in wrapper.named_parameters() if not name.startswith("base.")]


def _drawn(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _kind(module: nn.Module) -> tuple[Any, ...]:
    return type(module), *((name, p.shape, p.requires_grad) for name, p in module.named_parameters())


def _of(title: str, lines: list[str], inside: list[Box]) -> Box:
    return Box(title, lines, sum(box.total for box in inside), sum(box.trained for box in inside), inside)


def _shapes(module: nn.Module) -> list[str]:
    "Of a linear layer outputs by inputs; of another module each parameter's."
    own = dict(module.named_parameters(recurse=False))
    try:
        return [_by(shape_of(module)) + " + bias" * (own.get("bias") is not None)]
    except ValueError:
        shapes: dict[str, list[str]] = {}
        for name, p in own.items():
            shapes.setdefault(_by(p.shape), []).append(name)
        return [f"{', '.join(names)} {shape}" for shape, names in shapes.items()]


def _by(shape: Any) -> str:
    return " × ".join(f"{n:,}" for n in shape) or "1"


def _stacked(boxes: list[Box], layers: set[str]) -> list[Box]:
    "Neighbours that are closed layers as one box."
    found: list[Box] = []
    for box in boxes:
        last = found[-1] if found else None
        if box.title in layers and last and last.title.split(" to ")[0] in layers:
            last.title = f"{last.title.split(' to ')[0]} to {box.title.rpartition('.')[2]}"
            last.total, last.trained = last.total + box.total, last.trained + box.trained
            continue
        found.append(box)
    return found
