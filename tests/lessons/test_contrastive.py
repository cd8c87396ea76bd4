"""Vectors of texts do not hang on padding, the losses are their formulas, and say where they could teach nothing."""

import math
import random

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st
from tiny import DECODERS, ENCODERS, EVERY, PLAIN, tiny_model, tiny_rows, tiny_tokenizer, weights
from torch.nn.functional import cosine_similarity, normalize
from torch.testing import assert_close

from finetune_lessons.contrastive import (
    Contrastive,
    CosineRegression,
    SimCSE,
    embed,
    info_nce,
    partner_vectors,
    pool,
    retrieval,
    text_vectors,
    tokenize_pairs,
    uniformity,
)
from finetune_lessons.lab import ActivationCache
from finetune_lessons.lab.training.run import Run
from finetune_lessons.lora import add_lora
from finetune_lessons.model_surgery import freeze, unfreeze
from finetune_lessons.overfitting import set_dropout
from finetune_lessons.prompt_tuning import add_prompt

pytestmark = pytest.mark.usefixtures("one_thread")
every = pytest.mark.parametrize("arch", EVERY)
TEXTS = tiny_rows(9)["text"]


def pairs(n: int = 32, seed: int = 0) -> DatasetDict:
    "A text, and the same in a language that has other words."
    rng = random.Random(seed)
    drawn = [rng.sample(range(40), 3) for _ in range(n)]
    sides = {"text": 0, "positive": 40}
    return DatasetDict(train=Dataset.from_dict({
        side: [" ".join(PLAIN[first + i] for i in words) for words in drawn] for side, first in sides.items()
    }))  # fmt: skip


def pair_run(model, loss, data=None, **settings) -> Run:
    settings = {"lr": 3e-3, "epochs": 4, "batch_size": 8, "precision": "fp32", "eval_every": 0} | settings
    tokenizer = tiny_tokenizer()
    return Run(model, tokenizer, tokenize_pairs(data or pairs(), tokenizer), loss=loss, **settings)


def found(model, data=None) -> dict[str, float]:
    rows = (data or pairs())["train"]
    return retrieval(*(embed(model, tiny_tokenizer(), rows[name][:]) for name in ("text", "positive")))


def token_batch(texts) -> dict[str, torch.Tensor]:
    return dict(tiny_tokenizer()(list(texts), padding=True, return_tensors="pt"))


def trained(run: Run) -> Run:
    for _ in run:
        pass
    return run


# pooling


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.booleans(), st.integers(0, 500))
def test_pooling_takes_the_real_tokens_on_whatever_side_the_padding_is(lengths, left, seed):
    torch.manual_seed(seed)
    longest = max(lengths) + 1
    hidden, mask = torch.randn(len(lengths), longest, 3), torch.zeros(len(lengths), longest, dtype=torch.long)
    if left:
        hidden[0, 0] = float("nan")  # padding counts for nothing, not even as 0 times what it holds
    means, firsts, lasts = [], [], []
    for row, n in enumerate(lengths):
        there = range(longest - n, longest) if left else range(n)
        mask[row, list(there)] = 1
        means.append(sum(hidden[row, i] for i in there) / n)
        firsts.append(hidden[row, there[0]])
        lasts.append(hidden[row, there[-1]])
    assert_close(pool(hidden, mask), torch.stack(means))
    assert torch.equal(pool(hidden, mask, "cls"), torch.stack(firsts))
    assert torch.equal(pool(hidden, mask, "last"), torch.stack(lasts))


@pytest.mark.parametrize(("arguments", "says"), [
    ((torch.ones(1, 2, 3), torch.ones(1, 2), "max"), "pooling is one of mean, cls, last; given: 'max'"),
    ((torch.ones(2, 2, 3), torch.tensor([[1, 1], [0, 0]])), "text 1 has no token that is not padding"),
])  # fmt: skip
def test_pooling_refuses_what_it_cannot_do(arguments, says):
    with pytest.raises(ValueError, match=says):
        pool(*arguments)


