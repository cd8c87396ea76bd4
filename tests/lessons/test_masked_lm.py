"""Lesson 33: gaps, their loss, the new head, adaptation, pseudo-perplexity."""

import math

import pytest
import torch
import transformers
from datasets import Dataset, DatasetDict
from tiny import (
    ENCODERS,
    PLAIN,
    SPECIAL,
    VOCABULARY,
    same_bits,
    tiny_data,
    tiny_model,
    tiny_tokenizer,
    weights,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.testing import assert_close
from transformers import DataCollatorForLanguageModeling

from finetune_lessons.lab.models.loading import load_encoder
from finetune_lessons.lab.training.activations import ActivationCache
from finetune_lessons.lab.training.batches import model_inputs
from finetune_lessons.lab.training.run import Run
from finetune_lessons.masked_lm import (
    MaskedLM,
    adapt,
    add_mlm_head,
    in_pieces,
    mask_tokens,
    masked_lm_loss,
    pseudo_perplexity,
    token_surprises,
    train_mlm_head,
)

MASK = VOCABULARY["[MASK]"]
FILLERS = (*ENCODERS, "modernbert")
SPECIAL_IDS = torch.tensor([VOCABULARY[token] for token in SPECIAL.values()])


def long_ids(texts=400, tokens=60, seed=0):
    inside = torch.randint(len(SPECIAL), len(VOCABULARY), (texts, tokens), generator=seeded(seed))
    ends = [torch.full((texts, 1), VOCABULARY[token]) for token in ("[CLS]", "[SEP]")]
    return torch.cat([ends[0], inside, ends[1]], 1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pieces_tokenizer():
    "Words of one, two and three tokens: each letter of a word is one, and a word is what stands between spaces."
    letters = [letter for c in "abcdefgh" for letter in (c, f"##{c}")]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL.values(), *letters])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [(SPECIAL[name], vocabulary[SPECIAL[name]]) for name in ("cls_token", "sep_token")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **SPECIAL)


def letter_words(n=300, words=20, seed=0):
    "Texts whose words have one to three letters."
    draw = seeded(seed)
    sizes = torch.randint(1, 4, (n, words), generator=draw).tolist()
    return [" ".join("abcdefgh"[i % 6 : i % 6 + size] for i, size in enumerate(row)) for row in sizes]


def filler_run(model=None, data=None, tokenizer=None, **settings):
    tokenizer = tokenizer or tiny_tokenizer()
    data = data or MaskedLM(tokenizer, share=0.3)(tiny_data())
    settings = {"lr": 3e-3, "epochs": 2, "batch_size": 8, "precision": "fp32", "eval_every": 0} | settings
    return Run(model or tiny_model("bert", "masked_lm"), tokenizer, data, loss=masked_lm_loss, **settings)


# gaps


def collated(ids, seed=0):
    collator = DataCollatorForLanguageModeling(tiny_tokenizer(), mlm=True, mlm_probability=0.15, seed=seed)
    batch = collator([{"input_ids": row} for row in ids.tolist()])
    return batch["input_ids"], batch["labels"]


def shares(ids, shown, labels):
    "Of all that may be hidden: hidden; of these: masked, another token, the same token."
    hidden = labels != -100
    fates = shown[hidden]
    masked, same = fates == MASK, fates == ids[hidden]
    parts = [masked, ~masked & ~same, same]
    return [hidden.sum() / (~torch.isin(ids, SPECIAL_IDS)).sum(), *(part.float().mean() for part in parts)]


def test_the_shares_are_those_of_transformers_collator():
    ids = long_ids()
    ours = shares(ids, *mask_tokens(ids, tiny_tokenizer(), generator=seeded()))
    theirs = shares(ids, *collated(ids))
    for expected, one, other in zip((0.15, 0.8, 0.1, 0.1), ours, theirs, strict=True):
        assert_close(float(one), expected, atol=0.03, rtol=0)
        assert_close(float(one), float(other), atol=0.03, rtol=0)


