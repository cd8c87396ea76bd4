"""The picture of a model: what is in it is what is in the model, and it can be read."""

import re
from functools import cache
from xml.etree import ElementTree

import pytest
import torch
import zoo
from matplotlib.font_manager import FontProperties, findfont, get_font
from tiny import tiny_model
from torch import nn

from finetune_lessons.adapters import add_adapters
from finetune_lessons.lab import draw_model
from finetune_lessons.lab.reports.boxes import FILLS, LINES, SIZE, WIDTH, Box
from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import Wrapper, activate, freeze
from finetune_lessons.prefix_tuning import add_prefix
from finetune_lessons.prompt_tuning import add_prompt

ONE_OF_EACH = [(arch, next(kind for other, kind in zoo.PAIRS if other == arch)) for arch in zoo.ARCHITECTURES]
METHODS = {"lora": add_lora, "adapters": add_adapters, "prefix": add_prefix, "prompt": add_prompt}
PAGES = "#ffffff", "#0d1117", "#111111"  # white, GitHub's and JupyterLab's dark


class Beside(Wrapper):
    "Something around all layers."

    name = "beside"

    def __init__(self, base):
        super().__init__(base)
        self.w = nn.Parameter(torch.zeros(3))


class Unnamed(Beside):
    name = ""


def boxes_in(boxes: list[Box]) -> list[Box]:
    return [inner for box in boxes for inner in (box, *boxes_in(box.children))]


def svg(picture) -> ElementTree.Element:
    return ElementTree.fromstring(picture._repr_svg_())


def tag(name: str) -> str:
    return f"{{http://www.w3.org/2000/svg}}{name}"


