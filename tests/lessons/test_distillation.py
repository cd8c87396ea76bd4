"""Distillation: its losses against formulas of their own, the student, and the loss that carries them in a run."""

import copy
import math

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from datasets import DatasetDict, Value
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from finetune_lessons import distillation
from finetune_lessons.cross_entropy import classification_loss, cross_entropy, language_model_loss
from finetune_lessons.distillation import (
    Distillation,
    add_teacher_logits,
    attention_loss,
    cosine_loss,
    distillation_loss,
    hidden_state_loss,
    look_inside,
    make_student,
    soft_loss,
)
from finetune_lessons.lab.training.batches import train_batches
from finetune_lessons.lab.training.precision import Choice
from finetune_lessons.lab.training.run import NonFiniteLoss, Run
from finetune_lessons.lab.training.tasks import IGNORE_INDEX
from finetune_lessons.lora import add_lora

pytestmark = pytest.mark.usefixtures("one_thread")

numbers = st.floats(-20, 20)
temperatures = st.floats(0.3, 20)


@st.composite
def pairs(draw):
    shape = (draw(st.integers(1, 5)), draw(st.integers(2, 6)))
    draw_rows = st.lists(st.lists(numbers, min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0])
    return [torch.tensor(draw(draw_rows), dtype=torch.float64) for _ in range(2)]


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# the soft part


@given(pairs(), temperatures)
def test_the_soft_part_is_the_kl_divergence_of_numpy_and_of_torch(logits, T):
    student, teacher = logits
    p, q = softmax(teacher.numpy() / T), softmax(student.numpy() / T)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = T**2 * np.where(p > 0, p * (np.log(p) - np.log(q)), 0).sum(-1)
    found = soft_loss(student, teacher, T)
    assert_close(found.numpy(), expected, atol=1e-8 * T**2, rtol=1e-6)
    theirs = F.kl_div(
        (student / T).log_softmax(-1), (teacher / T).log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert_close(found.mean(), T**2 * theirs, atol=1e-9 * T**2, rtol=1e-6)


@given(pairs(), temperatures, st.floats(-5, 5))
def test_it_is_zero_where_the_student_says_the_same_and_never_negative(logits, T, shift):
    student, teacher = logits
    assert torch.equal(soft_loss(teacher, teacher, T), torch.zeros(len(teacher), dtype=torch.float64))
    assert_close(
        soft_loss(teacher + shift, teacher, T), torch.zeros(len(teacher), dtype=torch.float64), atol=1e-8, rtol=0
    )
    assert (soft_loss(student, teacher, T) >= -1e-9 * T**2).all()


@given(pairs(), temperatures)
def test_its_gradient_is_t_times_the_difference_of_the_probabilities(logits, T):
    student, teacher = logits
    student.requires_grad_()
    soft_loss(student, teacher, T).sum().backward()
    assert_close(
        student.grad, T * ((student / T).softmax(-1) - (teacher / T).softmax(-1)).detach(), atol=1e-8, rtol=1e-6
    )


def test_its_gradient_keeps_its_size_over_temperatures_and_without_t_squared_fades():
    torch.manual_seed(0)
    teacher, student = torch.randn(64, 5, dtype=torch.float64), torch.randn(64, 5, dtype=torch.float64)
    norms = {}
    for T in (1, 2, 4, 8, 16):
        z = student.clone().requires_grad_()
        soft_loss(z, teacher, T).mean().backward()
        norms[T] = float(z.grad.norm())
    assert max(norms.values()) < 1.6 * min(norms.values())
    assert norms[16] / 16**2 < 0.01 * norms[1]


def test_shares_of_raters_are_a_teacher_and_a_share_of_zero_is_no_nan():
    shares = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    z = torch.zeros(2, 2, requires_grad=True)
    loss = soft_loss(z, shares.log(), 1.0)
    assert_close(
        loss.detach(), torch.tensor([math.log(2), math.log(2) + 0.25 * math.log(0.25) + 0.75 * math.log(0.75)])
    )
    loss.sum().backward()
    assert_close(z.grad, 0.5 - shares)


# the whole loss


@given(pairs(), temperatures, st.floats(0, 1), st.data())
def test_the_loss_is_the_mean_over_rows_of_its_two_parts(logits, T, alpha, data):
    student, teacher = logits
    n, classes = student.shape
    labels = data.draw(st.lists(st.sampled_from([IGNORE_INDEX, *range(classes)]), min_size=n, max_size=n))
    rows = []
    for z, t, y in zip(student.numpy(), teacher.numpy(), labels, strict=True):
        p, q = softmax(t / T), softmax(z / T)
        soft = T**2 * float(np.sum(p * np.log(np.maximum(p, 1e-300) / np.maximum(q, 1e-300))))
        hard = 0.0 if y == IGNORE_INDEX else -math.log(max(softmax(z)[y], 1e-300))
        rows.append(soft if y == IGNORE_INDEX else alpha * hard + (1 - alpha) * soft)
    found = distillation_loss(student, teacher, torch.tensor(labels), T, alpha)["loss"]
    assert float(found) == pytest.approx(np.mean(rows), rel=1e-5, abs=1e-7 * T**2)


@given(pairs(), temperatures, st.data())
def test_alpha_1_is_plain_cross_entropy_to_the_bit(logits, T, data):
    student, teacher = (x.float() for x in logits)
    n, classes = student.shape
    labels = torch.tensor(data.draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)))
    a, b = student.clone().requires_grad_(), student.clone().requires_grad_()
    ours, plain = distillation_loss(a, teacher, labels, T, 1.0)["loss"], cross_entropy(b, labels)
    assert torch.equal(ours, plain)
    ours.backward(), plain.backward()
    assert torch.equal(a.grad, b.grad)