@every
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_vector_is_the_same_alone_and_among_longer_texts(arch, pooling):
    model, tokenizer = tiny_model(arch).train(), tiny_tokenizer()
    before = weights(model)
    together = embed(model, tokenizer, TEXTS, pooling)
    alone = torch.cat([embed(model, tokenizer, text, pooling) for text in TEXTS])
    assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert_close(together, embed(model, tokenizer, TEXTS, pooling, batch_size=2), rtol=1e-4, atol=1e-5)
    assert_close(together.norm(dim=1), torch.ones(9))
    assert model.training and not together.requires_grad and (together[0] - together[1]).abs().max() > 1e-3
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@every
def test_vectors_are_those_of_the_last_hidden_states_by_hand(arch):
    model, inputs = tiny_model(arch, dropout=False).eval(), token_batch(TEXTS)
    body = model.base_model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    hidden = body(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    real = inputs["attention_mask"].unsqueeze(-1)
    assert_close(text_vectors(model, inputs), (hidden * real).sum(1) / real.sum(1))
    assert_close(embed(model, tiny_tokenizer(), TEXTS), normalize(text_vectors(model, inputs), dim=1).detach())


def test_the_first_token_is_taken_where_it_sees_the_others_and_refused_where_not():
    for arch in (*ENCODERS, "modernbert"):
        model = tiny_model(arch)
        hidden = model.eval().base_model(**{k: v for k, v in token_batch(TEXTS).items() if k != "token_type_ids"})
        first = normalize(hidden.last_hidden_state[:, 0], dim=1).detach()
        assert_close(embed(model, tiny_tokenizer(), TEXTS, "cls"), first, rtol=1e-4, atol=1e-5)
    for arch in DECODERS:
        with pytest.raises(ValueError, match="the first token of a text sees no other.*: take 'mean', or 'last'"):
            embed(tiny_model(arch), tiny_tokenizer(), TEXTS, "cls")


def test_longer_texts_are_cut_and_it_is_said(capsys):
    model, tokenizer = tiny_model("bert"), tiny_tokenizer()
    long = " ".join(["good"] * 100)
    cut = embed(model, tokenizer, [long, "bad"])
    assert "1 of 2 texts cut to the 64 tokens that the model takes" in capsys.readouterr().out
    assert_close(cut[0], embed(model, tokenizer, " ".join(["good"] * 62))[0])
    assert_close(embed(model, tokenizer, "good bad bad", max_length=3)[0], embed(model, tokenizer, "good")[0])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("texts", "says"), [
    ([], "given: none"),
    ([None], "number 0 is None"),
    (Dataset.from_dict({"text": ["a"]}), "Pass its column of texts"),
])  # fmt: skip
def test_what_is_no_text_is_refused(texts, says):
    with pytest.raises(ValueError, match=says):
        embed(tiny_model("bert"), tiny_tokenizer(), texts)


def test_a_module_of_ones_own_is_refused():
    with pytest.raises(ValueError, match="model is one of transformers, such as load_encoder gives; given: Linear"):
        embed(torch.nn.Linear(2, 2), tiny_tokenizer(), "good")


# InfoNCE


def by_hand(q, p, n=None, t=0.05, same=None, weight=1.0) -> float:
    "Sum by sum, in float64."
    q, k = q.double().numpy(), (p if n is None else torch.cat([p, n])).double().numpy()
    total = 0.0
    for i, query in enumerate(q):
        weighed = []
        for j, key in enumerate(k):
            cosine = query @ key / math.sqrt(query @ query) / math.sqrt(key @ key)
            counted = j == i or same is None or not same[i, j]
            weighed.append(counted * (weight if j == len(q) + i else 1.0) * math.exp(cosine / t))
        total -= math.log(weighed[i] / sum(weighed))
    return total / len(q)


