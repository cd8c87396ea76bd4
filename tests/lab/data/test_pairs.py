"""Texts beside their translations, in splits that share none."""

import json

import pytest

from finetune_lessons.lab.data import pairs
from finetune_lessons.lab.data.assets import asset_path
from finetune_lessons.lab.data.pairs import PAIRED, load_pairs
from finetune_lessons.lab.data.splits import letters

TRAIN = {"messages_fr": 2381, "messages_zh": 2395}


@pytest.mark.parametrize("name", PAIRED)
def test_splits_have_their_sizes_and_share_no_text_in_either_language(name):
    data = load_pairs(name)
    assert {split: len(rows) for split, rows in data.items()} == {"train": TRAIN[name], "validation": 200, "test": 400}
    assert data["train"].column_names == ["en", PAIRED[name]]
    for language in ("en", PAIRED[name]):
        texts = [letters(text) for split in data.values() for text in split[language]]
        assert len(set(texts)) == len(texts)
        assert all(texts)


@pytest.mark.parametrize("name", PAIRED)
def test_each_pair_is_one_of_the_files(name):
    found = set()
    for file in asset_path(name).glob("messages/*.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        del content[""]
        for key, translated in content.items():
            found.add((" ".join(key.split("\x04")[-1].split()), " ".join(translated[0].split())))
    for split in load_pairs(name).values():
        assert found >= set(zip(split["en"][:], split[PAIRED[name]][:], strict=True))


def test_only_the_training_pairs_depend_on_the_seed():
    whole, some, other = (load_pairs("messages_fr", n, seed=seed) for n, seed in ((None, 0), (300, 0), (300, 1)))
    assert some["train"][:] == load_pairs("messages_fr", 300)["train"][:] != other["train"][:]
    assert len(other["train"]) == 300 and set(other["train"]["en"]) < set(whole["train"]["en"])
    for split in ("validation", "test"):
        assert whole[split][:] == some[split][:] == other[split][:]
        assert load_pairs("messages_fr", n_eval=50)[split][:] == whole[split][:50]


def test_of_copies_in_either_language_the_first_is_kept_and_a_header_is_no_text(tmp_path, monkeypatch):
    (tmp_path / "messages").mkdir()
    copies = {"save ALL!": ["Enregistrer tout"], "Keep all": ["tout enregistrer"], "%": ["%"], "Keep it": [""]}
    texts = {"": {"domain": "x"}, "menu\x04Save  all\n": ["Tout  enregistrer"]} | copies | {"Open": ["Ouvrir", "Tout"]}
    (tmp_path / "messages" / "a.json").write_text(json.dumps(texts))
    monkeypatch.setattr(pairs, "asset_path", lambda name: tmp_path)
    monkeypatch.setattr(pairs, "_SIZES", {"test": 1})
    kept = [row for split in load_pairs("messages_fr").values() for row in split]
    assert sorted(kept, key=str) == [{"en": "Open", "fr": "Ouvrir"}, {"en": "Save all", "fr": "Tout enregistrer"}]


@pytest.mark.parametrize("given", [{"n_train": 0}, {"n_train": 2.5}, {"n_eval": 0}, {"n_eval": -1}])
def test_a_size_that_is_none_is_refused(given):
    with pytest.raises(ValueError, match="expected a whole number above 0, or None for all"):
        load_pairs("messages_fr", **given)


def test_more_pairs_than_there_are_and_other_names_are_refused():
    with pytest.raises(ValueError, match="2,381 training pairs; ask for at most that many"):
        load_pairs("messages_fr", 3000)
    with pytest.raises(ValueError, match="there are messages_fr, messages_zh"):
        load_pairs("messages_de")