def test_bad_input_is_refused_in_words():
    z, y = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"student's logits are \(2, 3\), the teacher's \(2, 5\).*same classes"):
        distillation_loss(z, torch.zeros(2, 5), y)
    for bad in ({"temperature": 0}, {"temperature": math.nan}, {"temperature": math.inf}, {"alpha": 1.5}):
        T, alpha = bad.get("temperature", 2.0), bad.get("alpha", 0.5)
        message = f"temperature must be above 0, alpha from 0 to 1; given: {T}, {alpha}"
        with pytest.raises(ValueError, match=message):
            distillation_loss(z, z, y, **bad)
        with pytest.raises(ValueError, match=message):
            Distillation(**bad)
    with pytest.raises(ValueError, match=r"one output\. Give the student the teacher's predictions as labels"):
        distillation_loss(z[:, :1], z[:, :1], torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="nothing to learn from: every label is -100"):
        distillation_loss(z[:0], z[:0], y[:0])


def test_a_place_that_is_padding_is_no_text_without_a_label():
    student, teacher = torch.randn(2, 2, 3, 5, generator=torch.Generator().manual_seed(0)).unbind(0)
    labels = torch.tensor([[1, 4, IGNORE_INDEX], [2, IGNORE_INDEX, IGNORE_INDEX]])
    with pytest.raises(ValueError, match=r"logits \(rows, classes\).*given: logits \(2, 3, 5\), labels \(2, 3\)"):
        distillation_loss(student, teacher, labels)
    kept = labels != IGNORE_INDEX
    by_hand = np.mean([
        0.5 * F.cross_entropy(z, y) + 0.5 * 4 * F.kl_div((z / 2).log_softmax(-1), (t / 2).softmax(-1), reduction="sum")
        for z, t, y in zip(student[kept], teacher[kept], labels[kept], strict=True)
    ])  # fmt: skip
    assert float(distillation_loss(student[kept], teacher[kept], labels[kept])["loss"]) == pytest.approx(by_hand)
    for wrong in (labels[0], labels[:1, 0], torch.zeros(2)):
        with pytest.raises(ValueError, match=f"labels .* of {wrong.dtype}"):
            distillation_loss(student[:, 0], teacher[:, 0], wrong)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_teacher_that_gives_no_numbers_is_named_with_its_row(bad):
    z, y = torch.zeros(3, 2), torch.tensor([0, 1, 1])
    for wrong in (torch.tensor([0.0, bad]), torch.tensor([-math.inf, -math.inf])):
        with pytest.raises(ValueError, match="teacher's logits of row 1 are no numbers: NaN, or infinite"):
            distillation_loss(z, torch.stack([z[0], wrong, z[0]]), y)