@given(st.integers(1, 5), st.integers(0, 5), st.sampled_from([0.05, 0.3, 1.0]), st.integers(0, 500))
def test_info_nce_is_its_formula(rows, hard, temperature, seed):
    torch.manual_seed(seed)
    q, p, n = torch.randn(rows, 4), torch.randn(rows, 4), torch.randn(hard, 4) if hard else None
    same = torch.rand(rows, rows + hard) < 0.3
    assert float(info_nce(q, p, n, temperature)) == pytest.approx(by_hand(q, p, n, temperature), rel=1e-4, abs=1e-5)
    masked = float(info_nce(q, p, n, temperature, same))
    assert masked == pytest.approx(by_hand(q, p, n, temperature, same), rel=1e-4, abs=1e-5)
    assert masked <= float(info_nce(q, p, n, temperature)) + 1e-5
    own = torch.randn(rows, 4)
    weighed = float(info_nce(q, p, own, temperature, hard_weight=3.0))
    assert weighed == pytest.approx(by_hand(q, p, own, temperature, weight=3.0), rel=1e-4, abs=1e-5)


def test_lengths_of_vectors_and_the_order_of_rows_change_nothing():
    torch.manual_seed(0)
    q, p, order = torch.randn(6, 4), torch.randn(6, 4), torch.randperm(6)
    assert_close(info_nce(q, p), info_nce(7 * q, 0.1 * p))
    assert_close(info_nce(q, p), info_nce(q[order], p[order]))
    assert float(info_nce(q, p)) != pytest.approx(float(info_nce(q, p[order])))


@pytest.mark.parametrize("hard", [False, True])
def test_info_nce_equals_that_of_sentence_transformers(hard):
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    torch.manual_seed(0)
    q, p, n = (torch.randn(7, 5, requires_grad=True) for _ in range(3))
    columns = [q, p, n] if hard else [q, p]
    loss = losses.MultipleNegativesRankingLoss(torch.nn.Identity(), scale=20.0)
    theirs = loss.compute_loss_from_embeddings(columns, None)
    ours = info_nce(q, p, n if hard else None, temperature=0.05)
    assert_close(ours, theirs)
    for mine, other in zip(*(torch.autograd.grad(loss, columns) for loss in (ours, theirs)), strict=True):
        assert_close(mine, other)


def test_one_row_has_the_loss_zero_and_no_gradient_and_it_is_said():
    q, p = torch.randn(1, 4, requires_grad=True), torch.randn(1, 4)
    loss = info_nce(q, p)
    loss.backward()
    assert loss == 0 and not q.grad.any()
    with pytest.warns(UserWarning, match="a batch of one text has no negatives"):
        next(pair_run(tiny_model("bert"), Contrastive(), batch_size=1))
    with pytest.warns(UserWarning, match="a batch of one text has no negatives"):
        next(pair_run(tiny_model("bert"), SimCSE(), batch_size=1))


@pytest.mark.parametrize(("given", "says"), [
    (dict(positives=torch.ones(2, 4)), "as many positives as queries, at least one"),
    (dict(negatives=torch.ones(3, 5)), "expected vectors"),
    (dict(queries=torch.ones(0, 4), positives=torch.ones(0, 4)), "at least one"),
    (dict(temperature=0.0), "temperature and hard_weight must be above 0; given: 0.0"),
    (dict(temperature=-0.05), "must be above 0"),
    (dict(negatives=torch.ones(2, 4), hard_weight=2.0), "give as many negatives as queries"),
])  # fmt: skip
def test_info_nce_refuses_what_does_not_fit(given, says):
    with pytest.raises(ValueError, match=says):
        info_nce(**{"queries": torch.ones(3, 4), "positives": torch.ones(3, 4)} | given)


# in a batch


def test_candidates_that_are_no_negatives_do_not_count():
    "Six rows with one positive: the loss cannot pass below ln 6, until it is known that they are the same."
    x = torch.eye(8)
    q, p = torch.cat([x[:1].expand(6, -1), x[1:3]]), torch.cat([x[:1].expand(6, -1), x[1:3]])
    assert float(info_nce(q, p)) == pytest.approx(6 / 8 * math.log(6), abs=1e-4)
    one = torch.tensor([0] * 6 + [1, 2])
    assert float(info_nce(q, p, same=one == one[:, None])) == pytest.approx(0, abs=1e-4)


