"""What works on what: whether a method keeps its promises on a model of the zoo, or refuses it as it should."""

import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import zoo
from torch import Tensor, nn

from finetune_lessons.adapters import add_adapters
from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import disable, eject, load_method, save_method, wrappers
from finetune_lessons.prefix_tuning import add_prefix
from finetune_lessons.prompt_tuning import add_prompt

METHODS: dict[str, tuple[Callable[..., nn.Module], ...]] = {
    "LoRA": (add_lora,),
    "Houlsby": (partial(add_adapters, bottleneck_size=8),),
    "Pfeiffer": (partial(add_adapters, bottleneck_size=8, placement="pfeiffer"),),
    "parallel": (partial(add_adapters, bottleneck_size=8, placement="parallel"),),
    "prefix": (partial(add_prefix, num_virtual_tokens=3),),
    "prompt": (partial(add_prompt, num_virtual_tokens=3),),
    "LoRA and prompt": (add_lora, partial(add_prompt, num_virtual_tokens=3)),
}
NOT_THE_SAME_AT_FIRST = ("prefix", "prompt", "LoRA and prompt")
QUIET = {("longformer", "classifier")}  # reads one token, whose global attention goes past the last query and value


def outcome(arch: str, kind: str, method: str, folder: Path) -> str:
    "works or refused, each as it is promised; an AssertionError says what is not, any other error is a defect too."
    model = zoo.model(arch, kind)
    next(model.parameters()).requires_grad_(False)  # a method gives it back as it was
    inputs = zoo.inputs(model)
    before, frozen = answer(model, inputs), frozen_answer(model, inputs)
    states = []
    try:
        for add in METHODS[method]:
            states.append(State(model))
            add(model)
    except ValueError as error:
        check_refusal(str(error))
        states[-1].check()
        return "refused"
    added = {p for wrapper in wrappers(model) for p in wrapper.own_parameters().values()}
    trained = {p for p in model.parameters() if p.requires_grad}
    one = len(METHODS[method]) == 1  # of two with a new head each, that of the first is not called
    assert trained == added if one else trained <= added, "what is added is not what is trained"
    first = answer(model, inputs)
    check_shapes(first, frozen)
    check_start(first, frozen, identical=method not in NOT_THE_SAME_AT_FIRST)
    check_training(model, inputs | zoo.labels(model, kind), new_head(arch, kind), (arch, kind) in QUIET)
    check_same(answer(loaded(model, arch, kind, folder), inputs), answer(model, inputs), "loaded, it answers otherwise")
    with disable(model):
        check_same(answer(model, inputs), frozen, "disabled it is not the pretrained model")
    eject(model)
    check_same(answer(model, inputs), before, "ejected it is not the pretrained model")
    states[0].check()
    return "works"


@torch.no_grad()
def answer(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    answered = {name: x for name, x in model.eval()(**inputs).items() if name.endswith("logits")}
    assert all(x.isfinite().all() for x in answered.values()), "an answer is infinite"
    return answered


def frozen_answer(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    "Of a strided input torch computes a linear layer that is not trained in another order, so the last bits differ."
    required = {p: p.requires_grad for p in model.parameters()}
    frozen = answer(model.requires_grad_(False), inputs)
    for parameter, value in required.items():
        parameter.requires_grad_(value)
    return frozen


@cache
def new_head(arch: str, kind: str) -> set[str]:
    "The parameters that a model of this kind has beside the bare one; a language model's are not new."
    if kind in ("causal_lm", "masked_lm", "seq2seq", "speech_to_text"):
        return set()
    bare, model = zoo.model(arch, "bare"), zoo.model(arch, kind)
    prefix = f"{model.base_model_prefix}."
    return {name for name, _ in model.named_parameters()} - {
        path for name, _ in bare.named_parameters() for path in (name, prefix + name)
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def check_same(now: dict[str, Tensor], before: dict[str, Tensor], otherwise: str) -> None:
    far = {name: (now[name] - x).abs().max().item() for name, x in before.items() if not torch.equal(now[name], x)}
    assert not far, f"{otherwise}: off by {far}"


class State:
    "All of a model that a method has to give back."

    def __init__(self, model: nn.Module):
        self.model = model
        self.modules, self.tensors, self.required = self.now()
        self.tensors = {name: tensor.clone() for name, tensor in self.tensors.items()}

    def now(self) -> tuple[dict, dict[str, Tensor], dict[str, bool]]:
        hooks = {path: len(m._forward_pre_hooks) + len(m._forward_hooks) for path, m in self.model.named_modules()}
        modules = {path: (module, hooks[path]) for path, module in self.model.named_modules()}
        required = {name: p.requires_grad for name, p in self.model.named_parameters()}
        return modules, self.model.state_dict(), required

    def check(self) -> None:
        modules, tensors, required = self.now()
        assert modules == self.modules, "other modules than before"
        assert same(tensors, self.tensors), "other weights than before"
        assert required == self.required, "other parameters are trainable than before"


def check_refusal(message: str) -> None:
    assert len(re.findall(r"[.!?](?= |$)", message.rstrip(".") + ".")) <= 2, f"not one or two sentences: {message}"
    without_names = re.sub(r"[.;] [^.;:]*: [\w, ]+$", "", message)  # that the way out may choose from
    way_out = re.split(r"[.:;] | or ", without_names)[-1]
    assert re.search(r"\w+\(|\w+=|add_\w+", way_out), f"no way out at the end: {message}"


def check_start(first: dict[str, Tensor], before: dict[str, Tensor], identical: bool) -> None:
    if identical:
        check_same(first, before, "added, it changes the answer")
    else:
        assert not same(first, before), "added, it changes nothing"


def check_shapes(answered: dict[str, Tensor], before: dict[str, Tensor]) -> None:
    shapes, expected = ({name: tuple(x.shape) for name, x in answers.items()} for answers in (answered, before))
    assert shapes == expected, f"the answer has the shape {shapes} instead of {expected}"


def check_training(model: Any, inputs: dict[str, Tensor], head: set[str], quiet: bool = False) -> None:
    "A step from a place far from the start moves all that is to be trained, and nothing else."
    parameters = dict(model.named_parameters())
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    plain = [re.sub(r"\.copy|\.modules_to_save\.default", "", name) for name in trained]
    untrained = sorted(name for name in head if not any(f".{path}".endswith(f".{name}") for path in plain))
    assert not untrained, f"of the new head is not trained: {untrained}"
    disturb(trained.values())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    output = model.train()(**inputs)
    loss = output.loss + sum(x.square().mean() for name, x in output.items() if name.endswith("logits"))
    loss.backward()  # of the loss alone a bias before a softmax over all tokens gets no gradient
    silent = [name for name, p in trained.items() if p.grad is None or not (quiet or p.grad.any())]
    assert not silent, f"no gradient: {silent}"
    torch.optim.SGD(trained.values(), lr=1.0).step()
    moved = {name for name, p in parameters.items() if not torch.equal(p, before[name])}
    assert not moved - trained.keys(), f"what is pretrained moved: {moved - trained.keys()}"
    assert quiet or not trained.keys() - moved, f"a step does not move {trained.keys() - moved}"


@torch.no_grad()
def disturb(parameters: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in parameters:
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def loaded(model: Any, arch: str, kind: str, folder: Path) -> Any:
    "A pretrained model into which was loaded what this one learnt, in the order in which it was added."
    names = sorted({wrapper.name for wrapper in wrappers(model)})  # LoRA before a prompt
    other = zoo.model(arch, kind)
    for name in names:
        save_method(model, folder / name, name)
    for name in names:
        load_method(other, folder / name)
    return other
