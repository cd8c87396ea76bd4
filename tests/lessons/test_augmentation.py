"""Lesson 41: what the changes do to texts, by their distributions; what they must not touch; and the judges."""

import itertools
import random
import subprocess
import sys
import warnings
from collections import Counter
from fractions import Fraction

import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import GOOD, PLAIN, VOCABULARY, tiny_data, tiny_model, tiny_rows, tiny_tokenizer

from finetune_lessons.augmentation import (
    BackTranslation,
    Deletion,
    FillIn,
    Insertion,
    OneOf,
    Swap,
    Synonyms,
    WordTable,
    _best,
    augment,
    changed,
    diversity,
    eda,
    hub_translator,
    is_negation,
    label_kept,
    leaks,
    lexicon_neighbours,
    model_judge,
    nearest_words,
    repeated,
    vader_judge,
    word_probabilities,
)
from finetune_lessons.cross_entropy import classification_loss
from finetune_lessons.lab.training.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")

NEAR = {"good": ["fine", "great"], "bad": ["poor"], "film": ["movie"]}
CHANGES = {
    "synonyms": Synonyms(0.3, NEAR),
    "insertion": Insertion(0.3, NEAR),
    "swap": Swap(0.3),
    "deletion": Deletion(0.3),
    "one of": OneOf([Swap(0.5), Deletion(0.5)]),
    "eda": eda(NEAR, 0.3),
}
each = pytest.mark.parametrize("name", CHANGES)
TEXT = "a good film , not a bad film"


def drawn(how, text, n=4000):
    "How often each outcome comes, of so many copies."
    return Counter(how([text] * n, [random.Random(i) for i in range(n)]))


def is_distributed(found, expected):
    "Pearson's chi-square at one in a million; what is impossible must not come at all."
    from scipy.stats import chi2

    assert abs(sum(expected.values()) - 1) < 1e-9
    assert not found.keys() - expected.keys()
    n = sum(found.values())
    total = sum((found[x] - n * float(p)) ** 2 / (n * float(p)) for x, p in expected.items() if p)
    assert total < chi2.ppf(1 - 1e-6, max(1, len(expected) - 1)), (found, expected)


# the four operations of EDA, against their distributions, worked out by going through all draws


def test_deletion_is_by_the_word_and_never_all():
    words, p, expected = ["a", "b", "c"], Fraction(2, 5), Counter()
    for stays in itertools.product((True, False), repeat=3):
        chance = Fraction(1)
        for there in stays:
            chance *= 1 - p if there else p
        left = [word for word, there in zip(words, stays, strict=True) if there]
        for text in [" ".join(left)] if left else words:
            expected[text] += chance if left else chance / 3
    is_distributed(drawn(Deletion(0.4), "a b c"), expected)


def test_swap_is_one_of_all_pairs_as_often_as_floor_of_the_share_says():
    def swaps(words, n):
        if not n:
            return Counter({" ".join(words): Fraction(1)})
        found, pairs = Counter(), list(itertools.combinations(range(len(words)), 2))
        for i, j in pairs:
            other = list(words)
            other[i], other[j] = other[j], other[i]
            for text, p in swaps(other, n - 1).items():
                found[text] += p / len(pairs)
        return found

    is_distributed(drawn(Swap(0.1), "a b c"), swaps("abc", 1))  # at least once
    is_distributed(drawn(Swap(0.5), "a b c d"), swaps("abcd", 2))
    is_distributed(drawn(Swap(0.74), "a b c d"), swaps("abcd", 2))  # 2.96, floored


def test_insertion_puts_any_neighbour_of_any_word_before_any_word():
    near, words = {"a": ["x", "y"], "b": ["z"], "x": ["q"]}, ["a", "b", "c"]

    def insertions(words, n):
        if not n:
            return Counter({" ".join(words): Fraction(1)})
        found, known = Counter(), [word for word in words if word in near]
        for word in known:
            for new in near[word]:
                for place in range(len(words)):
                    p = Fraction(1, len(known) * len(near[word]) * len(words))
                    for text, q in insertions([*words[:place], new, *words[place:]], n - 1).items():
                        found[text] += p * q
        return found

    is_distributed(drawn(Insertion(0.1, near), "a b c"), insertions(words, 1))
    is_distributed(drawn(Insertion(0.7, near), "a b c", 20000), insertions(words, 2))


