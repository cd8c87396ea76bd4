"""What labels mean is decided once, from the data and the head: one number whatever the batches, or one sentence."""

import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value
from sklearn.metrics import f1_score
from tiny import language_model, tiny_data, tiny_language_data, tiny_model, tiny_rows, tiny_run, tiny_tokenizer
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss
from transformers import BertForTokenClassification

from finetune_lessons.cross_entropy import classification_loss, language_model_loss, multi_label_loss
from finetune_lessons.lab.models.loading import load_encoder
from finetune_lessons.lab.models.predicting import predict
from finetune_lessons.lab.models.saving import save_model
from finetune_lessons.lab.training.batches import model_inputs, train_batches
from finetune_lessons.lab.training.tasks import labelled
from finetune_lessons.multitask import MultiTask, MultiTaskModel, UncertaintyWeighting, regression_loss

pytestmark = pytest.mark.usefixtures("one_thread")


def data_of(labels: list, column: str = "label", feature=None, test: list | None = None) -> DatasetDict:
    "Texts with these labels, as train and as test."
    splits = {}
    for name, given in (("train", labels), ("test", labels if test is None else test)):
        rows = {"text": tiny_rows(len(given))["text"], column: given}
        features = feature and Features({"text": Value("string"), column: feature})
        splits[name] = Dataset.from_dict(rows, features)
    return DatasetDict(splits)


def bert(outputs: int, **config):
    return tiny_model("bert", num_labels=outputs, dropout=False, **config)


def sgd(groups, lr):
    return torch.optim.SGD(groups, lr=lr)


# what a mean is over


