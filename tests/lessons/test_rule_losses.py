"""Lesson 36: losses from labels and rules, on every model that they are for."""

import itertools
import math

import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Sequence as ListOf
from tiny import BAD, EVERY, GOOD, classification, same_bits, tiny_data, tiny_model, tiny_run, tiny_tokenizer, weights
from torch.nn.functional import cross_entropy, softplus
from torch.testing import assert_close

from finetune_lessons.cross_entropy import classification_loss, multi_label_loss
from finetune_lessons.lab.training.activations import ActivationCache
from finetune_lessons.lab.training.batches import train_batches
from finetune_lessons.rules import (
    Hybrid,
    SemanticLoss,
    add_clauses,
    add_votes,
    exactly_one_loss,
    keywords,
    part_labelled,
    rule_teacher,
    semantic_loss,
    truth_of_votes,
)

RULES = {"good": keywords(GOOD[:4], 1), "bad": keywords(BAD[:4], 0)}  # of half of the telling words


def hidden(labelled=8, train=64, clauses=False):
    "Few labels, and rules for the other texts."
    data = tiny_data(train, 16, 32)
    if clauses:
        texts = [f"{text} but {text}" if i % 2 else text for i, text in enumerate(data["train"]["text"])]
        data["train"] = data["train"].remove_columns("text").add_column("text", texts)
    few = DatasetDict({**data, "train": data["train"].select(range(labelled))})
    both = add_votes(part_labelled(few, data["train"].select(range(labelled, train))), RULES)
    return add_clauses(both, tiny_tokenizer()) if clauses else both


def batch_of(data, rows=range(16)):
    return next(train_batches(data["train"].select(rows), tiny_tokenizer(), 64)) | {"epoch": 0.5}


# the teacher that rules make of a model


def test_truth_is_one_for_the_class_of_the_vote_and_for_all_where_there_is_none():
    truth = truth_of_votes(torch.tensor([[1, -1], [-1, 0]]), 3)
    assert truth.tolist() == [[[0, 1, 0], [1, 1, 1]], [[1, 1, 1], [1, 0, 0]]]


def test_the_teacher_is_the_formula_worked_out_by_hand():
    p = torch.tensor([[0.2, 0.8], [0.5, 0.5]])
    truth = torch.tensor([[[1.0, 0.0], [1.0, 1.0]], [[0.3, 0.7], [0.0, 1.0]]])
    q = rule_teacher(p.log(), truth, strength=2.0, weights=[0.5, 1.5]).exp()
    for row in range(2):
        masses = [
            p[row, y] * math.exp(-2 * (0.5 * (1 - truth[row, 0, y]) + 1.5 * (1 - truth[row, 1, y]))) for y in (0, 1)
        ]
        assert_close(q[row], torch.stack(masses) / sum(masses))


def test_rules_that_abstain_leave_the_model_as_it_is_and_strong_ones_decide():
    log_p = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    votes = torch.tensor([[-1, -1], [2, -1], [0, 0], [-1, 1]])
    assert_close(rule_teacher(log_p, truth_of_votes(votes, 3), 0.0), log_p)
    strong = rule_teacher(log_p, truth_of_votes(votes, 3), 50.0)
    assert_close(strong[0], log_p[0])
    assert strong[1:].argmax(1).tolist() == [2, 0, 1]


def test_the_teacher_minimises_what_it_should():
    "KL(q || p) + C sum_r lambda_r E_q[1 - r]: no other distribution has less."
    generator = torch.Generator().manual_seed(1)
    p, truth = torch.rand(1, 3, generator=generator), torch.rand(1, 2, 3, generator=generator)
    log_p = (p / p.sum()).log()

    def price(q):
        return (q * (q.log() - log_p)).sum() + 3.0 * (q.unsqueeze(1) * (1 - truth)).sum()

    best = price(rule_teacher(log_p, truth, 3.0).exp())
    others = torch.distributions.Dirichlet(torch.ones(3)).sample((2000,))
    assert all(price(q.unsqueeze(0)) >= best - 1e-6 for q in others)