def equal_rows() -> DatasetDict:
    rows = {"text": ["good word1", "good word2", "good word1", "bad word3", "bad word7"],
            "positive": ["fine word4", "fine word4", "fine word5", "word6", "good word1"],
            "negative": ["poor", "fine word4", "poor", "good word1", "poor"]}  # fmt: skip
    return DatasetDict(train=Dataset.from_dict(rows))


def in_rows(run: Run) -> dict:
    batch = run.splits["train"].load(next(run.splits["train"].in_order(8)), torch.device("cpu"))
    order = batch["index"].argsort()
    return {name: value[order] if torch.is_tensor(value) else [value[i] for i in order] if isinstance(value, list)
            else value for name, value in batch.items()}  # fmt: skip


@pytest.mark.parametrize("symmetric", [False, True])
def test_equal_texts_of_a_batch_are_not_pushed_apart(symmetric):
    model = tiny_model("bert", dropout=False)
    run = pair_run(model, Contrastive(), equal_rows())
    batch = in_rows(run)
    q, p, n = (text_vectors(model, token_batch(equal_rows()["train"][name][:])) for name in
               ("text", "positive", "negative"))  # fmt: skip
    # rows 0 and 1 share a positive, row 1's negative; rows 0 and 2 share a text, row 3's negative and row 4's positive
    same = torch.tensor([[1, 1, 1, 0, 1, 0, 1, 0, 1, 0], [1, 1, 0, 0, 0, 0, 1, 0, 0, 0], [1, 0, 1, 0, 1, 0, 0, 0, 1, 0],
                         [0, 0, 0, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0, 0, 1, 0]]).bool()  # fmt: skip
    q, p, n = q.detach(), p.detach(), n.detach()
    expected = by_hand(q, p, n, same=same)
    if symmetric:
        expected = (expected + by_hand(p, q, same=same[:, :5].T)) / 2
    parts = Contrastive(symmetric=symmetric)(model, batch)
    assert parts["loss"].item() == pytest.approx(expected, rel=1e-4)
    cosines = normalize(q, dim=1) @ normalize(p, dim=1).T
    assert_close(parts["cosine of pairs"], cosines.trace() / 5)
    assert_close(parts["of others"], ((cosines.sum() - cosines.trace()) / 20))


def test_texts_of_one_group_are_not_pushed_apart():
    data = equal_rows()
    groups = {"group": [0, 1, 2, 0, 3], "negative_group": [2, 2, 1, 1, 0]}
    for name, values in groups.items():
        data["train"] = data["train"].add_column(name, values)
    run = pair_run(model := tiny_model("bert", dropout=False), Contrastive(), data)
    batch = in_rows(run)
    with_groups = Contrastive()(model, batch)["loss"]
    without = Contrastive()(model, {k: v for k, v in batch.items() if k not in groups})["loss"]
    q, p, n = (text_vectors(model, token_batch(data["train"][name][:])).detach() for name in
               ("text", "positive", "negative"))  # fmt: skip
    same = torch.tensor([[1, 1, 1, 1, 1, 0, 1, 0, 1, 1], [1, 1, 0, 0, 0, 0, 1, 1, 1, 0], [1, 0, 1, 0, 1, 1, 1, 0, 1, 0],
                         [1, 0, 0, 1, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 0, 0, 0, 1, 0]]).bool()  # fmt: skip
    assert with_groups.item() == pytest.approx(by_hand(q, p, n, same=same), rel=1e-4)
    assert without.item() > with_groups.item()


def test_accumulation_adds_no_negatives():
    def first(**settings):
        return next(pair_run(tiny_model("bert", dropout=False), Contrastive(), warmup=0, **settings)).loss

    whole, pieces = first(batch_size=16), first(batch_size=4, grad_accum=4)
    assert pieces < whole - 0.5


# the data


def test_pairs_are_tokenised_as_texts_are_and_classes_are_left_out():
    data = equal_rows()
    data["train"] = data["train"].add_column("label", [0, 1, 2, 3, 4])
    tokens, tokenizer = tokenize_pairs(data, tiny_tokenizer())["train"], tiny_tokenizer()
    for name, column in (("text", "input_ids"), ("positive", "positive_ids"), ("negative", "negative_ids")):
        assert tokens[column][:] == tokenizer(data["train"][name][:])["input_ids"]
    assert "label" not in tokens.column_names and "other_ids" not in tokens.column_names
    assert max(map(len, tokenize_pairs(data, tokenizer, max_length=3)["train"]["positive_ids"])) == 3
    assert data["train"].column_names == ["text", "positive", "negative", "label"]