def test_labels_are_what_was_hidden_and_all_else_is_as_it_was():
    ids = long_ids()
    shown, labels = mask_tokens(ids, tiny_tokenizer(), generator=seeded())
    hidden = labels != -100
    assert torch.equal(labels[hidden], ids[hidden]) and torch.equal(shown[~hidden], ids[~hidden])


def test_special_tokens_are_never_hidden_and_never_put_in_place_of_a_word():
    ids = long_ids()
    ids[:, 40:] = VOCABULARY["[PAD]"]
    ids[::2, 5] = VOCABULARY["[UNK]"]
    shown, labels = mask_tokens(ids, tiny_tokenizer(), share=1.0, generator=seeded())
    special = torch.isin(ids, SPECIAL_IDS)
    assert torch.equal(labels == -100, special) and torch.equal(shown[special], ids[special])
    assert set(shown[~special].unique().tolist()) & set(SPECIAL_IDS.tolist()) == {MASK}


@pytest.mark.parametrize("tokens", [1, 2, 8])
def test_a_short_text_has_a_gap_too(tokens):
    labels = mask_tokens(long_ids(200, tokens), tiny_tokenizer(), share=0.01, generator=seeded())[1]
    assert (labels != -100).any(1).all()


def test_a_text_of_special_tokens_alone_has_no_gap():
    ids = long_ids(3, 0)
    shown, labels = mask_tokens(ids, tiny_tokenizer())
    assert torch.equal(shown, ids) and (labels == -100).all()


def test_a_batch_in_which_no_token_is_of_a_word_has_no_gap_either():
    ids = torch.full((2, 4), VOCABULARY["[PAD]"])
    labels = mask_tokens(ids, tiny_tokenizer(), words=torch.full_like(ids, -1))[1]
    assert (labels == -100).all()


def words_of(tokenizer, texts):
    read = tokenizer(texts, padding=True, return_tensors="pt")
    words = [[-1 if word is None else word for word in read.word_ids(i)] for i in range(len(texts))]
    return read["input_ids"], torch.tensor(words)


def test_whole_words_are_hidden_and_one_in_so_many_of_words():
    tokenizer = pieces_tokenizer()
    ids, words = words_of(tokenizer, letter_words())
    shown, labels = mask_tokens(ids, tokenizer, 0.15, words, seeded())
    hidden = labels != -100
    counted = [(hidden[i][words[i] == w].float().mean().item()) for i in range(len(ids)) for w in range(20)]
    assert set(counted) == {0.0, 1.0}
    assert_close(sum(counted) / len(counted), 0.15, atol=0.02, rtol=0)
    masked = (shown[hidden] == tokenizer.mask_token_id).float().mean().item()
    assert_close(masked, 0.8, atol=0.03, rtol=0)  # where transformers' collator masks all of them


@pytest.mark.filterwarnings("ignore:Random token replacement")  # theirs masks whole words alone
def test_whole_words_are_those_of_transformers_collator_where_spaces_separate_them():
    tokenizer = pieces_tokenizer()
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, whole_word_mask=True, seed=0)
    texts = letter_words()
    read = tokenizer(texts, padding=True, return_offsets_mapping=True)  # of one length: it does not pad offsets
    theirs = collator([{name: column[i] for name, column in read.items()} for i in range(len(texts))])["labels"] != -100
    _, words = words_of(tokenizer, texts)
    counted = [theirs[i][words[i] == w].float().mean().item() for i in range(len(texts)) for w in range(20)]
    assert set(counted) == {0.0, 1.0}
    assert_close(sum(counted) / len(counted), 0.15, atol=0.02, rtol=0)


@pytest.mark.parametrize("share", [0, -0.1, 1.5, math.nan])
def test_a_share_that_is_none_is_refused(share):
    for use in (lambda: mask_tokens(long_ids(2), tiny_tokenizer(), share), lambda: MaskedLM(tiny_tokenizer(), share)):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            use()


def test_a_tokenizer_without_a_mask_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="no mask token.*decoder goes on with its own"):
        MaskedLM(tokenizer)