def test_synonyms_take_different_words_everywhere_they_stand():
    near = {"a": ["x", "y"], "b": ["z"]}
    one = {"x b x c": Fraction(1, 4), "y b y c": Fraction(1, 4), "a z a c": Fraction(1, 2)}
    is_distributed(drawn(Synonyms(0.25, near), "a b a c"), one)
    two = {"x z x c": Fraction(1, 2), "y z y c": Fraction(1, 2)}
    is_distributed(drawn(Synonyms(0.5, near), "a b a c"), two)
    is_distributed(drawn(Synonyms(0.9, near), "a b a c"), two)  # there are no more than two


def test_eda_takes_each_of_its_four_as_often():
    found = drawn(OneOf([lambda texts, _, i=i: [f"{i}"] * len(texts) for i in range(4)]), "a")
    is_distributed(found, {str(i): Fraction(1, 4) for i in range(4)})
    assert [type(change).__name__ for change in eda(NEAR).changes] == ["Synonyms", "Insertion", "Swap", "Deletion"]
    assert {change.share for change in eda(NEAR, 0.2).changes} == {0.2}


def test_one_of_gives_each_text_to_its_change_with_its_own_draws():
    how = OneOf([Swap(0.5), Deletion(0.5)])
    texts = [" ".join(random.Random(i).choices(PLAIN, k=8)) for i in range(30)]
    whole = changed(texts, how, seed=3)
    assert len(set(whole)) == 30
    for text, new in zip(texts, whole, strict=True):
        assert set(new.split()) <= set(text.split())


def test_punctuation_and_capitals_stay_where_they_were():
    how = Synonyms(1.0, NEAR)
    found = {*drawn(how, 'Good, "film" (bad)!', 50)}
    assert found == {'Fine, "movie" (poor)!', 'Great, "movie" (poor)!'}


@each
def test_a_share_of_nothing_changes_nothing(name):
    how = {"synonyms": Synonyms(0, NEAR), "insertion": Insertion(0, NEAR), "swap": Swap(0), "deletion": Deletion(0),
           "one of": OneOf([Swap(0), Deletion(0)]), "eda": eda(NEAR, 0)}[name]  # fmt: skip
    assert changed([TEXT], how) == [TEXT]


@each
@settings(max_examples=40, deadline=None)
@given(text=st.text("ab .,!'Ä\n字", max_size=30), seed=st.integers(0, 1000))
def test_any_text_is_changed_into_a_text_with_something_in_it(name, text, seed):
    (new,) = changed([text], CHANGES[name], seed)
    assert isinstance(new, str) and bool(new.strip()) == bool(text.strip())


def test_what_is_to_stay_is_never_deleted():
    kept = drawn(Deletion(0.9, keep=is_negation), "it is not good and never isn't NOT.", 300)
    assert all(text.split().count("not") == 1 and "isn't" in text and "NOT." in text for text in kept)
    assert not all("not" in text.split() for text in drawn(Deletion(0.9), "it is not good", 300))
    assert is_negation("Not") and is_negation("couldn't") and not is_negation("good") and not is_negation("note")


@pytest.mark.parametrize("share", [-0.1, 1.1, "a", True, None])
def test_a_share_that_is_none_is_refused(share):
    for make in (Swap, Deletion, lambda share: Synonyms(share, NEAR), lambda share: eda(NEAR, share)):
        with pytest.raises(ValueError, match="share must be a number from 0 to 1"):
            make(share)


# the train split, and nothing else


def rows(n=10, **more):
    return DatasetDict({**tiny_data(n), **more})


