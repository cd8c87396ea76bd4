"""Who may teach: which classes, words, padding and lengths a teacher reads, asked in each step or once."""

import math

import pytest
import tiny
import torch
import torch.nn.functional as F
from datasets import ClassLabel, DatasetDict, Value
from torch.testing import assert_close

from finetune_lessons import distillation
from finetune_lessons.cross_entropy import cross_entropy
from finetune_lessons.distillation import Distillation, add_teacher_logits
from finetune_lessons.lab.training.batches import train_batches
from finetune_lessons.lab.training.precision import Choice
from finetune_lessons.lab.training.run import Run
from finetune_lessons.lab.training.tasks import IGNORE_INDEX
from finetune_lessons.lab.training.tokenising import tokenize

pytestmark = pytest.mark.usefixtures("one_thread")

IN_OUR_ORDER = (
    "The teacher's classes ['Positive', 'NEGATIVE'] are read in the student's order, ['negative', 'positive'].\n"
)


@pytest.fixture(autouse=True)
def in_fp32(monkeypatch):
    monkeypatch.setattr(distillation, "fastest_precision", lambda *_: Choice("fp32", ""))


def teacher_naming(*names: str, **config):
    teacher = tiny.tiny_model("bert", dropout=False, seed=1, **config)
    teacher.config.id2label = dict(enumerate(names))
    return teacher


def turned(teacher):
    "The same teacher, its classes in the other order."
    other = tiny.tiny_model("bert", dropout=False, seed=1)
    other.load_state_dict(teacher.state_dict())
    other.classifier.load_state_dict({name: x.flip(0) for name, x in teacher.classifier.state_dict().items()})
    other.config.id2label = {0: "Positive", 1: "NEGATIVE"}
    return other


def curve(data: DatasetDict, loss: Distillation) -> list[float]:
    return [step.loss for step in tiny.tiny_run(tiny.tiny_model("bert", dropout=False), data, loss=loss)]


# classes


def test_classes_in_another_order_are_read_by_name_in_both_ways_and_said_once(capsys):
    teacher, data = teacher_naming("negative", "positive"), tiny.tiny_data()
    expected = curve(data, Distillation(teacher))
    assert capsys.readouterr().out == ""
    assert curve(data, Distillation(turned(teacher))) == pytest.approx(expected, rel=1e-5)
    assert capsys.readouterr().out == IN_OUR_ORDER
    cached = add_teacher_logits(data, turned(teacher), tiny.tiny_tokenizer())
    assert capsys.readouterr().out == IN_OUR_ORDER
    assert curve(cached, Distillation()) == pytest.approx(expected, rel=1e-5)
    plain = add_teacher_logits(data, teacher, tiny.tiny_tokenizer())
    assert_close(torch.tensor(cached["train"]["teacher_logits"][:]), torch.tensor(plain["train"]["teacher_logits"][:]))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("names", [("bad", "good"), ("negative", "Negative"), ("negative", "neutral")])
def test_classes_of_other_names_are_refused_in_both_ways(names):
    teacher, message = teacher_naming(*names), r"student's classes are \['negative', 'positive'\], the teacher's \['"
    with pytest.raises(ValueError, match=message):
        next(tiny.tiny_run(data=tiny.tiny_data(), loss=Distillation(teacher)))
    with pytest.raises(ValueError, match=message):
        add_teacher_logits(tiny.tiny_data(), teacher, tiny.tiny_tokenizer())


def test_names_that_nobody_knows_refuse_no_teacher():
    data = tiny.tiny_data().cast_column("label", Value("int64"))
    for names in (("LABEL_0", "LABEL_1"), ("good", "bad")):
        teacher = teacher_naming(*names)
        next(tiny.tiny_run(data=data, loss=Distillation(teacher)))
        add_teacher_logits(data, teacher, tiny.tiny_tokenizer())
    add_teacher_logits(tiny.tiny_data(), teacher_naming("LABEL_0", "LABEL_1"), tiny.tiny_tokenizer())