def test_a_weighted_loss_is_the_same_whatever_the_batches():
    weight, data = torch.tensor([0.1, 3.0]), tiny_data(29)
    loss = partial(classification_loss, weight=weight)
    found = [tiny_run(bert(2), data, loss=loss, batch_size=size).evaluate("test") for size in (1, 3, 8, 32)]
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=1e-6)
    table = tiny_run(bert(2), data, loss=loss).predict("test")
    logits, labels = torch.tensor(np.stack(table["logits"])), torch.tensor(table["label"].to_numpy())
    assert found[0]["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels, weight).item(), abs=1e-6)


@pytest.mark.parametrize(("batch_size", "accum"), [(2, 4), (1, 8), (4, 2)])
def test_a_weighted_step_is_the_same_in_pieces(batch_size, accum):
    settings = {"loss": partial(classification_loss, weight=[0.1, 3.0]), "optimizer": sgd, "warmup": 0}
    whole = next(tiny_run(bert(2), tiny_data(), batch_size=8, **settings))
    pieces = next(tiny_run(bert(2), tiny_data(), batch_size=batch_size, grad_accum=accum, **settings))
    assert pieces.loss == pytest.approx(whole.loss, abs=1e-6)
    assert pieces.grad_norm == pytest.approx(whole.grad_norm, rel=1e-5)


def test_a_weighted_loss_of_one_of_several_tasks_is_the_same_whatever_the_batches():
    loss = MultiTask({"a": partial(classification_loss, weight=[0.1, 3.0]), "b": classification_loss})
    model = MultiTaskModel(bert(2), {"a": 2, "b": 2}, dropout=0.0)
    data = {"a": tiny_data(10), "b": tiny_data(10)}
    found = [tiny_run(model, data, loss=loss, batch_size=size).evaluate("test") for size in (1, 8, 32)]
    assert found[0] == pytest.approx(found[1], abs=1e-6) and found[0] == pytest.approx(found[2], abs=1e-6)


@pytest.mark.parametrize("weighting", [lambda: None, lambda: UncertaintyWeighting(["a", "b"], regressions=["b"])])
@pytest.mark.parametrize("accum", [2, 3, 4])
def test_a_joint_step_of_several_tasks_is_the_same_in_pieces(accum, weighting):
    def step(batch_size, accum):
        torch.manual_seed(0)
        model = MultiTaskModel(bert(2), {"a": 2, "b": 1}, dropout=0.0)
        losses = {"a": partial(classification_loss, weight=[0.1, 3.0]), "b": regression_loss}
        b = data_of([0.5, None, 2.0, None, None, -1.0, 3.0, 0.0, None, 1.0, 1.0])
        settings = {"sampling": "together", "optimizer": sgd, "warmup": 0, "loss": MultiTask(losses, weighting())}
        settings |= {"batch_size": batch_size, "grad_accum": accum}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = tiny_run(model, {"a": tiny_data(11, 0, 4), "b": b}, **settings)
        return next(run), model.state_dict()

    (whole, expected), (pieces, found) = step(12, 1), step(12 // accum, accum)
    assert pieces.loss == pytest.approx(whole.loss, rel=1e-5)
    assert pieces.parts == pytest.approx(whole.parts, rel=1e-5)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-5)


# missing labels


def test_missing_numbers_are_left_out_by_one_mask_and_said():
    labels = [0.5, None, -1.0, math.nan, 2.0, 0.0]
    with pytest.warns(UserWarning, match=r"2 of the 6 rows of the split 'train' have no label \(the first: ") as said:
        run = tiny_run(bert(1), data_of(labels), loss=regression_loss, batch_size=4, precision="fp32")
    assert said[0].filename == tiny_run.__code__.co_filename  # where the run is made
    table = run.predict("test").iloc[[0, 2, 4, 5]]
    expected = ((table["prediction"] - table["label"]) ** 2).mean()
    metrics = run.evaluate("test")
    assert metrics["mse"] == pytest.approx(expected, rel=1e-5) and metrics["loss"] == pytest.approx(expected, rel=1e-5)
    assert math.isfinite(next(run).loss)


def test_minus_one_hundred_is_a_number_of_a_regression():
    labels = [-100.0, 50.0, -20.0, 0.0, 100.0, 3.0, -100.0, 8.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = tiny_run(bert(1), data_of(labels), loss=regression_loss)
    table, metrics = run.predict("test"), run.evaluate("test")
    assert table["label"].tolist() == labels
    assert metrics["mse"] == pytest.approx(((table["prediction"] - labels) ** 2).mean(), rel=1e-5)
    settings = {"loss": regression_loss, "optimizer": sgd, "warmup": 0, "max_grad_norm": math.inf}
    whole = next(tiny_run(bert(1), data_of(labels), batch_size=8, **settings))
    pieces = next(tiny_run(bert(1), data_of(labels), batch_size=2, grad_accum=4, **settings))
    assert pieces.loss == pytest.approx(whole.loss, rel=1e-6)
    assert pieces.grad_norm == pytest.approx(whole.grad_norm, rel=1e-5)
    assert math.isfinite(next(tiny_run(bert(1), data_of([-100.0] * 4), loss=regression_loss)).loss)


def test_minus_one_hundred_is_a_missing_label_where_tasks_share_rows():
    data = {"score": data_of([1.0, -100.0, 3.0, -100.0]), "class": data_of([0, 1, -100, 1])}
    model = MultiTaskModel(bert(2), {"score": 1, "class": 2}, dropout=0.0)
    loss = MultiTask({"score": regression_loss, "class": classification_loss})
    with pytest.warns(UserWarning, match=r"2 of the 4 rows .* have no label \(the first: row 1, -100.0\)"):
        run = tiny_run(model, data, loss=loss, sampling="together", batch_size=4)
    metrics = run.evaluate("test")
    assert metrics["score/mse"] == pytest.approx(metrics["score/loss"], rel=1e-5) and metrics["score/mse"] < 100
    assert next(run).parts["score"] < 100


def test_a_class_that_is_missing_is_left_out_and_said_where_it_is_no_minus_one_hundred():
    with pytest.warns(UserWarning, match="1 of the 4 rows of the split 'train' have no label"):
        run = tiny_run(bert(2), data_of([0, None, -100, 1]), loss=classification_loss)
    assert run.predict("test")["label"].tolist() == [0, -100, -100, 1]
    table = run.predict("test").iloc[[0, 3]]
    assert run.evaluate("test")["accuracy"] == (table["label"] == table["prediction"]).mean()


def test_a_loss_that_trains_on_missing_numbers_is_blamed_and_not_the_learning_rate():
    def careless(model, batch):
        return mse_loss(model(**model_inputs(batch)).logits[:, 0], batch["labels"])

    with pytest.warns(UserWarning):
        run = tiny_run(bert(1), data_of([1.0, None]), loss=careless)
    with pytest.raises(ValueError, match="1 of its labels are missing .NaN.: the loss must leave them out") as error:
        next(run)
    assert "learning rate" not in str(error.value)


def test_an_infinite_label_is_refused():
    with pytest.raises(ValueError, match="row 1 of the split 'train' has the label inf, expected a finite number"):
        tiny_run(bert(1), data_of([1.0, math.inf]), loss=regression_loss)


# several classes a text

MULTI_HOT = [[1, 0, 1], [0, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1]]
FORMS = {
    "multi-hot": (MULTI_HOT, None),
    "floats": ([[float(x) for x in row] for row in MULTI_HOT], None),
    "truth values": ([[bool(x) for x in row] for row in MULTI_HOT], None),
    "numbers": ([[i for i in range(3) if row[i]] for row in MULTI_HOT], Sequence(Value("int64"))),
    "named": ([[i for i in range(3) if row[i]] for row in MULTI_HOT], Sequence(ClassLabel(names=["a", "b", "c"]))),
}


@pytest.mark.parametrize("form", FORMS)
def test_several_classes_a_text_are_a_task_of_their_own_in_whatever_form(form):
    labels, feature = FORMS[form]
    data = data_of(labels, feature=feature)
    found = [tiny_run(bert(3), data, loss=multi_label_loss, batch_size=size).evaluate("test") for size in (1, 2, 8)]
    assert found[0] == pytest.approx(found[1], abs=1e-6) and found[0] == pytest.approx(found[2], abs=1e-6)
    run = tiny_run(bert(3), data, loss=multi_label_loss)
    table = run.predict("test")
    logits, truth = torch.tensor(np.stack(table["logits"])), torch.tensor(MULTI_HOT)
    expected = binary_cross_entropy_with_logits(logits, truth.float()).item()
    assert found[0]["loss"] == pytest.approx(expected, abs=1e-6)
    predicted = (logits > 0).numpy()
    for average in ("micro", "macro"):
        score = f1_score(truth.numpy(), predicted, average=average, zero_division=0)
        assert found[0][f"f1_{average}"] == pytest.approx(score)
    assert np.stack(table["prediction"]).tolist() == predicted.astype(int).tolist()
    assert np.stack(table["label"]).tolist() == truth.tolist() and "perplexity" not in found[0]
    before = run.evaluate("train")["loss"]
    run.extend(20).finish()
    assert run.evaluate("train")["loss"] < before


def test_a_decision_that_is_missing_is_left_out():
    labels = [[1, -100, 0], [0, 1, -100]]
    run = tiny_run(bert(3), data_of(labels), loss=multi_label_loss)
    logits = torch.tensor(np.stack(run.predict("test")["logits"]))
    known = torch.tensor(labels) != -100
    expected = binary_cross_entropy_with_logits(logits[known], torch.tensor(labels)[known].float()).item()
    assert run.evaluate("test")["loss"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("labels", "says"), [
    ([[0.0, 1.0, 1.5]], r"row 0 of the split 'train' has the label \[0.0, 1.0, 1.5\], expected 0 to 1 for each class"),
    ([[0, 2], [3]], r"row 1 .* has the label \[3\], but the model has 3 outputs: expected the numbers"),
    ([[0.0, 1.0]], "the model has 3 outputs: expected one for each"),
])  # fmt: skip
def test_targets_that_are_no_decisions_are_refused(labels, says):
    with pytest.raises(ValueError, match=says):
        tiny_run(bert(3), data_of(labels), loss=multi_label_loss)


def test_several_numbers_a_text_are_a_regression_where_the_model_says_so():
    labels = [[1.5, -2.0], [0.0, 7.0], [3.0, 3.0]]
    run = tiny_run(bert(2, problem_type="regression"), data_of(labels), loss=regression_loss)
    predicted = np.stack(run.predict("test")["prediction"])
    assert run.evaluate("test")["mse"] == pytest.approx(((predicted - np.array(labels)) ** 2).mean(), rel=1e-5)
    assert run.evaluate("test")["loss"] == pytest.approx(run.evaluate("test")["mse"], rel=1e-5)


# head and labels that do not fit


@pytest.mark.parametrize(("outputs", "labels", "feature", "loss", "says"), [
    (2, [0.0, 1.0], None, classification_loss, "2 outputs, for classes, .* of type float64.*num_labels=1"),
    (1, [0, 1], ClassLabel(names=["a", "b"]), classification_loss, r"1 output, .*\(a, b\).*num_labels=2"),
    (1, [True, False], None, classification_loss, "1 output, for a number, .*true or false"),
    (3, [[1, 0, 1]], None, classification_loss, "one class a text, but the labels are .*see multi_label_loss"),
    (1, [0.5, 1.0], None, classification_loss, "one class a text, but the labels are .*see regression_loss"),
    (1, [[1, 0]], None, multi_label_loss, r"the model has 1 output, but row 0 .* has the label \[1, 0\]"),
    (2, ["bad", "good"], None, classification_loss, "row 0 .*has the label 'bad', expected a number: one_class_label"),
])  # fmt: skip
def test_labels_that_do_not_fit_the_head_are_refused_when_the_run_is_made(outputs, labels, feature, loss, says):
    with pytest.raises(ValueError, match=says):
        tiny_run(bert(outputs), data_of(labels, feature=feature), loss=loss)


def test_a_loss_that_wants_labels_is_told_that_there_are_none():
    data = tiny_data().rename_column("label", "sentiment")
    with pytest.raises(ValueError, match="asks for 'labels', and the data have no labels; .*sentiment.*rename"):
        tiny_run(bert(2), data, loss=classification_loss)
    run = tiny_run(bert(2), data)  # a loss that does not say what its mean is over is only known when it is called
    with pytest.raises(ValueError, match="asks for 'labels', and the data have no labels"):
        next(run)


def test_a_language_model_is_told_that_its_labels_are_classes_when_the_run_is_made():
    with pytest.raises(ValueError, match=r"are one a text.*remove_columns\('label'\)"):
        tiny_run(tiny_model("gpt2", "causal_lm"), tiny_data(), loss=language_model_loss)


def test_two_columns_of_labels_are_refused():
    data = tiny_data().map(lambda row: {"labels": row["label"]})
    with pytest.raises(ValueError, match="the split 'train' has the columns 'label' and 'labels'"):
        tiny_run(data=data)


def test_labels_of_a_language_model_stand_where_its_tokens_stand():
    short = tiny_language_data().map(lambda row: {"labels": row["labels"][:-1]})
    with pytest.raises(ValueError, match="the labels of the split 'train' are not one for each token"):
        tiny_run(tiny_model("gpt2", "causal_lm"), short, loss=language_model)
    unknown = tiny_language_data().map(lambda row: {"labels": [999] * len(row["labels"])})
    with pytest.raises(ValueError, match="row 0 of the split 'train' has the label 999 for a token, expected 0 to 102"):
        tiny_run(tiny_model("gpt2", "causal_lm"), unknown, loss=language_model)


# the same classes in all splits


def test_splits_that_number_their_classes_differently_are_refused():
    names = [ClassLabel(names=["anger", "joy"]), ClassLabel(names=["joy", "anger"])]
    train, test = (data_of([0, 1], feature=feature)["train"] for feature in names)
    with pytest.raises(ValueError, match="class 0 is 'anger' in the split 'train' and 'joy' in 'test': one_class"):
        tiny_run(bert(2), DatasetDict(train=train, test=test))


def test_a_split_whose_classes_are_written_as_floats_is_read_if_they_are_whole():
    train, test = data_of([0, 1])["train"], data_of([1.0, 0.0])["train"]
    assert tiny_run(bert(2), DatasetDict(train=train, test=test)).predict("test")["label"].tolist() == [1, 0]
    test = data_of([1.0, 0.5])["train"]
    with pytest.raises(ValueError, match="label 0.5 in row 1 of the split 'test', but the model has 2 outputs"):
        tiny_run(bert(2), DatasetDict(train=train, test=test))


def test_a_split_with_a_class_more_is_refused():
    names = [ClassLabel(names=["a", "b"]), ClassLabel(names=["a", "b", "c"])]
    train, test = (data_of([0, 1], feature=feature)["train"] for feature in names)
    with pytest.raises(ValueError, match="class 2 is None in the split 'train' and 'c' in 'test'"):
        tiny_run(bert(3), DatasetDict(train=train, test=test))


def test_a_model_gets_the_names_of_the_classes_and_keeps_its_own_order():
    model = bert(2)
    tiny_run(model, tiny_data())
    assert model.config.id2label == {0: "negative", 1: "positive"} and model.config.label2id["positive"] == 1
    turned = bert(2, id2label={0: "POSITIVE", 1: "NEGATIVE"})
    with pytest.raises(ValueError, match="class 0 is 'negative' in the data and 'POSITIVE' in the model"):
        tiny_run(turned, tiny_data())
    tiny_run(bert(2, id2label={0: "NEGATIVE", 1: "POSITIVE"}), tiny_data())


def test_a_model_is_told_what_its_outputs_are_and_predicts_accordingly(tmp_path):
    rows = [[1, 0, 1], [0, 0, 1]]
    run = tiny_run(bert(3, id2label={0: "a", 1: "b", 2: "c"}), data_of(rows), loss=multi_label_loss)
    with torch.no_grad():
        run.model.classifier.weight.zero_()
        run.model.classifier.bias.copy_(torch.tensor([2.0, -2.0, 3.0]))
    expected = torch.tensor([2.0, -2.0, 3.0]).sigmoid().tolist()
    save_model(run.model, run.tokenizer, tmp_path)
    for table in (
        run.predict(["good"]),
        predict(run.model, run.tokenizer, ["good"]),
        predict(*load_encoder(tmp_path), ["good"]),
    ):
        assert table["prediction"].tolist() == [["a", "c"]]
        assert table[["a", "b", "c"]].iloc[0].tolist() == pytest.approx(expected)


def test_a_model_that_named_several_classes_a_text_can_learn_to_name_one():
    model = bert(2, problem_type="multi_label_classification")
    run = tiny_run(model, tiny_data())
    assert isinstance(run.predict(["good"])["prediction"][0], str)
    assert bert(2).config.problem_type == tiny_run(bert(2), tiny_data()).model.config.problem_type


# other heads


def test_classes_of_tokens_have_no_perplexity():
    config = tiny_model("bert").config
    config.num_labels = 4
    model = BertForTokenClassification(config)
    data = tiny_language_data().map(lambda row: {"labels": [x % 4 if x >= 0 else x for x in row["labels"]]})
    assert set(tiny_run(model, data, loss=language_model).evaluate()) == {"loss"}
    wrong = data.map(lambda row: {"labels": [7] * len(row["labels"])})
    with pytest.raises(ValueError, match="has the label 7 for a token, expected 0 to 3"):
        tiny_run(model, wrong, loss=language_model)


def test_batches_without_a_model_say_which_labels_are_there():
    split = data_of([0.5, None])["train"]
    with pytest.warns(UserWarning, match="have no label"):
        batch = next(train_batches(split, tiny_tokenizer()))
    assert sorted(labelled(batch).tolist()) == [False, True]
    assert torch.equal(labelled({"labels": batch["labels"]}), labelled(batch))


def test_columns_that_are_called_as_what_a_batch_has_do_not_get_into_it():
    for name in ("tasks", "index", "task", "epoch", "labelled", "length"):
        data = tiny_data(8, 8, 8).map(lambda _, name=name: {name: 124})
        run = tiny_run(bert(2), data)
        expected = next(tiny_run(bert(2), tiny_data(8, 8, 8))).loss
        assert next(run).loss == expected and set(run.evaluate("test")) >= {"accuracy"}


def test_an_encoder_decoder_gives_its_encoder_to_several_tasks():
    model = MultiTaskModel(tiny_model("t5", "seq2seq"), {"a": 2, "b": 2})
    data = {"a": tiny_data(8, 8, 8), "b": tiny_data(8, 8, 8)}
    loss = MultiTask({"a": classification_loss, "b": classification_loss})
    run = tiny_run(model, data, loss=loss)
    assert math.isfinite(next(run).loss) and not [name for name, _ in model.named_parameters() if "decoder" in name]