@pytest.mark.parametrize(
    ("truth", "weights", "said"),
    [(torch.ones(2, 3), None, "truth is"), (torch.ones(2, 1, 3), None, "truth is"),
     (torch.ones(2, 3, 2), [1.0], "1 weights for 3")],
)  # fmt: skip
def test_truths_and_weights_of_another_shape_are_refused(truth, weights, said):
    with pytest.raises(ValueError, match=said):
        rule_teacher(torch.zeros(2, 2), truth, weights=weights)


# the hybrid loss


@pytest.mark.parametrize("from_model", [True, False])
def test_the_hybrid_is_its_formula(from_model):
    model, batch = tiny_model("bert", dropout=False), batch_of(hidden())
    parts = Hybrid(0.7, C=2.0, weights=[0.5, 1.5], from_model=from_model)(model, batch)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    known, log_p = batch["labels"] != -100, logits.log_softmax(-1)
    lost = []
    for votes, row in zip(batch["votes"], log_p, strict=True):
        if max(votes) < 0:
            continue
        masses = []
        for y in (0, 1):
            broken = sum(weight * (vote not in (-1, y)) for weight, vote in zip((0.5, 1.5), votes, strict=True))
            masses.append(torch.exp((row[y].detach() if from_model else 0) - torch.tensor(2.0 * broken)))
        lost.append(-(torch.stack(masses) / sum(masses) * row).sum())
    labels = cross_entropy(logits[known], batch["labels"][known])
    assert 0 < len(lost) < 16 and known.any()
    assert_close(parts["labels"], labels)
    assert_close(parts["rules"], sum(lost) / 16)
    assert_close(parts["loss"], labels + 0.7 * sum(lost) / 16)


def test_no_gradient_goes_through_the_teacher():
    "The gradient of CE(q, p) with a constant q is p - q; at a p of one half it would be that with q's own as well."
    logits = torch.tensor([[0.4, -0.3]], requires_grad=True)

    class Model(torch.nn.Module):
        def forward(self, **inputs):
            return type("Output", (), {"logits": logits + 0})

    batch = {"input_ids": torch.ones(1, 1, dtype=torch.long), "labels": torch.tensor([-100]), "votes": [[1]]}
    Hybrid(1.0, C=3.0)(Model(), batch)["loss"].backward()
    p = logits.detach().softmax(-1)
    q = rule_teacher(p.log(), torch.tensor([[[0.0, 1.0]]]), 3.0).exp()
    assert_close(logits.grad, p - q)


def test_a_strength_of_zero_is_the_plain_loss_to_the_bit():
    found = []
    for loss in (classification_loss, Hybrid(0.0)):
        data = tiny_data()
        run = tiny_run(data=add_votes(data, RULES), loss=loss)
        list(run)
        found.append(weights(run.model))
    assert same_bits(*found)


@pytest.mark.parametrize("arch", EVERY)
def test_rules_teach_what_few_labels_do_not(arch):
    "Eight labels are learnt by heart with and without the rules of the other texts: what is gained comes from those."
    data = DatasetDict({**hidden(clauses=True), "test": tiny_data(64, 16, 200)["test"]})

    def accuracy(strength):
        run = tiny_run(tiny_model(arch, seed=1), data, loss=Hybrid(strength), epochs=20, lr=3e-3)
        steps = list(run)
        assert all(math.isfinite(step.loss) for step in steps) and {"labels", "rules"} <= steps[-1].parts.keys()
        assert (steps[-1].parts["rules"] > 0) == (strength > 0) and steps[-1].parts["labels"] < 0.1
        return run.evaluate("test")["accuracy"]

    assert accuracy(1.0) > accuracy(0.0) + 0.05