def test_three_classes_change_places_as_their_names_say(capsys):
    data = tiny.tiny_data(9).cast_column("label", ClassLabel(names=["a", "b", "c"]))
    teacher = teacher_naming("a", "b", "c", num_labels=3)
    logits = torch.tensor(add_teacher_logits(data, teacher, tiny.tiny_tokenizer())["train"]["teacher_logits"][:])
    teacher.config.id2label = {0: "c", 1: "a", 2: "b"}  # its output 0 is now called c
    found = add_teacher_logits(data, teacher, tiny.tiny_tokenizer())["train"]["teacher_logits"][:]
    assert_close(torch.tensor(found), logits[:, [1, 2, 0]])
    with pytest.raises(ValueError, match=r"student's logits are \(8, 2\), the teacher's \(8, 3\)"):
        next(tiny.tiny_run(loss=Distillation(tiny.tiny_model("bert", num_labels=3))))


@pytest.mark.parametrize(
    ("config", "given"),
    [({"num_labels": 1}, "with numbers for outputs"),
     ({"num_labels": 2, "problem_type": "regression"}, "with numbers for outputs"),
     ({"num_labels": 2, "problem_type": "multi_label_classification"}, "with several classes a text")],
)  # fmt: skip
def test_a_teacher_without_a_distribution_over_classes_is_refused_in_both_ways(config, given):
    teacher, message = tiny.tiny_model("bert", **config), f"given: BertForSequenceClassification {given}. Give"
    with pytest.raises(ValueError, match=message):
        Distillation(teacher)
    with pytest.raises(ValueError, match=message):
        add_teacher_logits(tiny.tiny_data(), teacher, tiny.tiny_tokenizer())


def test_labels_that_are_numbers_are_refused_when_the_run_is_made():
    data = tiny.tiny_data().cast_column("label", Value("float32"))
    loss = Distillation(tiny.tiny_model("bert"))
    with pytest.raises(ValueError, match="classes, of which one holds; given: labels that are numbers"):
        tiny.tiny_run(tiny.tiny_model("bert", num_labels=1), data, loss=loss)


# words, padding, positions


@pytest.mark.parametrize(("ours", "theirs"), [(103, 128), (128, 103)])
@pytest.mark.parametrize("kind", ["classifier", "causal_lm"])
def test_a_padded_vocabulary_works_once_it_is_cut_as_the_message_says(kind, ours, theirs):
    data = tiny.tiny_data() if kind == "classifier" else tiny.tiny_language_data()
    student = tiny.tiny_model("qwen2", kind, dropout=False, vocab_size=ours)
    teacher = tiny.tiny_model("qwen2", kind, dropout=False, seed=1, vocab_size=theirs)
    larger = "teacher" if theirs > ours else "student"
    advice = f"{larger}.resize_token_embeddings(103)"
    loss = Distillation(teacher, temperature=1.0, alpha=0.0)
    with pytest.raises(ValueError, match=f"knows {ours} tokens, the teacher {theirs}.*") as refused:
        next(tiny.tiny_run(student, data, loss=loss))
    assert advice in str(refused.value)

    batch = next(train_batches(data["train"], tiny.tiny_tokenizer(), 8))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        p, q = (model.eval()(**inputs).logits for model in (teacher, student))
        if kind == "causal_lm":
            counts = batch["labels"][:, 1:] != IGNORE_INDEX
            p, q = (z[:, :-1][counts][:, :103] for z in (p, q))
        expected = F.kl_div(q.log_softmax(-1), p.softmax(-1), reduction="batchmean")
        {"teacher": teacher, "student": student}[larger].resize_token_embeddings(103)
        assert float(loss(student, batch)["loss"]) == pytest.approx(float(expected), rel=1e-4)
    next(tiny.tiny_run(student, data, loss=loss))


def test_a_teacher_that_takes_another_token_for_padding_is_refused():
    student, teacher = (tiny.tiny_model("gpt2", pad_token_id=pad) for pad in (0, 6))
    with pytest.raises(ValueError, match="takes the token 0 for padding, the teacher 6.*config.pad_token_id = 0"):
        next(tiny.tiny_run(student, loss=Distillation(teacher)))
    with pytest.raises(ValueError, match=r"pads with 0 \('\[PAD\]'\), but the model takes 6"):
        add_teacher_logits(tiny.tiny_data(), teacher, tiny.tiny_tokenizer())
    teacher.config.pad_token_id = 0
    next(tiny.tiny_run(student, loss=Distillation(teacher)))