def test_only_the_train_split_is_changed():
    data = rows()
    found = augment(data, Swap(0.3), n=3, seed=1)
    assert all(found[split] is data[split] for split in ("validation", "test"))
    train = found["train"]
    assert len(train) == 40 and train.features["label"] == data["train"].features["label"]
    assert train["text"][:10] == data["train"]["text"][:]
    assert train["copy"][:] == [copy for copy in range(4) for _ in range(10)]
    assert train["source"][:] == list(range(10)) * 4
    assert train["label"][:] == data["train"]["label"][:] * 4
    for text, source in zip(train["text"], train["source"], strict=True):
        assert sorted(text.split()) == sorted(data["train"]["text"][source].split())
    assert len({*train["text"]}) > 35  # each copy is drawn anew


def test_repetition_has_as_many_rows_in_the_same_places():
    data = rows()
    plain, new = repeated(data, 2), augment(data, Swap(0.3), 2)
    for column in ("label", "source", "copy"):
        assert plain["train"][column][:] == new["train"][column][:]
    assert plain["train"]["text"][:] == data["train"]["text"][:] * 3
    assert plain["test"] is data["test"]


def test_a_row_does_not_depend_on_the_rows_beside_it():
    data, how = rows(), Swap(0.3)
    whole = augment(data, how, 2, seed=5)["train"]
    part = augment(DatasetDict({**data, "train": data["train"].select(range(4))}), how, 2, seed=5)["train"]
    assert [whole["text"][10 * c + i] for c in range(3) for i in range(4)] == part["text"][:]
    assert augment(data, how, 2, seed=6)["train"]["text"][:] != whole["text"][:]