@cache
def font(bold: bool):
    found = get_font(findfont(FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")))
    found.set_size(SIZE, 72)
    return found


def width(text: ElementTree.Element) -> float:
    "In the widest of the fonts that it may be shown in."
    letters = font(text.get("font-weight") == "bold")
    letters.set_text(text.text or "", 0)
    return letters.get_width_height()[0] / 64


def check_inside(picture) -> None:
    "Each text stands in a filled box, and each box in the picture."
    root = svg(picture)
    filled = [
        [float(rect.get(key)) for key in ("x", "y", "width", "height")]
        for rect in root.findall(tag("rect"))
        if rect.get("fill") in FILLS.values()
    ]
    for x, y, wide, high in filled:
        assert x >= 0 and y >= 0 and x + wide <= WIDTH and y + high <= float(root.get("height"))
    for text in root.findall(tag("text")):
        x, y, right = float(text.get("x")), float(text.get("y")), float(text.get("x")) + width(text)
        assert any(bx <= x and right <= bx + w and by <= y - SIZE and y <= by + h for bx, by, w, h in filled), text.text


@pytest.mark.parametrize(("arch", "kind"), ONE_OF_EACH, ids=[arch for arch, _ in ONE_OF_EACH])
def test_every_parameter_of_every_architecture_is_counted_once(arch, kind):
    model = zoo.model(arch, kind)
    freeze(model)
    picture = draw_model(model)
    assert sum(box.total for box in picture.boxes) == sum(p.numel() for p in model.parameters())
    assert not any(box.trained for box in picture.boxes)
    layer = next(box for box in picture.boxes if box.children)  # one box is open
    assert sum(bool(box.children) for box in picture.boxes) == 1
    assert layer.total <= sum(box.total for box in picture.boxes)
    check_inside(picture)


def test_counts_in_a_layer_add_up_to_those_of_the_model():
    model = tiny_model("bert")
    freeze(model.bert)
    picture = draw_model(model, layer=1)
    (layer,) = [box for box in picture.boxes if box.children]
    assert layer.title == "bert.encoder.layer.1"
    leaves = [box for box in boxes_in([layer]) if not box.children]
    expected = sum(p.numel() for p in model.bert.encoder.layer[1].parameters())
    assert sum(box.total for box in leaves) == layer.total == expected
    trained = sum(p.numel() for p in model.classifier.parameters())
    assert [box.trained for box in picture.boxes if box.trained] == [trained]
    assert f"{trained} trained" in picture.alt and "32 × 32 + bias" in picture.alt


@pytest.mark.parametrize("arch", ["bert", "gpt2", "llama", "t5", "modernbert", "bart", "distilbert"])
@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_put_where_is_named_with_its_shapes(arch, method):
    model = tiny_model(arch)
    METHODS[method](model)
    picture = draw_model(model, layer=len(model.base_model.encoder.block) if arch == "t5" else 0)
    added = [box for box in boxes_in(picture.boxes) if box.added]
    own = {tuple(p.shape): p.numel() for p in model.parameters() if p.requires_grad}
    assert any(box.title.endswith(f" with {method}") for box in added)
    shown = {box.lines[0] for box in added if not box.children}
    assert shown <= {" × ".join(f"{n:,}" for n in shape) + bias for shape in own for bias in ("", " + bias")}
    assert sum(box.trained for box in picture.boxes) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert method in picture.alt and method in repr(picture) and method in picture._repr_svg_()
    check_inside(picture)


def test_an_adapter_beside_the_network_says_what_it_reads_and_one_switched_off_says_so():
    model = add_adapters(tiny_model("bert"), placement="parallel")
    start = next(box for box in boxes_in(draw_model(model).boxes) if "feed-forward starts" in box.lines)
    assert "read by adapters too" in start.lines
    add_lora(model, name="other")
    activate(model, "other")
    assert "BottleneckAdapter, switched off" in repr(draw_model(model))


def test_frozen_and_trained_differ_in_words_lines_and_hatches():
    root = svg(draw_model(add_lora(tiny_model("bert"))))
    by_fill = {
        kind: [rect for rect in root.findall(tag("rect")) if rect.get("fill") == fill] for kind, fill in FILLS.items()
    }
    assert all(rect.get("stroke-dasharray") for rect in by_fill["frozen"])
    assert not any(rect.get("stroke-dasharray") for rect in by_fill["trained"])
    assert any(rect.get("fill") == "url(#frozen)" for rect in root.findall(tag("rect")))
    texts = [text.text for text in root.findall(tag("text"))]
    assert any(text.endswith(" frozen") for text in texts) and any(text.endswith(" trained") for text in texts)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_it_reads_on_a_white_page_and_on_a_dark_one():
    drawn = draw_model(tiny_model("bert"))._repr_svg_()
    assert set(re.findall(r'<text[^>]*fill="(#\w+)"', drawn)) == {"#ffffff"}
    assert all(contrast("#ffffff", fill) >= 4.5 for fill in FILLS.values())
    assert all(contrast(line, page) >= 3 for line in LINES.values() for page in PAGES)


def test_texts_are_escaped_and_the_picture_has_a_title_a_description_and_an_alternative():
    model = nn.ModuleDict({"a<b&'c\"": nn.Linear(3, 2)})
    picture = draw_model(model)
    root = svg(picture)
    assert root.get("role") == "img" and root.find(tag("title")).text == picture.title
    assert root.find(tag("desc")).text == picture.alt and "a<b&'c\"" in picture.alt
    data, metadata = picture._repr_mimebundle_()
    assert set(data) == {"image/svg+xml", "text/plain"} and metadata["image/svg+xml"] == {"alt": picture.alt}


def test_models_that_nothing_is_known_of_are_drawn_all_the_same():
    blocks = nn.Sequential(nn.Embedding(9, 4), nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), nn.Linear(4, 2))
    picture = draw_model(blocks, layer=1)
    assert [box.title for box in picture.boxes] == ["0", "1.0", "1.1", "1.2", "2"]
    assert sum(box.total for box in picture.boxes) == sum(p.numel() for p in blocks.parameters())
    assert draw_model(nn.Linear(4, 2)).boxes[0].total == 10
    assert draw_model(nn.Dropout()).boxes[0].total == 0
    wrapped = add_lora(tiny_model("bert"), modules_to_save=["classifier"])
    wrapped.bert.encoder = Beside(wrapped.bert.encoder)
    picture = draw_model(wrapped)
    assert [box.lines for box in picture.boxes if box.title == "bert.encoder with beside: w"] == [["3"]]
    assert sum(box.total for box in picture.boxes) == sum(p.numel() for p in wrapped.parameters())
    wrapped.bert.encoder.base.layer[0].output.dense = Unnamed(wrapped.bert.encoder.base.layer[0].output.dense)
    assert "dense with Unnamed" in repr(draw_model(wrapped))
    deep = nn.Module()
    deep.table = nn.Parameter(torch.zeros(()))
    assert draw_model(deep).boxes[0].total == 1


@pytest.mark.parametrize("layer", [2, -1, 1.0, "0", None, True])
def test_a_layer_that_is_not_there_is_refused_with_those_that_are(layer):
    with pytest.raises(ValueError, match="layers 0 to 1; given: layer="):
        draw_model(tiny_model("bert"), layer=layer)