@pytest.mark.parametrize("kind", ["classifier", "causal_lm"])
def test_a_teacher_of_fewer_positions_is_named_with_both_numbers_and_the_way_out_works(kind):
    data = tiny.tiny_data() if kind == "classifier" else tiny.tiny_language_data()
    student, teacher = (tiny.tiny_model("gpt2", kind, n_positions=positions) for positions in (64, 8))
    with pytest.raises(ValueError, match=r"a text has \d\d tokens, the teacher takes 8: cut .* max_length=8"):
        list(tiny.tiny_run(student, data, loss=Distillation(teacher)))
    if kind == "causal_lm":
        return
    cached = add_teacher_logits(data, teacher, tiny.tiny_tokenizer())
    for row in cached["train"].select(range(8)):
        ids = tiny.tiny_tokenizer()(row["text"], truncation=True, max_length=8, return_tensors="pt")
        with torch.no_grad():
            assert_close(torch.tensor(row["teacher_logits"]), teacher.eval()(**ids).logits[0], atol=1e-5, rtol=1e-4)
    next(tiny.tiny_run(student, cached, loss=Distillation()))
    with pytest.raises(ValueError, match=r"row \d+ of the split 'train' has \d\d tokens, the model takes 8"):
        add_teacher_logits(tiny.tiny_tokens().remove_columns("text"), teacher, tiny.tiny_tokenizer())


# asked once


def test_logits_go_with_their_texts_wherever_those_go():
    data = tiny.tiny_data(24)
    teacher = tiny.tiny_model("bert", seed=1).train()
    cached = add_teacher_logits(data, teacher, tiny.tiny_tokenizer(), batch_size=5)["train"]
    by_text = dict(zip(cached["text"], cached["teacher_logits"], strict=True))
    moved = cached.shuffle(seed=3).sort("label").select(range(3, 20))
    assert all(row["teacher_logits"] == by_text[row["text"]] for row in moved)
    batch = next(train_batches(moved, tiny.tiny_tokenizer(), 8))
    for row, logits in zip(batch["index"].tolist(), batch["teacher_logits"], strict=True):
        assert logits == by_text[moved[row]["text"]]


def test_a_split_without_labels_and_one_that_was_read_before_are_read():
    data, first, second = tiny.tiny_data(), *(tiny.tiny_model("bert", dropout=False, seed=seed) for seed in (1, 2))
    bare = DatasetDict({**data, "train": data["train"].remove_columns("label")})
    tokenizer = tiny.tiny_tokenizer()
    once = add_teacher_logits(bare, second, tokenizer)
    twice = add_teacher_logits(add_teacher_logits(data, first, tokenizer), second, tokenizer)
    assert once["train"]["teacher_logits"][:] == twice["train"]["teacher_logits"][:]
    run = tiny.tiny_run(tiny.tiny_model("bert"), once, loss=Distillation(alpha=1.0))
    assert next(run).parts["hard"] == 0


def test_a_teacher_in_bf16_teaches_in_both_ways():
    data, teacher = tiny.tiny_data(), tiny.tiny_model("bert", dropout=False, seed=1).bfloat16()
    expected = curve(data, Distillation(teacher))
    cached = add_teacher_logits(data, teacher, tiny.tiny_tokenizer())
    assert curve(cached, Distillation()) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_teacher_that_gives_no_numbers_is_found_out(bad):
    data, teacher = tiny.tiny_data(), tiny.tiny_model("bert", seed=1)
    teacher.classifier.bias.data[1] = bad
    with pytest.raises(ValueError, match="teacher's logits of row .* are no numbers"):
        next(tiny.tiny_run(data=data, loss=Distillation(teacher)))
    with pytest.raises(ValueError, match=r"teacher's logits of row \d+ of the split 'train' are no numbers"):
        add_teacher_logits(data, teacher, tiny.tiny_tokenizer())


def test_tokens_of_another_tokenizer_are_not_read_by_the_teacher():
    teacher, tokenizer = tiny.tiny_model("bert", dropout=False, seed=1), tiny.tiny_tokenizer()

    def read(train):
        return add_teacher_logits(DatasetDict(train=train), teacher, tokenizer)["train"]["teacher_logits"][:]

    ours, tokens = read(tiny.tiny_data()["train"]), tiny.tiny_tokens()["train"]
    assert read(tokens) == ours
    others = tokens.map(lambda row: {"input_ids": [(i * 7) % 103 for i in row["input_ids"]]})
    with pytest.raises(ValueError, match="otherwise than by the teacher's tokenizer: remove the column input_ids"):
        read(others)
    assert read(others.remove_columns(["input_ids", "attention_mask"])) == ours
    assert read(tokenize(tiny.tiny_data(), tokenizer, max_length=5)["train"]) != ours