def test_a_run_learns_from_it():
    data = augment(rows(16), Swap(0.2), 1)
    settings = {"loss": classification_loss, "epochs": 1, "batch_size": 8, "eval_every": 0}
    run = Run(tiny_model("bert"), tiny_tokenizer(), data, **settings)
    for _ in run:
        pass
    assert len(run) == 4 and 0 <= run.evaluate("test")["accuracy"] <= 1


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_same_seed_gives_the_same_texts_in_every_process(hash_seed):
    code = (
        "from finetune_lessons.augmentation import *\n"
        f"texts = {[TEXT, 'good bad film ' * 4]!r}\n"
        f"near = {NEAR!r}\n"
        "print([changed(texts, how, 7, copy) for how in (eda(near, 0.4), Synonyms(0.2, near)) for copy in range(5)])\n"
        "print(lexicon_neighbours({'a': 1.0, 'b': 1.0, 'c': 1.0, 'd': 2.0}, {'a', 'b', 'c', 'd'}, 2))\n"
        "print(word_probabilities([['a', 'b'], ['b']], [['x', 'y'], ['y']]))"
    )
    env = {"PYTHONHASHSEED": hash_seed, "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout
    texts = [TEXT, "good bad film " * 4]
    here = [changed(texts, how, 7, copy) for how in (eda(NEAR, 0.4), Synonyms(0.2, NEAR)) for copy in range(5)]
    near = lexicon_neighbours({"a": 1.0, "b": 1.0, "c": 1.0, "d": 2.0}, {"a", "b", "c", "d"}, 2)
    t = word_probabilities([["a", "b"], ["b"]], [["x", "y"], ["y"]])
    assert there.splitlines() == [str(here), str(near), str(t)]


@pytest.mark.parametrize(
    ("data", "n", "sentence"),
    [
        (tiny_data(8)["train"], 1, "Split first"),
        (DatasetDict(test=tiny_data(8)["test"]), 1, "given: splits test"),
        (tiny_data(8), 0, "at least 1; given: 0"),
        (tiny_data(8), True, "at least 1; given: True"),
        (tiny_data(8).rename_column("text", "title"), 1, "expected a column 'text'; the train split has: title"),
    ],
)
def test_what_cannot_be_augmented_is_refused(data, n, sentence):
    for function in (lambda: augment(data, Swap(), n), lambda: repeated(data, n)):
        with pytest.raises(ValueError, match=sentence):
            function()


def test_rows_that_were_split_after_augmenting_are_refused():
    late = augment(DatasetDict(train=tiny_data(20)["train"]), Swap(0.3))["train"].train_test_split(0.3, seed=0)
    with pytest.raises(ValueError, match="augmented already"):
        augment(late, Swap(0.3))


def test_a_change_of_nothing_is_said():
    spaced = DatasetDict(train=Dataset.from_dict({"text": ["a  b\n"], "label": [0]}))
    for data in (rows(), spaced):
        with pytest.raises(ValueError, match="nothing changes"):
            augment(data, Swap(0))
    few = {"text": ["a  b", *"abcdefg"], "label": [0, 1] * 4}
    data = DatasetDict(train=Dataset.from_dict(few))
    with pytest.warns(UserWarning, match="88% of the copies are their text itself"):
        augment(data, Swap(0.3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        augment(rows(), Swap(0.3))


def test_a_copy_that_stands_in_another_split_is_told():
    data = DatasetDict(
        train=Dataset.from_dict({"text": ["a b", "c d"], "label": [0, 1]}),
        test=Dataset.from_dict({"text": ["B  a"], "label": [0]}),
    )
    with pytest.warns(UserWarning, match="1 texts of the train split stand in 'test' too, such as 'b a'"):
        augment(data, Swap(0.3))


def test_a_change_that_loses_texts_is_refused():
    with pytest.raises(ValueError, match="given 2, it gave 1"):
        changed(["a", "b"], lambda texts, draws: texts[:1])
    assert changed(["a", "b"], lambda texts, draws: ["", " "]) == ["a", "b"]
    with pytest.raises(ValueError, match="number 1 is 3"):
        changed(["a", 3], Swap())


# leaks


def test_leaks_finds_the_copies_of_rows_that_were_split_after_augmenting():
    whole = DatasetDict(train=Dataset.from_dict(tiny_rows(40)))
    late = augment(whole, Deletion(0.1), 2)["train"].train_test_split(0.25, seed=0)
    found = leaks(late["train"], late["test"])
    sources = {*late["train"]["source"]}
    assert found["row"].tolist() and {*found["row"]} >= {
        i for i, source in enumerate(late["test"]["source"]) if source in sources
    }
    plain = leaks(late["train"].remove_columns("source"), late["test"])
    assert 0 < len(plain) <= len(found)


def test_leaks_by_the_words_that_two_texts_have_in_common():
    train = Dataset.from_dict({"text": ["one two three four", "x y"]})
    test = Dataset.from_dict({"text": ["Four, three two ONE five!", "one x z", "", "q"]})
    found = leaks(train, test, 0.8)
    assert found[["row", "likeness", "train_text"]].values.tolist() == [[0, pytest.approx(0.8), "one two three four"]]
    assert len(leaks(train, test, 0.81)) == 0
    both = leaks(train, test, 0.25)
    assert both["row"].tolist() == [0, 1] and both["train_text"].tolist() == ["one two three four", "x y"]
    assert len(leaks(Dataset.from_dict({"text": ["!"]}), Dataset.from_dict({"text": ["?"]}))) == 0


def test_data_without_copies_have_no_leak():
    data = tiny_data(30, 10, 10)
    assert len(leaks(augment(data, Swap(0.3))["train"], data["test"], 0.9)) == 0


# neighbours


def a_model(words=40, dim=8):
    model = tiny_model("bert")
    with torch.no_grad():
        torch.manual_seed(0)
        model.get_input_embeddings().weight.normal_()
        weight = model.get_input_embeddings().weight
        for one, other, angle in (("good", "great", 0.1), ("good", "fine", 0.2), ("bad", "poor", 0.1)):
            a, b = VOCABULARY[one], VOCABULARY[other]
            weight[b] = 3 * (weight[a] + angle * weight[b])  # the length says nothing
    return model


def test_the_nearest_words_are_those_of_the_largest_cosine():
    model, tokenizer = a_model(), tiny_tokenizer()
    near = nearest_words(model, tokenizer, ["Good,", "bad", "unheard"], k=2)
    assert near["good"] == ["great", "fine"] and near["bad"][0] == "poor" and set(near) == {"good", "bad"}
    words = [w for w in VOCABULARY if w.isalpha()]
    vectors = model.get_input_embeddings().weight[[VOCABULARY[w] for w in words]]
    cosines = torch.nn.functional.cosine_similarity(vectors[words.index("clumsy")][None], vectors)
    order = [words[i] for i in cosines.argsort(descending=True)]
    assert nearest_words(model, tokenizer, ["clumsy"], 3)["clumsy"] == [w for w in order if w[:4] != "clum"][:3]


def test_neighbours_that_a_lexicon_speaks_against_are_left_out():
    model, tokenizer = a_model(), tiny_tokenizer()
    lexicon = {"good": 1.9, "great": -2.5, "fine": 0.95, "poor": -1.0}
    near = nearest_words(model, tokenizer, ["good"], 3, lexicon=lexicon)
    assert near["good"] == ["fine"]  # all others are unknown, 0, and further than 1 away
    assert "great" not in nearest_words(model, tokenizer, ["dull"], 30, lexicon=lexicon)["dull"]
    but = nearest_words(model, tokenizer, ["good", "bad"], 2, but=["great", "bad"])
    assert "great" not in but["good"] and "bad" not in but


def test_neighbours_by_value_alone():
    lexicon = {"good": 1.9, "fine": 1.8, "great": 3.1, "bad": -2.5, "poor": -2.0, "other": 0.0}
    near = lexicon_neighbours(lexicon, ["Good", "fine,", "great", "bad", "poor", "word"], 2)
    assert near["good"] == ["fine", "great"] and near["bad"] == ["poor", "fine"]
    assert set(near) == {"good", "fine", "great", "bad", "poor"}
    assert lexicon_neighbours(lexicon, ["good"]) == {}


# filled in by a model


def filler(kind="masked_lm", arch="bert"):
    return tiny_model(arch, kind)


def texts(n=6):
    return [" ".join(random.Random(i).choices(GOOD, k=5 + i)) for i in range(n)]


@pytest.mark.parametrize("arch", ["bert", "distilbert", "roberta", "electra", "modernbert"])
def test_what_is_filled_in_is_what_the_model_names_at_the_gap(arch):
    model, tokenizer, text = filler(arch=arch).eval(), tiny_tokenizer(), "good film , dull"
    words = [w for w in VOCABULARY if w.isalpha()]
    ids = tokenizer("good [MASK] , dull", return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]).logits[0, 2]
    p = logits[[VOCABULARY[w] for w in words]].softmax(-1)
    best = [words[i] for i in p.argsort(descending=True).tolist()][:3]
    how = FillIn(model, tokenizer, share=0.1, k=3, keep=lambda word: word != "film")
    weights = {word: p[words.index(word)].item() for word in best}
    total = sum(weights.values())
    is_distributed(drawn(how, text, 600), {f"good {w} , dull": x / total for w, x in weights.items()})


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2", "opt"])
def test_a_decoder_fills_in_what_it_would_go_on_with(arch):
    model, tokenizer = filler("causal_lm", arch).eval(), tiny_tokenizer()
    words = [w for w in VOCABULARY if w.isalpha()]
    ids = tokenizer("good film", return_tensors="pt")["input_ids"][:, :-1]  # without the end
    with torch.no_grad():
        logits = model(input_ids=ids[:, :2]).logits[0, -1]  # [CLS] good
    best = words[int(logits[[VOCABULARY[w] for w in words]].argmax())]
    (new,) = changed(["good film"], FillIn(model, tokenizer, share=0.5, k=1))
    assert new == f"good {best}"
    long = "good film , " + " ".join(GOOD)  # padded beside it, the answer is the same
    assert changed(["good film", long], FillIn(model, tokenizer, share=0.01, k=1))[0] == f"good {best}"


def test_the_word_itself_is_never_filled_in():
    model, tokenizer = filler().eval(), tiny_tokenizer()
    for text, new in zip(texts(), changed(texts(), FillIn(model, tokenizer, share=0.5, k=50)), strict=True):
        pairs = list(zip(text.split(), new.split(), strict=True))
        assert sum(a != b for a, b in pairs) == max(1, int(0.5 * len(pairs)))


def test_filling_in_leaves_the_model_as_it_was_and_does_not_depend_on_its_batches():
    model, tokenizer = filler().train(), tiny_tokenizer()
    random_state = torch.get_rng_state()
    one = changed(texts(), FillIn(model, tokenizer, share=0.3, batch_size=1))
    assert one == changed(texts(), FillIn(model, tokenizer, share=0.3, batch_size=4))
    assert model.training and torch.equal(random_state, torch.get_rng_state())
    assert changed(["1 2 , ."], FillIn(model, tokenizer)) == ["1 2 , ."]
    assert changed(["Good, film"], FillIn(model, tokenizer, keep=lambda w: w == "film"))[0][0].isupper()


@pytest.mark.parametrize(("arch", "kind"), [("bert", "masked_lm"), ("llama", "causal_lm")])
def test_of_a_text_that_is_too_long_the_end_stays_as_it_is(arch, kind, capsys):
    model, tokenizer, text = filler(kind, arch).eval(), tiny_tokenizer(), " ".join(GOOD * 20)
    (new,) = changed([text], FillIn(model, tokenizer, share=1.0))
    same = [a == b for a, b in zip(text.split(), new.split(), strict=True)]
    assert not any(same[1:60]) and all(same[70:])
    assert "1 of 1 texts cut to the 64 tokens" in capsys.readouterr().out


def test_a_text_with_a_mask_of_its_own_is_refused():
    with pytest.raises(ValueError, match="has the token .MASK. itself"):
        changed(["good [MASK] film"], FillIn(filler(), tokenizer=tiny_tokenizer(), keep=lambda word: word != "good"))


def test_a_model_that_names_no_words_is_refused():
    with pytest.raises(ValueError, match="given: BertForSequenceClassification"):
        FillIn(tiny_model("bert"), tiny_tokenizer())
    with pytest.raises(ValueError, match="share must be"):
        FillIn(filler(), tiny_tokenizer(), share=2)


# there and back


PAIRS = Dataset.from_dict(
    {
        "en": ["the house", "the book", "a book", "the red house", "save the book", "save"],
        "fr": ["la maison", "le livre", "un livre", "la maison rouge", "enregistrer le livre", "enregistrer"],
    }
)


def test_the_word_table_is_ibms_first_model():
    "Against the model written out: the likelihood of every alignment, one by one."
    sources, targets = [["the", "house"], ["the", "book"]], [["das", "Haus"], ["das", "Buch"]]
    es, fs = ["", "the", "house", "book"], ["das", "Haus", "Buch"]
    t = {(e, f): Fraction(1, 3) for e in es for f in fs}
    for _ in range(3):
        counts = Counter()
        for source, target in zip(sources, targets, strict=True):
            alignments = list(itertools.product(["", *source], repeat=len(target)))
            chances = []
            for alignment in alignments:
                p = Fraction(1)
                for e, f in zip(alignment, target, strict=True):
                    p *= t[e, f]
                chances.append(p)
            for alignment, p in zip(alignments, chances, strict=True):
                for e, f in zip(alignment, target, strict=True):
                    counts[e, f] += p / sum(chances)
        t = {(e, f): counts[e, f] / sum(counts[e, g] for g in fs) for e in es for f in fs}
    found = word_probabilities(sources, targets, 3)
    for e, f in t:
        assert found[e].get(f, 0.0) == pytest.approx(float(t[e, f]), abs=1e-12)


def test_a_word_stands_for_another_where_both_directions_agree():
    there = {"a": {"x": 0.6, "y": 0.4}, "": {"x": 1.0}}
    assert _best(there, {"x": {"a": 0.1}, "y": {"a": 0.9}}) == {"a": "y"}


def test_a_word_table_translates_both_ways_and_leaves_what_it_does_not_know():
    translate = WordTable(PAIRS)
    assert translate(["Save the book!"], "en", "fr")[0] == "Enregistrer le livre!"
    assert translate(["un livre rouge"], "fr", "en") == ["a book red"]  # in the order of the words
    assert translate(["%s zebra 7"], "en", "fr") == ["%s zebra 7"]
    with pytest.raises(ValueError, match="translates en to fr, fr to en; asked for: en to de"):
        translate(["a"], "en", "de")


def test_back_translation_goes_there_and_back():
    seen = []

    def translate(texts, source, target):
        seen.append((source, target))
        return [f"{text} {target}" for text in texts]

    assert changed(["a", "b"], BackTranslation(translate, via="de")) == ["a de en", "b de en"]
    assert seen == [("en", "de"), ("de", "en")]


@pytest.mark.parametrize("arch", ["t5", "bart"])
def test_any_folder_of_an_encoder_decoder_translates(arch, tmp_path):
    for pair, seed in (("en-fr", 0), ("fr-en", 1)):
        tiny_model(arch, "seq2seq", seed=seed).save_pretrained(tmp_path / pair)
        tiny_tokenizer().save_pretrained(tmp_path / pair)
    translate = hub_translator(f"{tmp_path}/{{source}}-{{target}}", max_new_tokens=5)
    there = translate(["good film", "dull"], "en", "fr")
    model, tokenizer = tiny_model(arch, "seq2seq", seed=0).eval(), tiny_tokenizer()
    for text, new in zip(["good film", "dull"], there, strict=True):
        ids = tokenizer(text, return_tensors="pt")
        ids = model.generate(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"], max_new_tokens=5,
                             do_sample=False, max_length=None)  # fmt: skip
        assert new == tokenizer.decode(ids[0][1:], skip_special_tokens=True)
    assert len(changed(["good film"], BackTranslation(translate))) == 1
    told = hub_translator(f"{tmp_path}/en-fr", prompt="word1 {source} {target} {text}", max_new_tokens=5)
    plain = hub_translator(f"{tmp_path}/en-fr", max_new_tokens=5)
    assert told(["dull"], "en", "fr") == plain(["word1 en fr dull"], "en", "fr")
    assert translate([], "en", "fr") == []


# judges


def test_how_many_copies_keep_their_label():
    judge = {"a": 1, "b": None, "c": 0, "d": 1, "x": 1, "y": 0, "z": None}.get
    assert label_kept(["a", "b", "c", "d"], ["x", "x", "x", "z"], lambda texts: list(map(judge, texts))) == 1 / 3
    assert label_kept(["b"], ["x"], lambda texts: list(map(judge, texts))) != label_kept  # NaN
    with pytest.raises(ValueError, match="2 texts and 1 copies"):
        label_kept(["a", "b"], ["x"], list)


def test_vader_judges_by_its_score():
    judge = vader_judge()
    assert judge(["a good film", "a bad film", "a film", "not good"]) == ["positive", "negative", None, "negative"]
    assert label_kept(["not good", "a film"], ["good", "bad"], judge) == 0


def test_a_model_judges_by_its_class():
    model, tokenizer = tiny_model("bert"), tiny_tokenizer()
    model.config.id2label = {0: "no", 1: "yes"}
    found = model_judge(model, tokenizer)(["good film", "dull"])
    assert len(found) == 2 and {*found} <= {"no", "yes"} and model_judge(model, tokenizer)([]) == []


def test_how_far_copies_are_from_their_texts():
    found = diversity(["a b c", "a b", "a"], ["a c b x", "A  b", "z"])
    assert found == {"changed": 2 / 3, "new words": pytest.approx((1 / 4 + 0 + 1) / 3),
                     "new pairs": pytest.approx((1 + 0 + 0) / 3)}  # fmt: skip
    with pytest.raises(ValueError):
        diversity(["a"], [])