def test_a_pair_with_itself_and_a_missing_partner_are_refused_by_their_row():
    rows = DatasetDict(train=Dataset.from_dict({"text": ["good", "bad"], "positive": ["fine", "bad"]}))
    with pytest.raises(ValueError, match="row 1 of the split 'train' has its own text for a positive"):
        tokenize_pairs(rows, tiny_tokenizer())
    rows = DatasetDict(train=Dataset.from_dict({"text": ["good", "bad"], "positive": ["fine", None]}))
    with pytest.raises(ValueError, match="row 1 of the split 'train, positive' is not a text but None"):
        tokenize_pairs(rows, tiny_tokenizer())


def test_a_partner_longer_than_the_model_takes_is_refused():
    rows = {"text": ["good", "bad"], "positive": ["fine " * 90, "poor"]}
    tokenizer = tiny_tokenizer(model_max_length=10_000)
    tokens = tokenize_pairs(DatasetDict(train=Dataset.from_dict(rows)), tokenizer)
    run = Run(tiny_model("bert"), tokenizer, tokens, loss=Contrastive(), precision="fp32", eval_every=0)
    with pytest.raises(ValueError, match="a text has 92 tokens, the model takes 64: tokenize_pairs"):
        next(run)


@pytest.mark.parametrize(("loss", "says"), [
    (Contrastive(), "no positive_ids in the data: a column 'positive' of texts, then tokenize_pairs"),
    (CosineRegression(), "score is what the cosine is to be.*; given: none"),
])  # fmt: skip
def test_a_loss_without_its_column_says_which(loss, says):
    texts = DatasetDict(train=pairs()["train"].remove_columns("positive"))
    with pytest.raises(ValueError, match=says):
        next(pair_run(tiny_model("bert"), loss, texts))


# what is learnt


@every
def test_pairs_are_found_after_training_and_were_not_before(arch):
    model = tiny_model(arch)
    before = found(model)
    run = trained(pair_run(model, Contrastive(symmetric=True), epochs=12, lr=1e-2))
    after = found(model)
    assert after["MRR"] > before["MRR"] + 0.15
    assert run.steps[-1].parts["cosine of pairs"] > run.steps[-1].parts["of others"]
    assert math.isfinite(run.evaluate("train")["loss"])


def test_without_negatives_all_texts_become_one_point_and_with_them_they_do_not():
    def only_together(model, batch):
        pairs = text_vectors(model, batch), partner_vectors(model, batch, "positive")
        return (1 - cosine_similarity(*pairs)).mean()

    spread = {}
    for name, loss in {"together": only_together, "and apart": Contrastive()}.items():
        model = tiny_model("bert")
        trained(pair_run(model, loss, epochs=20, lr=1e-2))
        spread[name] = uniformity(embed(model, tiny_tokenizer(), pairs()["train"]["text"][:])), found(model)["recall@1"]
    assert spread["together"][0] > -0.05 and spread["together"][1] < 0.2
    assert spread["and apart"][0] < -1 and spread["and apart"][1] > 0.5


# two draws of dropout


@every
def test_a_text_finds_itself_through_another_draw_of_dropout_and_not_without_one(arch):
    texts = DatasetDict(train=pairs()["train"].remove_columns("positive"))
    model = set_dropout(tiny_model(arch), 0.0)
    with pytest.raises(ValueError, match=r"none is at work in \w+: set_dropout\(model, 0.1\)"):
        next(pair_run(model, SimCSE(), texts))
    run = pair_run(set_dropout(model, 0.2), SimCSE(), texts, epochs=10)
    step = next(run)
    assert 0.5 < step.parts["cosine of pairs"] < 1 - 1e-4
    losses = [step.loss for step in run]
    assert sum(losses[-8:]) / 8 < step.loss and math.isfinite(run.evaluate("train")["loss"])
    batch = token_batch(TEXTS)
    with torch.no_grad():
        assert float(SimCSE()(model.eval(), batch)["cosine of pairs"]) == pytest.approx(1)