def test_what_no_teacher_can_be_asked_once_is_said():
    lm = tiny.tiny_model("gpt2", "causal_lm")
    message = r"for classifiers of texts.*given: \(\d+, \d+, 103\).*Distillation\(teacher\)"
    with pytest.raises(ValueError, match=message):
        add_teacher_logits(tiny.tiny_language_data(), lm, tiny.tiny_tokenizer())
    with pytest.raises(ValueError, match="needs a split 'train'; it has: none"):
        add_teacher_logits(DatasetDict(test=tiny.tiny_data()["test"]), tiny.tiny_model("bert"), tiny.tiny_tokenizer())


@pytest.mark.parametrize("rows", [[[1.0, 2.0], [1.0]], [[1.0, 2.0], None], [[], []]])
def test_a_column_of_logits_that_lacks_some_is_refused(rows):
    batch = next(train_batches(tiny.tiny_data(2)["train"], tiny.tiny_tokenizer(), 2))
    with pytest.raises(ValueError, match="teacher_logits must be a list in every row, all of one length"):
        Distillation()(tiny.tiny_model("bert"), batch | {"teacher_logits": rows})


# one number, however many texts are looked at together


def half_unknown(kind: str) -> DatasetDict:
    data = tiny.tiny_data() if kind == "classifier" else tiny.tiny_language_data(24, 16)
    if kind == "classifier":
        data = data.cast_column("label", Value("int64"))
        return data.map(lambda row, i: {"label": IGNORE_INDEX if i % 4 < 2 else row["label"]}, with_indices=True)
    return data.map(lambda row, i: {"labels": [IGNORE_INDEX] * len(row["labels"]) if i % 4 < 2 else row["labels"]},
                    with_indices=True)  # fmt: skip


def made(arch: str, kind: str, batch_size: int, grad_accum: int = 1) -> Run:
    student, teacher = (tiny.tiny_model(arch, kind, dropout=False, seed=seed) for seed in (0, 1))
    loss = Distillation(teacher, alpha=0.3, hidden_states=0.2, cosine=0.4)
    return tiny.tiny_run(student, half_unknown(kind), loss=loss, batch_size=batch_size, grad_accum=grad_accum)


@pytest.mark.parametrize(("arch", "kind"), [("bert", "classifier"), ("gpt2", "classifier"), ("gpt2", "causal_lm")])
def test_evaluation_and_the_parts_of_a_step_are_one_number_whatever_the_batch_size(arch, kind):
    found = [made(arch, kind, size).evaluate("validation")["loss"] for size in (1, 3, 32)]
    assert found == pytest.approx([found[0]] * 3, rel=1e-5)
    whole, pieces = next(made(arch, kind, 8)), next(made(arch, kind, 2, grad_accum=4))
    assert pieces.loss == pytest.approx(whole.loss, rel=1e-4)
    assert pieces.parts == pytest.approx(whole.parts, rel=1e-4)


def test_the_evaluation_is_the_mean_over_the_labels_that_are_there():
    run = made("bert", "classifier", 3)
    batch = next(train_batches(half_unknown("classifier")["validation"], tiny.tiny_tokenizer(), 16))
    with torch.no_grad():
        logits = run.model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert run.evaluate("validation")["loss"] == pytest.approx(float(cross_entropy(logits, batch["labels"])), rel=1e-5)


def test_parts_inside_are_means_over_the_labelled_tokens_of_a_token_classifier():
    student, teacher = (tiny.tiny_model("bert", "masked_lm", dropout=False, seed=seed) for seed in (0, 1))
    data = tiny.tiny_language_data()
    curves = []
    for size, accum in ((8, 1), (2, 4)):
        student = tiny.tiny_model("bert", "masked_lm", dropout=False)
        loss = Distillation(teacher, hidden_states=1.0)
        curves.append(next(tiny.tiny_run(student, data, loss=loss, batch_size=size, grad_accum=accum)))
    assert curves[0].parts == pytest.approx(curves[1].parts, rel=1e-4)


def test_a_split_without_any_label_cannot_evaluate_a_student_and_says_so():
    data = tiny.tiny_data()
    bare = DatasetDict({**data, "validation": data["validation"].remove_columns("label")})
    with pytest.raises(ValueError, match="evaluated by the labels, and this split has none"):
        tiny.tiny_run(data=bare, loss=Distillation(tiny.tiny_model("bert"))).evaluate("validation")
