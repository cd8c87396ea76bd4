"""Lesson 36: VADER, votes, Dawid-Skene, weak labels, amounts of money."""

import importlib.util
import itertools
import math
import random
from functools import cache

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from tiny import tiny_data
from torch.testing import assert_close

from finetune_lessons.lab.data.assets import asset_path
from finetune_lessons.lab.data.datasets import RATED
from finetune_lessons.rules import (
    DawidSkene,
    Vader,
    add_clauses,
    add_votes,
    after_but,
    apply_rules,
    find_amounts,
    keywords,
    majority_vote,
    on_clause,
    part_labelled,
    rule_table,
    same_rules,
    tied,
    vader_rule,
    weakly_labelled,
)

# VADER


@cache
def package():
    "The module of vaderSentiment 3.3.2 itself, from the archive that the ratings come from."
    file = asset_path("vader") / "vaderSentiment" / "vaderSentiment.py"
    spec = importlib.util.spec_from_file_location("vaderSentiment", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SentimentIntensityAnalyzer()


def reference(text):
    return package().polarity_scores(text)["compound"]


@cache
def vader():
    return Vader()


@pytest.mark.parametrize("name", RATED)
def test_vader_is_that_of_the_package_on_every_rated_text(name):
    file = asset_path("vader") / "hutto_ICWSM_2014" / f"{RATED[name]}_GroundTruth.txt"
    texts = [line.split("\t")[2] for line in file.read_text(encoding="utf-8-sig").strip("\n").split("\n")]
    assert len(texts) > 3000
    assert [(text, vader()(text)) for text in texts] == [(text, reference(text)) for text in texts]


SHARP = (
    "never so this without doubt least at very no or nor but kind of sort just enough yeah right the bomb bus stop to "
    "die for kiss death bad ass badass good great GOOD BAD horrible :) :( 😀 😡 not isn't ISN'T NEVER VERY really "
    "REALLY NO But BUT film kinda upper hand ! ?? ??? ???? !!! good! (good) ok, ' “good” n't"
).split()


def test_vader_is_that_of_the_package_on_texts_made_of_its_special_cases():
    rng = random.Random(0)
    for _ in range(8000):
        text = rng.choice((" ", "  ", "\n")).join(rng.choices(SHARP, k=rng.randint(0, 12)))
        assert vader()(text) == reference(text), text


@pytest.mark.parametrize("text", ["", " ", "😀", "😀good", "good😀", "!!!!!", "GOOD FILM", "no", "least good", "…"])
def test_vader_is_that_of_the_package_on_odd_texts(text):
    assert vader()(text) == reference(text)


def test_the_values_of_the_words_are_those_of_the_score():
    total = sum(value for _, value in vader().word_values("A good film, but not a great one"))
    assert vader()("A good film, but not a great one") == round(total / math.sqrt(total**2 + 15), 4)
    assert [w for w, v in vader().word_values("A very good, dull film") if v] == ["good", "dull"]


# votes


def test_keywords_are_whole_words_in_any_case():
    rule = keywords(["dull", "too long", "no-one"], 0)
    assert [rule(text) for text in ("So DULL!", "far too long.", "dullness", "a no-one", "fine", "too  long")] == [
        0, 0, -1, 0, -1, -1
    ]  # fmt: skip


@pytest.mark.parametrize("words", [[], ["good", " "]])
def test_keywords_that_would_match_everything_are_refused(words):
    with pytest.raises(ValueError, match="words are some words"):
        keywords(words, 1)


def test_vader_votes_where_its_score_is_far_enough_from_zero():
    texts = ["a good film", "a bad film", "a film"]
    assert [vader_rule()(text) for text in texts] == [1, 0, -1]
    assert vader_rule(cut=0.99)(texts[0]) == -1
    score = vader()(texts[0])
    assert vader_rule(cut=score)(texts[0]) == 1
    with pytest.raises(ValueError, match="cut is a score above 0"):
        vader_rule(0)


@pytest.mark.parametrize(
    ("text", "clause"),
    [("slow but moving in the end", "moving in the end"), ("Slow, BUT it moves but little", "it moves but little"),
     ("a rebuttal of it", None), ("but it is moving", None), ("all but gone", None), ("fine", None)],
)  # fmt: skip
def test_the_clause_after_but(text, clause):
    assert after_but(text) == clause
    assert on_clause(lambda part: 1 if part == clause else 0)(text) == (1 if clause else -1)


def test_votes_are_those_of_each_rule_on_each_text():
    rules = {"good": keywords(["good"], 1), "bad": keywords(["bad"], 0)}
    assert apply_rules(rules, ["good", "bad good", "film"]).tolist() == [[1, -1], [1, 0], [-1, -1]]
    assert apply_rules(rules, []).shape == (0, 2)


@pytest.mark.parametrize("answer", [None, True, 2, -2, 1.0, "1", np.int64(1)])
def test_an_answer_that_is_no_vote_is_named_with_its_rule(answer):
    with pytest.raises(ValueError, match="the rule 'odd' answers .* to 'a text'.*or -1"):
        apply_rules({"odd": lambda text: answer}, ["a text"])


@pytest.mark.parametrize("rules", [{}, {"good": 1}])
def test_rules_that_are_none_are_refused(rules):
    with pytest.raises(ValueError, match="functions by name"):
        apply_rules(rules, ["a text"])


VOTES = torch.tensor([[1, 1, 0], [1, 0, -1], [-1, -1, -1], [2, 1, 2], [0, 1, 2], [-1, 2, -1]])


def test_the_majority_wins_and_a_tie_is_no_vote():
    assert majority_vote(VOTES, 3).tolist() == [1, -1, -1, 2, -1, 2]
    assert tied(VOTES, 3).tolist() == [False, True, False, False, True, False]


def test_the_table_of_rules_counts_what_it_says():
    table = rule_table(VOTES, ["a", "b", "c"], torch.tensor([1, 0, 0, 2, 2, 2]))
    assert table.index.tolist() == ["a", "b", "c"] and table["votes for"].tolist() == ["0, 1, 2", "0, 1, 2", "0, 2"]
    expected = torch.tensor([[4, 4, 4, 2], [5, 4, 4, 3], [3, 3, 3, 2]]) / 6
    assert_close(torch.tensor(table.iloc[:, 1:4].to_numpy()), expected[:, :3].double())
    assert_close(torch.tensor(table["precision"].to_numpy()).float(), torch.tensor([2 / 4, 3 / 5, 2 / 3]))
    assert "precision" not in rule_table(VOTES, ["a", "b", "c"])


def test_a_rule_that_agrees_with_all_others_is_in_no_conflict():
    table = rule_table(torch.tensor([[1, 1, -1], [0, -1, -1], [1, 1, 0]]), ["a", "b", "c"])
    assert_close(table["conflict"].tolist(), [1 / 3, 1 / 3, 1 / 3])
    assert_close(table["overlap"].tolist(), [2 / 3, 2 / 3, 1 / 3])


@pytest.mark.parametrize(("names", "labels"), [(["a"], None), (["a", "b", "c"], [1, 0])])
def test_a_table_of_other_texts_or_rules_is_refused(names, labels):
    with pytest.raises(ValueError, match=r"votes are \(6, 3\)"):
        rule_table(VOTES, names, labels)


@pytest.mark.parametrize("votes", [torch.tensor([1, 0]), torch.tensor([[0.5, 1]]), torch.tensor([[True, False]])])
def test_what_are_no_votes_is_refused(votes):
    with pytest.raises(ValueError, match="votes are .* whole numbers"):
        majority_vote(votes)


def test_votes_for_unknown_classes_are_refused():
    with pytest.raises(ValueError, match="numbers of 3 classes, or -1; given: -1 to 5"):
        majority_vote(torch.tensor([[5, -1]]), 3)


# Dawid-Skene


def drawn(right, texts=20_000, coverage=0.7, classes=2, seed=0, balance=None):
    "Votes of independent rules that are right with these probabilities, and the true classes."
    rng = np.random.default_rng(seed)
    y = rng.choice(classes, texts, p=balance)
    votes = []
    for p in right:
        other = (y + rng.integers(1, classes, texts)) % classes
        vote = np.where(rng.random(texts) < p, y, other)
        votes.append(np.where(rng.random(texts) < coverage, vote, -1))
    return torch.tensor(np.stack(votes, 1)), torch.tensor(y)


def by_hand(votes, theta, balance):
    "log P(votes), and P(class | votes) of each text, summed over every way to give all texts classes."
    theta, balance, classes = theta.tolist(), balance.tolist(), len(balance)
    total, of_class = 0.0, np.zeros((len(votes), classes))
    for world in itertools.product(range(classes), repeat=len(votes)):
        p = 1.0
        for answers, y in zip(votes.tolist(), world, strict=True):
            p *= balance[y] * math.prod(theta[rule][y][vote] for rule, vote in enumerate(answers))
        total += p
        for text, y in enumerate(world):
            of_class[text, y] += p
    return math.log(total), of_class / total


THREE = torch.tensor([[1, 1, 0], [1, 0, -1], [0, 0, 1], [-1, 1, 1], [0, -1, 0], [1, 1, 1], [0, 0, 0]])


@pytest.mark.parametrize("balance", [None, [0.3, 0.7]])
@pytest.mark.parametrize("iterations", [1, 2, 7])
def test_likelihood_and_classes_are_those_of_every_world_of_three_voters(balance, iterations):
    model = DawidSkene(2, balance, iterations=iterations).fit(THREE)
    likelihood, classes = by_hand(THREE, model.theta, model.balance)
    assert_close(model.log_likelihood[-1], likelihood, atol=1e-9, rtol=0)
    assert_close(model.probabilities(THREE).numpy(), classes, atol=1e-9, rtol=0)
    if balance:
        assert model.balance.tolist() == balance


def slowly(votes, classes, iterations, smoothing):
    "The same, with dicts and loops."
    n, rules = votes.shape
    q = []
    for row in votes.tolist():
        counts = [sum(vote == y for vote in row) + 1e-9 for y in range(classes)]
        q.append([count / sum(counts) for count in counts])
    for _ in range(iterations):
        share = [sum(q[t][y] for t in range(n)) / n for y in range(classes)]
        theta = {}
        for rule, y in itertools.product(range(rules), range(classes)):
            counts = {a: smoothing for a in range(-1, classes)}
            for t in range(n):
                counts[int(votes[t, rule])] += q[t][y]
            theta[rule, y] = {a: count / sum(counts.values()) for a, count in counts.items()}
        new = []
        for t in range(n):
            joint = [share[y] * math.prod(theta[r, y][int(votes[t, r])] for r in range(rules)) for y in range(classes)]
            new.append([p / sum(joint) for p in joint])
        q = new
    return torch.tensor(q, dtype=torch.double)


@pytest.mark.parametrize("classes", [2, 3])
def test_em_is_that_of_another_implementation(classes):
    votes, _ = drawn([0.9, 0.7, 0.6, 0.8], texts=150, classes=classes)
    model = DawidSkene(classes, iterations=15, smoothing=0.5).fit(votes)
    assert_close(model.probabilities(votes), slowly(votes, classes, 15, 0.5), atol=1e-8, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_no_iteration_makes_the_votes_less_likely(seed):
    votes, _ = drawn([0.8, 0.65, 0.7, 0.6], texts=300, seed=seed)
    found = DawidSkene(smoothing=0.0, iterations=60).fit(votes).log_likelihood
    assert all(after >= before - 1e-8 for before, after in itertools.pairwise(found)) and found[-1] > found[0]


def test_what_independent_rules_are_worth_is_found_without_a_label():
    votes, y = drawn([0.9, 0.7, 0.6, 0.8], balance=[0.35, 0.65])
    model = DawidSkene().fit(votes)
    right = [1 - float(model.theta[r, y, 1 - y] / (1 - model.theta[r, y, 2])) for r in range(4) for y in (0, 1)]
    assert_close(right, [0.9, 0.9, 0.7, 0.7, 0.6, 0.6, 0.8, 0.8], atol=0.03, rtol=0)
    assert_close(model.balance.tolist(), [0.35, 0.65], atol=0.03, rtol=0)
    covered = (votes >= 0).any(1)
    best = (model.labels(votes) == y)[covered].double().mean()
    assert best > (majority_vote(votes) == y)[covered].double().mean() + 0.02


def test_rules_for_one_class_each_are_heard():
    votes, y = drawn([0.9, 0.9, 0.9])
    votes[:, 0] = votes[:, 0].where(votes[:, 0] == 1, -1)
    votes[:, 1] = votes[:, 1].where(votes[:, 1] == 0, -1)
    voted = (votes >= 0).any(1)
    found = DawidSkene().fit(votes)
    assert ((found.labels(votes) == y)[voted]).double().mean() > 0.9


def test_a_text_without_a_vote_has_no_label():
    votes, _ = drawn([0.9, 0.8, 0.7], texts=500)
    labels = DawidSkene().fit(votes).labels(votes)
    assert torch.equal(labels == -1, (votes < 0).all(1)) and (labels == -1).any()


def test_a_rule_that_never_errs_makes_nothing_infinite():
    votes, y = drawn([1.0, 0.7, 0.6], texts=400, coverage=1.0)
    model = DawidSkene(smoothing=0.0).fit(votes)
    assert model.probabilities(votes).isfinite().all() and math.isfinite(model.log_likelihood[-1])
    assert (model.labels(votes) == y).double().mean() > 0.95


def test_copies_of_a_rule_are_warned_of_and_make_it_sure_of_itself():
    votes, _ = drawn([0.6, 0.7, 0.65], texts=3000)
    copied = torch.cat([votes, votes[:, :1].expand(-1, 5)], 1)
    one = DawidSkene().fit(votes)
    with pytest.warns(UserWarning, match="the rules number 0 and 3, 0 and 4.* vote alike"):
        six = DawidSkene().fit(copied)
    covered = votes[:, 0] >= 0
    sure = [float(m.probabilities(v)[covered].amax(1).mean()) for m, v in ((one, votes), (six, copied))]
    assert sure[1] > 0.99 and sure[0] < 0.9


def test_independent_rules_are_not_called_copies(recwarn):
    votes, _ = drawn([0.9, 0.9, 0.9], texts=2000)
    DawidSkene(iterations=1).fit(votes)
    assert not recwarn and same_rules(votes) == []
    almost = votes[:, :1].clone()
    almost[:60] = -1
    assert same_rules(torch.cat([votes[:, :1], almost], 1)) == [(0, 1)]


def test_rules_that_never_vote_are_no_copies_of_each_other():
    assert same_rules(torch.tensor([[1, -1, -1], [0, -1, -1]])) == []


@pytest.mark.parametrize(
    ("votes", "said"),
    [([[1, 1, -1], [1, -1, 1]], "no vote is for class 0"), ([[-1, -1], [-1, -1]], "no rule votes on any"),
     ([[0, 1], [3, 1]], "numbers of 2 classes")],
)  # fmt: skip
def test_votes_from_which_nothing_can_be_learnt_are_refused(votes, said):
    with pytest.raises(ValueError, match=said):
        DawidSkene().fit(torch.tensor(votes))


@pytest.mark.parametrize(
    "options",
    [{"classes": 1}, {"smoothing": -1.0}, {"iterations": 0}, {"balance": [0.5, 0.6]}, {"balance": [1.0]},
     {"balance": [0.0, 1.0]}],
    ids=str,
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="given"):
        DawidSkene(**options)


def test_nothing_is_said_before_something_is_learnt():
    with pytest.raises(ValueError, match=r"call fit\(votes\) first"):
        DawidSkene().probabilities(VOTES.clamp(max=1))


# weak labels


def test_texts_without_a_weak_label_are_left_out_and_the_others_keep_theirs(capsys):
    data = tiny_data(6, 2, 2)
    weak = weakly_labelled(data, torch.tensor([1, -1, 0, -1, 1, 0]))
    assert weak["train"]["label"][:] == [1, 0, 1, 0]
    assert weak["train"]["text"][:] == [data["train"]["text"][i] for i in (0, 2, 4, 5)]
    assert weak["train"].features == data["train"].features
    assert weak["test"]["label"][:] == data["test"]["label"][:] and data["train"]["label"][:] == [0, 1] * 3
    assert capsys.readouterr().out == "4 of 6 train texts have a label by rules; the others are left out\n"


@pytest.mark.parametrize(
    ("labels", "said"),
    [([1, 1, 1, 1, -1, -1], "no vote is for class 0"), ([-1] * 6, "no vote is for class 0"), ([0, 1], "2 labels for"),
     ([0, 1, 2, 0, 0, 0], "label 2, but the data have 2 classes")],
)  # fmt: skip
def test_weak_labels_that_teach_nothing_are_refused(labels, said):
    with pytest.raises(ValueError, match=said):
        weakly_labelled(tiny_data(6, 2, 2), torch.tensor(labels))


def test_half_of_the_rows_have_a_label_and_no_label_of_the_others_is_left():
    data = tiny_data(60, 4, 4)
    few = DatasetDict({**data, "train": data["train"].select(range(5))})
    both = part_labelled(few, data["train"].select(range(5, 60)))
    labels = np.array(both["train"]["label"][:])
    assert len(labels) == 5 * 11 + 55 and (labels[55:] == -100).all()
    assert labels[:55].tolist() == data["train"]["label"][:5] * 11
    assert both["train"]["text"][55:] == data["train"]["text"][5:60] and both["test"] is data["test"]
    assert both["train"].features["label"] == data["train"].features["label"]


def test_more_texts_with_labels_than_without_are_taken_once():
    data = tiny_data(60, 4, 4)
    both = part_labelled(data, data["train"].select(range(3)).remove_columns("label"))
    assert both["train"]["label"][:] == [*data["train"]["label"], *[-100] * 3]
    assert both["train"].column_names == ["text", "label"]


def test_a_part_that_is_empty_is_refused():
    data = tiny_data(6, 2, 2)
    with pytest.raises(ValueError, match="6 texts with a label and 0 without"):
        part_labelled(data, data["train"].select([]))


def test_votes_and_clauses_stand_beside_the_train_texts(tokenizer):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    rows = {"text": ["good film but dull word1", "bad"], "label": [0, 0]}
    data = DatasetDict(train=Dataset.from_dict(rows, features), test=tiny_data(2, 2, 2)["test"])
    rules = {"good": keywords(["good"], 1), "bad": keywords(["bad"], 0)}
    both = add_clauses(add_votes(data, rules), tokenizer)
    assert both["train"]["votes"][:] == [[1, -1], [-1, 0]] and both["test"] is data["test"]
    assert both["train"]["clause_ids"][:] == [tokenizer("dull word1")["input_ids"], []]
    assert add_votes(both, {"one": lambda text: 1})["train"]["votes"][:] == [[1], [1]]


def test_rules_that_say_nothing_of_the_texts_are_refused(tokenizer):
    with pytest.raises(ValueError, match="none of the rules odd votes on any train text"):
        add_votes(tiny_data(4, 2, 2), {"odd": keywords(["nowhere"], 1)})
    with pytest.raises(ValueError, match="no train text has such a clause"):
        add_clauses(tiny_data(4, 2, 2), tokenizer)


# amounts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("worth £1.5m today", [(1.5e6, "£")]),
        ("US$ 300bn and $1,234,567.50", [(3e11, "$"), (1234567.5, "$")]),
        ("1.2 billion euros, or 20,000 euro", [(1.2e9, "€"), (20_000, "€")]),
        ("a 50-pound note, €5 and 3m yen", [(50, "£"), (5, "€"), (3e6, "¥")]),
        ("A$2.5 Billion (£1bn)", [(2.5e9, "A$"), (1e9, "£")]),
        ("$10.", [(10, "$")]),
        ("$5 million-plus, £3 trillion; £7k", [(5e6, "$"), (3e12, "£"), (7e3, "£")]),
        ("£4 more, $3 men, 12 dollarize", [(4, "£"), (3, "$")]),
        ("in 2004 some 1.5m people, 20% of $hares, the US dollar", []),
        ("", []),
    ],
)
def test_amounts_are_found_with_value_and_currency(text, expected):
    assert [(amount.value, amount.currency) for amount in find_amounts(text)] == expected


def test_amounts_say_where_they_stand():
    text = "From 3m euros to £4.5bn."
    assert [text[amount.start : amount.end] for amount in find_amounts(text)] == ["3m euros", "£4.5bn"]