# data


def test_other_words_are_hidden_at_each_reading_and_the_same_ones_in_evaluation():
    train, validation = (MaskedLM(tiny_tokenizer())(tiny_data())[split] for split in ("train", "validation"))
    assert train[:]["labels"] != train[:]["labels"]
    assert validation[:] == validation[:] == MaskedLM(tiny_tokenizer())(tiny_data())["validation"][:]
    assert validation[:]["labels"] != MaskedLM(tiny_tokenizer(), seed=1)(tiny_data())["validation"][:]["labels"]


def test_gaps_that_are_drawn_once_stay():
    train = MaskedLM(tiny_tokenizer(), redraw=False)(tiny_data())["train"]
    assert train[:] == train[:] and all(any(label != -100 for label in row) for row in train["labels"])


@pytest.mark.parametrize("whole_words", [True, False])
def test_data_of_whole_words_hide_them(whole_words):
    tokenizer = pieces_tokenizer()
    data = DatasetDict(train=Dataset.from_dict({"text": letter_words()}))
    train = MaskedLM(tokenizer, whole_words=whole_words, max_length=64)(data)["train"]
    _, words = words_of(tokenizer, letter_words())
    torn = 0
    for labels, row in zip(train[:]["labels"], words.tolist(), strict=True):
        hidden = {(word, label != -100) for label, word in zip(labels, row[: len(labels)], strict=True) if word >= 0}
        torn += sum((word, not is_hidden) in hidden for word, is_hidden in hidden)
    assert (torn == 0) == whole_words


def test_long_texts_become_pieces_and_no_token_is_lost():
    tokenizer, text = tiny_tokenizer(), " ".join(PLAIN)
    pieces = in_pieces(DatasetDict(train=Dataset.from_dict({"text": [text, "word1", "!!"]})), tokenizer, 22)["train"]
    inside = [token for row in pieces["input_ids"] for token in row if token not in SPECIAL_IDS]
    assert tokenizer.decode(inside[:-1]) == text and len(pieces) == 5
    assert max(map(len, pieces["input_ids"])) == 22 and {row[0] for row in pieces["input_ids"]} == {2}


def test_other_columns_such_as_labels_are_left_out():
    data = MaskedLM(tiny_tokenizer())(tiny_data())
    assert set(data["test"].column_names) == {"input_ids", "attention_mask", "labels"}


def test_empty_splits_are_left_out():
    data = tiny_data()
    data["test"] = data["test"].select([])
    assert set(MaskedLM(tiny_tokenizer())(data)) == {"train", "validation"}


@pytest.mark.parametrize("max_length", [-1, 0, 2])
def test_pieces_without_room_are_refused(max_length):
    with pytest.raises(ValueError, match=f"max_length={max_length}: a piece has 2 special tokens"):
        in_pieces(tiny_data(), tiny_tokenizer(), max_length)


def test_texts_that_cannot_be_learnt_from_are_refused():
    tokenizer = tiny_tokenizer()
    with pytest.raises(ValueError, match="no column 'text'"):
        MaskedLM(tokenizer)(tiny_data().rename_column("text", "words"))
    with pytest.raises(ValueError, match="no text with a token"):
        MaskedLM(tokenizer)(DatasetDict(train=Dataset.from_dict({"text": ["!?", "???"]})))


def test_a_tokenizer_that_knows_no_words_is_told_from_one_that_does():
    tokenizer = pieces_tokenizer()
    data = DatasetDict(train=Dataset.from_dict({"text": ["abcdefghabcdefgh"]}))
    with pytest.raises(ValueError, match="18 tokens.*for one word.*whole_words=False"):
        MaskedLM(tokenizer)(data)
    assert len(MaskedLM(tokenizer, whole_words=False)(data)["train"]) == 1


# loss


