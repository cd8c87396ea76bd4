"""The pieces of words that a tokenizer knows: which of them texts need, and a tokenizer that knows those alone."""

import json
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any


def state_of(tokenizer: Any) -> dict[str, Any]:
    "All that a tokenizer of the library tokenizers is made of. Raises ValueError for another."
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"{type(tokenizer).__name__} is not of the library tokenizers, as load_encoder gives them: its pieces "
            "cannot be told"
        )
    return json.loads(backend.to_str())


def needed(
    state: Mapping[str, Any],  # of a tokenizer
    used: Iterable[int],  # the numbers of the pieces that it makes of texts
) -> set[int]:
    """The numbers of those pieces and of what goes with them.

    That is the special tokens, the single characters of the pieces, of which any other word in the same letters can be
    made, and what decides how a text is cut: of BPE the pieces that a piece is merged from, of a unigram model the
    least likely one, by which it rates unknown characters.
    """
    model, numbers = state["model"], _numbers(state["model"])
    words = {number: piece for piece, number in numbers.items()}
    pieces = {words[number] for number in used if number in words}
    kept = {token["id"] for token in state["added_tokens"]} | {numbers[p] for p in _unknown(model) if p in numbers}
    if model["type"] == "BPE":
        pieces = _with_parts(pieces, model)
    if model["type"] == "Unigram":
        pieces.add(min(model["vocab"], key=lambda piece: piece[1])[0])
    pieces |= _spelling(pieces, model, numbers)
    return kept | {numbers[piece] for piece in pieces}


def with_pieces(
    tokenizer: Any,
    state: Mapping[str, Any],  # of this tokenizer
    place: Mapping[int, int],  # the numbers of the pieces to keep, and their new ones
) -> Any:
    "A tokenizer like this one that knows no other pieces."
    from tokenizers import Tokenizer

    cut = deepcopy(dict(state))
    model = cut["model"]
    if model["type"] == "Unigram":
        model["unk_id"] = place.get(model["unk_id"])
        model["vocab"] = [model["vocab"][number] for number in place if number < len(model["vocab"])]
    else:
        model["vocab"] = {piece: place[number] for piece, number in model["vocab"].items() if number in place}
    if model["type"] == "BPE":
        model["merges"] = [pair for pair in model["merges"] if {*pair, _merged(pair, model)} <= model["vocab"].keys()]
    for token in cut["added_tokens"]:
        token["id"] = place[token["id"]]
    _renumber(cut["post_processor"], place)
    return deepcopy(tokenizer, {id(tokenizer.backend_tokenizer): Tokenizer.from_str(json.dumps(cut))})


def _numbers(model: Mapping[str, Any]) -> dict[str, int]:
    if model["type"] == "Unigram":
        return {piece: number for number, (piece, _) in enumerate(model["vocab"])}
    return model["vocab"]


def _unknown(model: Mapping[str, Any]) -> Sequence[str]:
    "What stands for what is not known: a token, or the single bytes."
    in_bytes = [f"<0x{byte:02X}>" for byte in range(256)] if model.get("byte_fallback") else []
    if model["type"] == "Unigram":
        return in_bytes if model["unk_id"] is None else [*in_bytes, model["vocab"][model["unk_id"]][0]]
    return [*in_bytes, model["unk_token"]]


def _spelling(pieces: Iterable[str], model: Mapping[str, Any], known: Iterable[str]) -> set[str]:
    "Of the known pieces, those of one character that these pieces have, too; of bytes, all."
    from tokenizers.pre_tokenizers import ByteLevel

    before, after = (model.get(mark) or "" for mark in ("continuing_subword_prefix", "end_of_word_suffix"))
    characters = set(ByteLevel.alphabet()) if model["type"] == "BPE" else set()
    characters.update(*(piece.removeprefix(before).removesuffix(after) for piece in pieces))
    return {piece for piece in known if piece.removeprefix(before).removesuffix(after) in characters}


def _with_parts(pieces: set[str], model: Mapping[str, Any]) -> set[str]:
    "The pieces, and all that any of them is merged from."
    pairs: dict[str, list[list[str]]] = {}
    for pair in model["merges"]:
        pairs.setdefault(_merged(pair, model), []).append(pair)
    found, new = set(pieces), list(pieces)
    while new:
        parts = {part for pair in pairs.get(new.pop(), ()) for part in pair} - found
        found |= parts
        new += parts
    return found


def _merged(pair: Sequence[str], model: Mapping[str, Any]) -> str:
    return pair[0] + pair[1].removeprefix(model["continuing_subword_prefix"] or "")


def _renumber(processor: Any, place: Mapping[int, int]) -> None:
    "In what puts special tokens around a text: a template, the pairs of BERT and RoBERTa, or several in a row."
    if isinstance(processor, list):
        for part in processor:
            _renumber(part, place)
    elif isinstance(processor, dict):
        for key, value in processor.items():
            if key == "ids":
                processor[key] = [place[number] for number in value]
            elif key in ("cls", "sep"):
                processor[key] = [value[0], place[value[1]]]
            else:
                _renumber(value, place)