def test_rules_alone_teach():
    data = hidden()
    labels = [-100] * len(data["train"])
    blind = data["train"].remove_columns("label").add_column("label", labels, feature=data["train"].features["label"])
    run = tiny_run(data=DatasetDict({**data, "train": blind}), loss=Hybrid(1.0, from_model=False), epochs=8)
    list(run)
    assert run.evaluate("test")["accuracy"] > 0.8


def test_with_shuffled_labels_and_no_rule_nothing_is_learnt():
    data = tiny_data(64, 16, 200)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = [data["train"]["label"][i] for i in order]
    feature = data["train"].features["label"]
    data["train"] = data["train"].remove_columns("label").add_column("label", shuffled, feature=feature)
    run = tiny_run(data=add_votes(data, {"none": lambda text: 1 if text == data["train"]["text"][0] else -1}),
                   loss=Hybrid(1.0), epochs=4)  # fmt: skip
    list(run)
    assert 0.3 < run.evaluate("test")["accuracy"] < 0.7


@pytest.mark.parametrize("clauses", [False, True])
@pytest.mark.parametrize("accum", [2, 4])
def test_accumulated_steps_are_those_of_the_whole_batch(clauses, accum):
    def first(pieces):
        run = tiny_run(
            tiny_model("bert", dropout=False), hidden(clauses=clauses), loss=Hybrid(0.5), batch_size=16 // pieces,
            grad_accum=pieces,
        )  # fmt: skip
        return [next(run) for _ in range(3)]

    for whole, pieces in zip(first(1), first(accum), strict=True):
        assert_close(pieces.loss, whole.loss, atol=1e-5, rtol=1e-4)
        assert_close(pieces.grad_norm, whole.grad_norm, atol=1e-4, rtol=1e-3)
        assert_close(pieces.parts["rules"], whole.parts["rules"], atol=1e-5, rtol=1e-4)


def test_in_evaluation_it_is_the_cross_entropy_of_the_labels_for_any_batch_size():
    model = tiny_model("bert")
    plain = tiny_run(model, tiny_data(64, 16, 32), loss=classification).evaluate("test")
    for size in (1, 5, 64):
        found = tiny_run(model, hidden(), loss=Hybrid(3.0), batch_size=size).evaluate("test")
        assert_close(found["loss"], plain["loss"])
        assert found["accuracy"] == plain["accuracy"]


def test_batches_without_a_label_or_without_a_vote_go_on():
    data = hidden(labelled=4)
    batch = batch_of(data)
    loss, model = Hybrid(1.0), tiny_model("bert")
    none = batch | {"votes": [[-1, -1]] * len(batch["votes"])}
    assert float(loss(model, none)["rules"]) == 0 and loss(model, none)["loss"].requires_grad
    blind = batch | {"labels": torch.full_like(batch["labels"], -100)}
    assert float(loss(model, blind)["labels"]) == 0 and float(loss(model, blind)["rules"]) > 0
    assert all(math.isfinite(step.loss) for step in tiny_run(data=data, loss=Hybrid(1.0), batch_size=2, epochs=1))


def test_the_strength_grows_over_the_ramp():
    model, batch = tiny_model("bert", dropout=False), batch_of(hidden())

    def rules_count(epoch):
        parts = Hybrid(2.0, ramp=4.0)(model, batch | {"epoch": epoch})
        return float((parts["loss"] - parts["labels"]) / parts["rules"])

    assert_close([rules_count(epoch) for epoch in (0, 1, 4, 9)], [0.0, 0.5, 2.0, 2.0], atol=1e-4, rtol=1e-4)