@pytest.mark.parametrize("arch", FILLERS)
def test_the_loss_is_transformers_loss(arch):
    model = tiny_model(arch, "masked_lm", dropout=False)
    ids = long_ids(4, 12)
    ids[1, 6:] = 0
    shown, labels = mask_tokens(ids, tiny_tokenizer(), 0.4, generator=seeded())
    batch = {"input_ids": shown, "attention_mask": (ids != 0).long(), "labels": labels}
    ours, theirs = masked_lm_loss(model, batch), model(**model_inputs(batch), labels=labels).loss
    assert_close(ours, theirs)
    grads = [torch.autograd.grad(loss, [p for p in model.parameters()], allow_unused=True) for loss in (ours, theirs)]
    for one, other in zip(*grads, strict=True):
        assert (one is None) == (other is None) and (one is None or torch.allclose(one, other, atol=1e-5))


def test_a_model_that_is_wrapped_has_the_same_loss():
    model = tiny_model("bert", "masked_lm", dropout=False)
    batch = dict(zip(("input_ids", "labels"), mask_tokens(long_ids(4, 9), tiny_tokenizer(), 0.5), strict=True))
    wrapped = torch.compile(model, backend="eager")
    assert_close(masked_lm_loss(wrapped, batch), masked_lm_loss(model, batch))


@pytest.mark.parametrize(
    ("arch", "kind"), [("gpt2", "causal_lm"), ("llama", "causal_lm"), ("bert", "causal_lm"), ("t5", "seq2seq")]
)
def test_a_model_that_writes_from_left_to_right_fills_no_gaps(arch, kind):
    model, ids = tiny_model(arch, kind), long_ids(2, 5)
    tries = [
        lambda: masked_lm_loss(model, {"input_ids": ids, "labels": ids}),
        lambda: add_mlm_head(model),
        lambda: pseudo_perplexity(model, tiny_tokenizer(), ["word1 word2"]),
    ]
    for use in tries:
        with pytest.raises(ValueError, match="sees both sides"):
            use()


def test_labels_of_whole_texts_and_a_batch_without_a_gap_are_refused():
    model, ids = tiny_model("bert", "masked_lm"), long_ids(3, 5)
    with pytest.raises(ValueError, match=r"one a text: MaskedLM\(tokenizer\)\(data\)"):
        masked_lm_loss(model, {"input_ids": ids, "labels": torch.tensor([0, 1, 0])})
    with pytest.raises(ValueError, match="nothing is hidden"):
        masked_lm_loss(model, {"input_ids": ids, "labels": torch.full_like(ids, -100)})


# runs


@pytest.mark.parametrize("arch", FILLERS)
def test_a_run_learns_and_its_metrics_are_loss_and_perplexity(arch):
    tokenizer = tiny_tokenizer()
    only = DatasetDict(
        {
            name: Dataset.from_dict({"text": ["good great fine lovely brilliant warm"] * 16})
            for name in ("train", "validation")
        }
    )
    run = filler_run(tiny_model(arch, "masked_lm"), MaskedLM(tokenizer, share=0.3)(only), lr=1e-2, epochs=8)
    before = run.evaluate()
    for _ in run:
        pass
    after = run.evaluate()
    assert after["loss"] < before["loss"] / 2
    assert_close(after["perplexity"], math.exp(after["loss"]))


def test_evaluation_asks_the_same_questions_whatever_the_batch_size():
    model = tiny_model("bert", "masked_lm")
    losses = [filler_run(model, batch_size=size).evaluate()["loss"] for size in (1, 5, 8, 8)]
    assert losses[2] == losses[3]
    assert_close(losses, losses[:1] * 4, atol=1e-5, rtol=0)


def test_gaps_belong_to_the_run_so_that_its_curve_can_be_repeated_and_resumed(tmp_path):
    def losses(run, steps=None):
        found = []
        for step in run:
            torch.rand(3)  # the kernel's own numbers, between two steps
            found.append(step.loss)
            if len(found) == steps:
                break
        return found

    whole = losses(filler_run(seed=3))
    assert whole == losses(filler_run(seed=3)) != losses(filler_run(seed=4))
    run = filler_run(seed=3)
    first = losses(run, 5)
    run.save(tmp_path / "run.safetensors")
    data = MaskedLM(tiny_tokenizer(), share=0.3)(tiny_data())
    again = Run.resume(
        tmp_path / "run.safetensors", tiny_model("bert", "masked_lm"), tiny_tokenizer(), data, loss=masked_lm_loss
    )
    assert first + losses(again) == whole