def test_dropout_of_the_head_alone_is_none_for_the_vectors():
    model = set_dropout(tiny_model("bert"), 0.0).train()
    set_dropout(model.dropout, 0.5)
    with pytest.raises(ValueError, match="none is at work in BertModel"):
        SimCSE()(model, token_batch(TEXTS))


def test_equal_texts_are_no_negatives_of_each_other_in_simcse():
    model, batch = tiny_model("bert", dropout=False).eval(), token_batch([TEXTS[0], TEXTS[1], TEXTS[0]])
    q = text_vectors(model, batch).detach()
    same = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]]).bool()
    with torch.no_grad():
        assert float(SimCSE()(model, batch)["loss"]) == pytest.approx(by_hand(q, q, same=same), rel=1e-3, abs=1e-5)


# cosines that are told


def test_cosine_regression_is_the_mean_squared_error():
    rows = {"text": TEXTS[:4], "other": TEXTS[4:8], "score": [0.0, 1.0, -0.5, 0.25]}
    model = tiny_model("bert", dropout=False)
    run = pair_run(model, CosineRegression(), DatasetDict(train=Dataset.from_dict(rows)))
    loss = float(CosineRegression()(model, in_rows(run)))
    a, b = (text_vectors(model, token_batch(rows[name])).detach().double().numpy() for name in ("text", "other"))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert loss == pytest.approx(((cosines - np.array(rows["score"])) ** 2).mean(), rel=1e-4)
    assert next(run).loss == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("score", [4.2, -3.0, math.nan])
def test_scores_that_no_cosine_can_be_are_refused(score):
    rows = Dataset.from_dict({"text": TEXTS[:2], "other": TEXTS[2:4], "score": [0.5, score]})
    with pytest.raises(ValueError, match="a number from -1 to 1 in every row; given: "):
        next(pair_run(tiny_model("bert"), CosineRegression(), DatasetDict(train=rows)))


# in runs


def test_a_saved_run_goes_on_to_the_bit(tmp_path):
    def fresh():
        return pair_run(tiny_model("bert"), SimCSE())

    whole = [step.loss for step in fresh()]
    begun = fresh()
    for _ in range(5):
        next(begun)
    begun.save(tmp_path / "run")
    data = tokenize_pairs(pairs(), tiny_tokenizer())
    resumed = Run.resume(tmp_path / "run", tiny_model("bert"), tiny_tokenizer(), data, loss=SimCSE())
    assert [step.loss for step in resumed] == whole[5:]


@pytest.mark.parametrize("method", [
    lambda model: add_lora(model, r=4), lambda model: add_prompt(model, num_virtual_tokens=3),
], ids=["lora", "prompt"])  # fmt: skip
def test_the_losses_go_with_methods_in_the_model(method):
    model = tiny_model("bert")
    method(model)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    learnt = {name: p.detach().clone() for name, p in model.named_parameters() if name not in frozen}
    before = embed(model, tiny_tokenizer(), TEXTS)
    losses = [step.loss for step in pair_run(model, Contrastive(), lr=2e-2, epochs=10)]
    assert sum(losses[-8:]) < sum(losses[:8])
    moved = [name for name, p in learnt.items() if not torch.equal(model.get_parameter(name), p)]
    assert any("classifier" not in name for name in moved)
    assert (embed(model, tiny_tokenizer(), TEXTS) - before).abs().max() > 1e-3
    assert frozen and all(torch.equal(model.get_parameter(name), p) for name, p in frozen.items())


def test_a_cache_of_frozen_layers_changes_no_number():
    def losses(cache):
        model = unfreeze(freeze(set_dropout(tiny_model("bert"), 0.0)), ["layer.1"])
        return [step.loss for step in pair_run(model, Contrastive(), cache=cache)]

    assert losses(ActivationCache()) == pytest.approx(losses(None), rel=1e-4)