def test_the_truth_of_a_clause_is_what_the_model_makes_of_it_alone():
    model, data = tiny_model("bert", dropout=False), hidden(clauses=True)
    batch = batch_of(data, range(8))
    with_clause = [row for row, ids in enumerate(batch["clause_ids"]) if ids]
    assert 0 < len(with_clause) < 8
    only = {name: value for name, value in batch.items() if name != "votes"}
    parts = Hybrid(1.0, C=3.0)(model, only)
    with torch.no_grad():
        log_p = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)
        lost = []
        for row in with_clause:
            r = model(input_ids=torch.tensor([batch["clause_ids"][row]])).logits.softmax(-1)[0]
            q = (log_p[row] + 3.0 * r).softmax(-1)
            lost.append(-(q * log_p[row]).sum())
    assert_close(parts["rules"].detach(), sum(lost) / 8, atol=1e-5, rtol=1e-4)


def test_a_run_with_rules_learns_from_a_cache_as_without():
    def trained(cache):
        model = tiny_model("bert", dropout=False)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("embeddings" not in name and "layer.0" not in name)
        run = tiny_run(model, hidden(clauses=True), loss=Hybrid(1.0), cache=cache, epochs=1)
        return [step.loss for step in run]

    assert_close(trained(ActivationCache()), trained(None), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "options", [{"strength": -1}, {"strength": math.inf}, {"C": 0}, {"ramp": -1}, {"strength": math.nan}], ids=str
)
def test_settings_of_a_hybrid_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="strength and ramp are at least 0, C above 0"):
        Hybrid(**options)


def test_data_without_rules_are_refused():
    with pytest.raises(ValueError, match="the data have no rules: see add_votes"):
        tiny_run(loss=Hybrid(1.0))


def test_labels_of_several_classes_are_refused():
    model, _ = topics()
    with pytest.raises(ValueError, match="one class a text; .* SemanticLoss"):
        tiny_run(model, topics()[1], loss=Hybrid(1.0))


def test_weights_for_other_rules_are_refused():
    with pytest.raises(ValueError, match="3 weights for 2 rules"):
        next(iter(tiny_run(data=hidden(), loss=Hybrid(1.0, weights=[1, 1, 1]))))


# the semantic loss


def worlds(logits, holds):
    p, total = logits.sigmoid().tolist(), 0.0
    for world in itertools.product((0, 1), repeat=len(p)):
        if holds(world):
            total += math.prod(x if yes else 1 - x for x, yes in zip(p, world, strict=True))
    return -math.log(total)


def exactly_one(world):
    return sum(world) == 1


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_exactly_one_is_the_sum_over_its_worlds(classes):
    logits = 3 * torch.randn(6, classes, generator=torch.Generator().manual_seed(classes), dtype=torch.double)
    expected = torch.tensor([worlds(row, exactly_one) for row in logits], dtype=torch.double)
    assert_close(exactly_one_loss(logits), expected)
    assert_close(semantic_loss(logits, exactly_one), expected)


@pytest.mark.parametrize(
    "holds", [lambda w: w[0] <= w[1], any, lambda w: sum(w) in (1, 2), lambda w: w == (True, False, True)]
)
def test_any_rule_is_the_sum_over_its_worlds(holds):
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    expected = torch.tensor([worlds(row, lambda w: holds(tuple(map(bool, w)))) for row in logits], dtype=torch.double)
    assert_close(semantic_loss(logits, holds), expected)


def test_numbers_that_can_be_worked_out():
    half = exactly_one_loss(torch.zeros(3))
    assert_close(half, torch.tensor(-math.log(3 / 8)))
    assert_close(exactly_one_loss(torch.tensor([60.0, -60.0, -60.0])), torch.tensor(0.0))
    two = torch.tensor([0.99, 0.99, 0.01]).logit()
    assert_close(exactly_one_loss(two), torch.tensor(3.93), atol=0.01, rtol=0)


def test_extreme_logits_stay_finite_with_a_gradient():
    for logits in (torch.full((4,), 80.0), torch.full((4,), -80.0)):
        logits.requires_grad_()
        loss = exactly_one_loss(logits)
        loss.backward()
        assert loss.isfinite() and logits.grad.isfinite().all() and (logits.grad != 0).any()