def test_accumulated_steps_weigh_every_gap_alike():
    def moved(accum):
        model = tiny_model("bert", "masked_lm", dropout=False)
        data = MaskedLM(tiny_tokenizer(), share=0.3, redraw=False)(tiny_data(16, 0, 0))
        run = filler_run(model, data, batch_size=16 // accum, grad_accum=accum, optimizer=torch.optim.SGD, lr=0.1)
        next(run)
        return weights(model)

    whole, parts = moved(1), moved(4)
    for name, tensor in whole.items():
        assert_close(parts[name], tensor, atol=1e-5, rtol=1e-3)


# the head


@pytest.mark.parametrize("arch", FILLERS)
def test_a_new_head_is_tied_to_the_embeddings_of_the_body_that_it_shares(arch):
    model = tiny_model(arch)
    before = weights(model)
    filler = add_mlm_head(model)
    assert filler.base_model is model.base_model
    assert filler.get_output_embeddings().weight is model.get_input_embeddings().weight
    for _ in filler_run(filler, epochs=1):
        pass
    after = weights(model)
    body = {n for n in before if n.startswith(model.base_model_prefix + ".") and "pooler" not in n}
    assert not same_bits({n: before[n] for n in body}, {n: after[n] for n in body})
    rest = before.keys() - body
    assert rest and same_bits({n: before[n] for n in rest}, {n: after[n] for n in rest})


def test_a_head_comes_from_its_seed_and_leaves_the_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    heads = [add_mlm_head(tiny_model("bert"), seed).cls.predictions.transform.dense.weight for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_a_head_has_the_precision_of_its_body():
    filler = add_mlm_head(tiny_model("bert").bfloat16())
    assert {p.dtype for p in filler.parameters()} == {torch.bfloat16}


def test_a_model_that_has_a_head_keeps_it():
    model = tiny_model("roberta", "masked_lm")
    assert add_mlm_head(model) is model


def test_a_body_without_another_head_can_have_one_and_one_that_has_no_class_is_refused():
    body = transformers.BertModel(tiny_model("bert").config)
    assert add_mlm_head(body).base_model is body
    with pytest.raises(ValueError, match="no masked language model for ViTModel"):
        add_mlm_head(
            transformers.ViTModel(transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
        )


@pytest.mark.parametrize("arch", FILLERS)
def test_the_head_alone_is_trained_from_a_cache(arch):
    filler = add_mlm_head(tiny_model(arch))
    body, first = weights(filler.base_model), weights(filler)
    frozen = filler.base_model.get_input_embeddings().weight
    frozen.requires_grad_(False)
    cache = ActivationCache()
    data = MaskedLM(tiny_tokenizer(), redraw=False)(tiny_data())
    run = train_mlm_head(filler, tiny_tokenizer(), data, cache, lr=1e-2, epochs=6, batch_size=8, precision="fp32")
    assert cache.megabytes > 0 and run.evaluate("train")["loss"] < run.steps[0].loss
    assert same_bits(body, weights(filler.base_model)) and not same_bits(first, weights(filler))
    assert [p.requires_grad for p in filler.base_model.parameters()].count(False) == 1  # as before


def test_a_cache_that_fresh_gaps_make_useless_is_warned_of():
    filler = add_mlm_head(tiny_model("bert"))
    with pytest.warns(UserWarning, match="fresh masks.*computed anew"):
        train_mlm_head(filler, tiny_tokenizer(), MaskedLM(tiny_tokenizer())(tiny_data()), epochs=0.1)


# adaptation


@pytest.mark.parametrize("texts", [tiny_data()["train"]["text"][:], tiny_data()], ids=["a list", "splits"])
def test_adapting_changes_the_body_and_neither_pooler_nor_head(texts):
    model, tokenizer = tiny_model("bert"), tiny_tokenizer()
    before = weights(model)
    run = adapt(model, tokenizer, texts, head_epochs=1, epochs=1, lr=1e-3, batch_size=8)
    changed = {name for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])}
    assert run.done and run.model.base_model is model.base_model
    assert "bert.encoder.layer.0.attention.self.query.weight" in changed
    assert not [name for name in changed if "pooler" in name or "classifier" in name]


def test_adapting_comes_from_its_seed():
    def adapted(seed):
        model = tiny_model("bert")
        adapt(model, tiny_tokenizer(), tiny_data(), head_epochs=1, epochs=1, batch_size=8, seed=seed, precision="fp32")
        return weights(model)

    assert same_bits(adapted(0), adapted(0)) and not same_bits(adapted(0), adapted(1))


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2"])
def test_a_decoder_goes_on_as_it_began(arch):
    texts = ["good great fine lovely brilliant warm clever"] * 32
    model = tiny_model(arch, "causal_lm")
    run = adapt(model, tiny_tokenizer(), texts, epochs=4, lr=1e-2, batch_size=8)
    assert run.model is model and run.steps[-1].loss < run.steps[0].loss / 2


def test_a_model_with_a_head_is_adapted_at_once():
    model = tiny_model("distilbert", "masked_lm")
    run = adapt(model, tiny_tokenizer(), tiny_data(), epochs=1, batch_size=8)
    assert run.model is model and len(run.steps) == 8


@pytest.mark.parametrize("texts", ["one text", [1, 2], [b"text"]])
def test_what_is_no_list_of_texts_is_refused(texts):
    with pytest.raises(ValueError, match="a list of texts, or splits"):
        adapt(tiny_model("bert"), tiny_tokenizer(), texts)


def test_the_packaged_encoder_keeps_its_pooler():
    model, tokenizer = load_encoder("minilm", seed=0)
    pooler = weights(model.base_model.pooler)
    adapt(model, tokenizer, ["A film about a film."] * 8, head_epochs=1, epochs=1, batch_size=4)
    assert same_bits(pooler, weights(model.base_model.pooler))


# pseudo-perplexity


@pytest.mark.parametrize("arch", FILLERS)
def test_pseudo_perplexity_hides_one_token_at_a_time(arch):
    model, tokenizer = tiny_model(arch, "masked_lm").eval(), tiny_tokenizer()
    texts = ["good word1 bad word2 word3", "dull word7"]
    found = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        for place in range(1, ids.shape[1] - 1):
            hidden = ids.clone()
            hidden[0, place] = MASK
            with torch.no_grad():
                found.append(-model(input_ids=hidden).logits[0, place].log_softmax(-1)[ids[0, place]])
    expected = torch.stack(found).mean().exp().item()
    for batch_size in (1, 3, 64):
        assert_close(pseudo_perplexity(model.train(), tokenizer, texts, batch_size), expected, atol=1e-3, rtol=1e-4)
    assert model.training


def test_surprises_name_their_tokens_and_leave_special_ones_out():
    named = token_surprises(tiny_model("bert", "masked_lm"), tiny_tokenizer(), "good word1 !")
    assert [token for token, _ in named] == ["good", "word1"] and all(surprise > 0 for _, surprise in named)


def test_texts_without_a_token_or_too_long_are_refused():
    model, tokenizer = tiny_model("bert", "masked_lm"), tiny_tokenizer()
    with pytest.raises(ValueError, match="no token to be guessed in '!'"):
        token_surprises(model, tokenizer, "!")
    with pytest.raises(ValueError, match="82 tokens, the model takes 64"):
        token_surprises(model, tokenizer, " ".join(PLAIN))
    with pytest.raises(ValueError, match="no texts"):
        pseudo_perplexity(model, tokenizer, [])