# the student


def kinds(arch: str) -> list[str]:
    return ["classifier"] + (
        ["causal_lm"] if arch in tiny.DECODERS else ["seq2seq"] if arch in tiny.ENCODER_DECODERS else []
    )


def inputs(kind: str) -> dict[str, torch.Tensor]:
    ids = torch.randint(7, 100, (2, 9), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = tiny.VOCABULARY["[SEP]"]
    return {"input_ids": ids} | ({"decoder_input_ids": ids} if kind == "seq2seq" else {})


MOVABLE = [arch for arch in tiny.EVERY if arch != "modernbert"]  # whose first layer is another kind


@pytest.mark.parametrize(("arch", "kind"), [(arch, kind) for arch in MOVABLE for kind in kinds(arch)])
def test_a_student_has_the_layers_it_keeps_and_survives_a_file(arch, kind, tmp_path):
    model = tiny.tiny_model(arch, kind, dropout=False).eval()
    before = tiny.weights(model)
    random = torch.get_rng_state()
    with torch.no_grad():
        whole = model(**inputs(kind)).logits
        assert torch.equal(make_student(model, [0, 1])(**inputs(kind)).logits, whole)
        outputs = [make_student(model, layers)(**inputs(kind)).logits for layers in ([0], [1], [-1], [1, 0])]
    assert torch.equal(outputs[1], outputs[2])
    assert not any(torch.allclose(outputs[i], outputs[j]) for i, j in ((0, 1), (0, 3), (1, 3)))
    student = make_student(model, [1])
    student.save_pretrained(tmp_path)
    with torch.no_grad():
        loaded = type(model).from_pretrained(tmp_path, num_labels=2).eval()  # else BART reads 3 where 2 was saved
        assert torch.equal(loaded(**inputs(kind)).logits, outputs[1])
    assert tiny.same_bits(tiny.weights(model), before) and torch.equal(torch.get_rng_state(), random)
    student.base_model.get_input_embeddings().weight.data.zero_()
    assert tiny.same_bits(tiny.weights(model), before)


def test_layers_that_are_not_there_and_methods_are_refused():
    model = tiny.tiny_model("bert")
    for layers in ([], [2], [-3]):
        with pytest.raises(ValueError, match="layers must be numbers from 0 to 1, at least one; given"):
            make_student(model, layers)
    with pytest.raises(ValueError, match="has methods added to it: eject or merge them first"):
        make_student(add_lora(model), [0])
    with pytest.raises(ValueError, match="Linear has no transformer layers"):
        make_student(torch.nn.Linear(2, 2), [0])


# inside


def eager_scores(model, ids, mask):
    "log of the attention probabilities: the scores, but for a constant in each row."
    model.set_attn_implementation("eager")
    attentions = model(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    return [a.log() for a in attentions]


@pytest.mark.parametrize("arch", ["bert", "distilbert", "roberta", "electra", "gpt2", "llama", "qwen2"])
def test_recorded_scores_are_those_of_the_attention_but_for_its_scale(arch):
    model = tiny.tiny_model(arch, dropout=False).eval()
    ids, mask = inputs("classifier")["input_ids"], torch.ones(2, 9, dtype=torch.long)
    inside = look_inside(model, {"input_ids": ids, "attention_mask": mask})
    with torch.no_grad():
        expected = eager_scores(model, ids, mask)
        assert_close(inside.logits, model(input_ids=ids, attention_mask=mask).logits, atol=1e-5, rtol=1e-4)
    assert len(inside.scores) == 2 and len(inside.hidden_states) == 3
    for ours, theirs in zip(inside.scores, expected, strict=True):
        seen = theirs.isfinite()  # the others are masked
        ours = torch.where(seen, ours, -torch.inf).log_softmax(-1)
        assert_close(ours[seen], theirs[seen], atol=1e-4, rtol=1e-3)


def test_the_parts_by_hand_leave_padding_out():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    weight = mask / mask.sum(1, keepdim=True) / 2
    s, t = torch.randn(2, 2, 3, 4, dtype=torch.float64).unbind(0)
    by_hand = np.mean([np.mean([((s - t)[b, i] ** 2).mean() for i in range(n)]) for b, n in enumerate((2, 3))])
    assert float(hidden_state_loss([s], [t], weight)) == pytest.approx(by_hand)
    assert float(hidden_state_loss([s, s], [t, t], weight)) == pytest.approx(2 * by_hand)
    cosines = F.cosine_similarity(s, t, dim=-1)
    by_hand = np.mean([np.mean([1 - cosines[b, i] for i in range(n)]) for b, n in enumerate((2, 3))])
    assert float(cosine_loss(s, t, weight)) == pytest.approx(by_hand, rel=1e-5)
    a, b = torch.randn(2, 2, 5, 3, 3, dtype=torch.float64).unbind(0)
    by_hand = np.mean([((a - b)[i, :, :n, :n] ** 2).mean() for i, n in enumerate((2, 3))])
    seen = (mask > 0).unsqueeze(1).expand(-1, 3, -1)
    assert float(attention_loss([a], [b], weight, seen)) == pytest.approx(by_hand)


# in a run


def taught(arch: str = "bert", kind: str = "classifier", *, student=None, teacher_dropout=False, **options):
    teacher = tiny.tiny_model(arch, kind, dropout=teacher_dropout, seed=1)
    data = tiny.tiny_tokens() if kind == "classifier" else tiny.tiny_language_data()
    settings = {name: options.pop(name) for name in ("epochs", "batch_size", "grad_accum") if name in options}
    student = student or make_student(tiny.tiny_model(arch, kind, dropout=False, seed=1), [0])
    return teacher, tiny.tiny_run(student, options.pop("data", data), loss=Distillation(teacher, **options), **settings)


@pytest.mark.parametrize("arch", tiny.EVERY)
def test_a_student_comes_nearer_to_its_teacher_which_does_not_move(arch):
    teacher, run = taught(arch, alpha=0.0, epochs=8)
    before = tiny.weights(teacher)
    steps = list(run)
    assert np.mean([s.parts["soft"] for s in steps[-6:]]) < 0.7 * np.mean([s.parts["soft"] for s in steps[:6]])
    assert tiny.same_bits(tiny.weights(teacher), before) and all(p.grad is None for p in teacher.parameters())
    assert not any("teacher" in name for name in run.trained)


@pytest.mark.parametrize(("arch", "kind"), [("bert", "classifier"), ("qwen2", "causal_lm"), ("llama", "causal_lm")])
def test_every_part_falls_when_it_counts(arch, kind):
    _, run = taught(arch, kind, hidden_states=1.0, attention=1.0, cosine=1.0, epochs=10)
    steps = list(run)
    for part in ("hidden_states", "attention", "cosine"):
        assert np.mean([s.parts[part] for s in steps[-3:]]) < np.mean([s.parts[part] for s in steps[:3]])
    first = steps[0].parts
    expected = 0.5 * (first["hard"] + first["soft"]) + first["hidden_states"] + first["attention"] + first["cosine"]
    assert steps[0].loss == pytest.approx(expected, rel=1e-4)


def test_a_learned_map_leads_from_a_narrow_student_to_a_wide_teacher():
    narrow = tiny.tiny_model("bert", dropout=False, hidden_size=16, num_attention_heads=4)
    _, run = taught(student=narrow, hidden_states=1.0, cosine=1.0, width=16)
    before = run.loss.map.weight.clone()
    next(run), next(run)
    assert not torch.equal(run.loss.map.weight, before) and "loss.map.weight" in run.trained


def test_the_teacher_is_in_evaluation_mode_whatever_the_student_does_and_is_left_as_it_was():
    teacher, run = taught(teacher_dropout=True, alpha=0.0)
    teacher.train()
    batch = next(train_batches(tiny.tiny_tokens()["train"], tiny.tiny_tokenizer(), 8))
    student = run.model.train()
    first, second = (run.loss(student, batch)["loss"].item() for _ in range(2))
    assert first == second and teacher.training and all(m.training for m in teacher.modules())


def test_evaluation_is_the_cross_entropy_of_the_labels_and_asks_no_teacher():
    teacher, run = taught()
    teacher.forward = None
    plain = tiny.tiny_run(copy.deepcopy(run.model), loss=classification_loss).evaluate("validation")
    assert run.evaluate("validation") == pytest.approx(plain)
    _, run = taught("gpt2", "causal_lm")
    plain = tiny.tiny_run(copy.deepcopy(run.model), tiny.tiny_language_data(), loss=language_model_loss)
    assert run.evaluate("validation")["perplexity"] == pytest.approx(
        plain.evaluate("validation")["perplexity"], rel=1e-5
    )


@pytest.mark.parametrize(
    ("arch", "kind", "parts"),
    [("bert", "classifier", {}), ("bert", "classifier", {"hidden_states": 1.0, "attention": 1.0, "cosine": 1.0}),
     ("gpt2", "causal_lm", {}), ("gpt2", "causal_lm", {"hidden_states": 1.0, "attention": 1.0, "cosine": 1.0})],
)  # fmt: skip
def test_accumulated_gradients_are_those_of_the_whole_batch(arch, kind, parts):
    whole = taught(arch, kind, batch_size=8, **parts)[1]
    pieces = taught(arch, kind, batch_size=2, grad_accum=4, **parts)[1]
    for _ in range(3):
        a, b = next(whole), next(pieces)
        assert a.loss == pytest.approx(b.loss, rel=1e-4) and a.grad_norm == pytest.approx(b.grad_norm, rel=1e-3)


def test_padding_counts_for_nothing():
    teacher, run = taught("gpt2", "causal_lm", hidden_states=1.0, attention=1.0, cosine=1.0)
    loss, student = run.loss, run.model.eval()
    batch = next(train_batches(tiny.tiny_language_data()["train"], tiny.tiny_tokenizer(), 4))
    padded = {name: F.pad(x, (0, 5), value=IGNORE_INDEX if name == "labels" else 0) if x.ndim == 2 else x
              for name, x in batch.items() if isinstance(x, torch.Tensor)}  # fmt: skip
    with torch.no_grad():
        a, b = loss(student, batch), loss(student, padded)
    for part in a:
        assert_close(a[part], b[part], atol=1e-5, rtol=1e-4)


# without labels, and from a file


def half_labelled() -> DatasetDict:
    data = tiny.tiny_data().cast_column("label", Value("int64"))
    hidden = data["train"].map(lambda row, i: {"label": row["label"] if i < 32 else IGNORE_INDEX}, with_indices=True)
    return DatasetDict({**data, "train": hidden})


def test_texts_without_labels_teach_what_the_teacher_thinks():
    teacher, run = taught(data=half_labelled(), alpha=1.0)
    batch = next(train_batches(half_labelled()["train"], tiny.tiny_tokenizer(), 64))
    unknown = {name: x[batch["labels"] == IGNORE_INDEX] for name, x in batch.items() if isinstance(x, torch.Tensor)}
    parts = run.loss(run.model.eval(), unknown)
    assert float(parts["hard"]) == 0 and float(parts["loss"]) == float(parts["soft"]) > 0
    assert len(list(run)) == 16


def test_cached_logits_change_no_number():
    teacher = tiny.tiny_model("bert", seed=1)
    data = tiny.tiny_data()
    cached = add_teacher_logits(data, teacher.double(), tiny.tiny_tokenizer())
    curves = []
    for splits, loss in ((data, Distillation(teacher)), (cached, Distillation())):
        student = make_student(tiny.tiny_model("bert", dropout=False, seed=1), [1])
        curves.append([step.loss for step in tiny.tiny_run(student, splits, loss=loss)])
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
    assert (
        "teacher_logits" not in data["train"].column_names and cached["test"].column_names == data["test"].column_names
    )
    again = tiny.tiny_run(
        make_student(tiny.tiny_model("bert", dropout=False, seed=1), [1]), cached, loss=Distillation()
    )
    assert [step.loss for step in again] == curves[1]


def test_cached_logits_stand_beside_their_texts_and_are_without_dropout(monkeypatch):
    monkeypatch.setattr(distillation, "fastest_precision", lambda *_: Choice("fp32", ""))
    teacher = tiny.tiny_model("bert", seed=1).train()
    data = tiny.tiny_data(10)
    cached = add_teacher_logits(data, teacher, tiny.tiny_tokenizer(), batch_size=3)
    assert teacher.training
    teacher.eval()
    for row in cached["train"]:
        with torch.no_grad():
            expected = teacher(**tiny.tiny_tokenizer()(row["text"], return_tensors="pt")).logits[0]
        assert_close(torch.tensor(row["teacher_logits"]), expected, atol=1e-5, rtol=1e-4)


def test_a_resumed_run_goes_on_to_the_bit(tmp_path):
    def make():
        narrow = tiny.tiny_model("bert", hidden_size=16, num_attention_heads=4)
        return narrow, Distillation(tiny.tiny_model("bert", seed=1), hidden_states=1.0, width=16)

    torch.manual_seed(0)
    narrow, loss = make()
    first = copy.deepcopy(loss.map.state_dict())
    whole = tiny.tiny_run(narrow, loss=loss)
    for _ in range(5):
        next(whole)
    whole.save(tmp_path / "run.safetensors")
    list(whole)
    narrow, loss = make()
    loss.map.load_state_dict(first)
    path = tmp_path / "run.safetensors"
    resumed = Run.resume(path, narrow, tiny.tiny_tokenizer(), tiny.tiny_tokens(), loss=loss)
    list(resumed)
    assert [s.loss for s in resumed.steps] == [s.loss for s in whole.steps]


# mismatches


def test_what_needs_the_teacher_itself_says_so():
    with pytest.raises(ValueError, match="matched with a teacher that is an encoder or a decoder"):
        Distillation(cosine=1.0)
    with pytest.raises(ValueError, match="matched with a teacher that is an encoder or a decoder"):
        Distillation(tiny.tiny_model("bart"), attention=1.0)
    with pytest.raises(ValueError, match=r"neither a teacher nor its logits: see Distillation\(teacher\)"):
        next(tiny.tiny_run(loss=Distillation()))
    with pytest.raises(ValueError, match="layers must be 2 of the teacher's numbers, 0 to 1; given: "):
        next(tiny.tiny_run(loss=Distillation(tiny.tiny_model("bert"), attention=1.0, layers=[0])))


def test_a_batch_of_nothing_but_masked_tokens_is_an_error():
    data = tiny.tiny_language_data()
    data["train"] = data["train"].map(lambda row: {"labels": [IGNORE_INDEX] * len(row["labels"])})
    _, run = taught("gpt2", "causal_lm", data=data)
    with pytest.raises(NonFiniteLoss, match="nothing to learn from"):
        next(run)