def test_rules_that_no_world_satisfies_and_too_many_classes_are_refused():
    with pytest.raises(ValueError, match="no world satisfies"):
        semantic_loss(torch.zeros(2), lambda w: False)
    with pytest.raises(ValueError, match="for 16 classes at most"):
        semantic_loss(torch.zeros(17), any)


def topics(labelled=12, train=64, arch="bert"):
    "Yes or no for each of two classes, which few texts have."
    data, nothing = tiny_data(train, 16, 32), [math.nan, math.nan]
    features = Features({"text": Value("string"), "label": ListOf(Value("float32"))})

    def rows(split, known):
        labels = [[float(y == 0), float(y == 1)] if i < known else nothing for i, y in enumerate(split["label"][:])]
        return Dataset.from_dict({"text": split["text"][:], "label": labels}, features)

    splits = {name: rows(split, labelled if name == "train" else 99) for name, split in data.items()}
    return tiny_model(arch, problem_type="multi_label_classification", seed=1), DatasetDict(splits)


def test_the_semantic_loss_for_a_run_is_its_formula():
    model, data = topics()
    batch = next(train_batches(data["train"].select(range(6, 18)), tiny_tokenizer(), 64))
    model.eval()  # without dropout; the loss learns
    parts = SemanticLoss(0.3)(model, batch)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    known = ~batch["labels"].isnan()
    hard = (softplus(logits) - batch["labels"].nan_to_num() * logits)[known].mean()
    soft = torch.tensor([worlds(row, exactly_one) for row in logits]).mean()
    assert known.any() and not known.all()
    assert_close(parts["labels"], hard)
    assert_close(parts["rules"].detach(), soft, atol=1e-5, rtol=1e-4)
    assert_close(parts["loss"], hard + 0.3 * soft, atol=1e-5, rtol=1e-4)


def test_a_semantic_strength_of_zero_is_the_plain_loss_to_the_bit():
    found = []
    for loss in (multi_label_loss, SemanticLoss(0.0)):
        run = tiny_run(*topics(labelled=64), loss=loss)
        list(run)
        found.append(weights(run.model))
    assert same_bits(*found)


@pytest.mark.parametrize("arch", EVERY)
def test_texts_without_a_label_come_to_have_exactly_one_class(arch):
    def share(strength):
        run = tiny_run(*topics(labelled=2, arch=arch), loss=SemanticLoss(strength), epochs=4)
        list(run)
        found = run.predict("test")["logits"]
        return sum(math.exp(-float(exactly_one_loss(torch.tensor(row)))) for row in found) / len(found)

    assert share(3.0) > share(0.0)


@pytest.mark.parametrize("accum", [2, 4])
def test_accumulated_semantic_steps_are_those_of_the_whole_batch(accum):
    def first(pieces):
        model, data = topics()
        for module in model.modules():
            module.p = 0.0 if isinstance(module, torch.nn.Dropout) else getattr(module, "p", None)
        run = tiny_run(model, data, loss=SemanticLoss(0.5), batch_size=16 // pieces, grad_accum=pieces)
        return [next(run) for _ in range(3)]

    for whole, pieces in zip(first(1), first(accum), strict=True):
        assert_close(pieces.loss, whole.loss, atol=1e-5, rtol=1e-4)
        assert_close(pieces.grad_norm, whole.grad_norm, atol=1e-4, rtol=1e-3)


def test_under_a_softmax_the_rule_says_nothing_and_is_refused():
    with pytest.raises(ValueError, match="under a softmax whatever the model says"):
        next(iter(tiny_run(loss=SemanticLoss(1.0))))


@pytest.mark.parametrize("strength", [-1.0, math.inf, math.nan])
def test_a_semantic_strength_that_makes_no_sense_is_refused(strength):
    with pytest.raises(ValueError, match="at least 0"):
        SemanticLoss(strength)
