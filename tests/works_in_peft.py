"""What works in the library peft, by the measure of `works`: for the table beside it."""

import tempfile
import traceback
from typing import Any

import peft
import works
import zoo

TASKS = {
    "classifier": "SEQ_CLS",
    "token_classifier": "TOKEN_CLS",
    "question_answering": "QUESTION_ANS",
    "causal_lm": "CAUSAL_LM",
    "seq2seq": "SEQ_2_SEQ_LM",
}  # none for Whisper, as in peft's examples
METHODS = ("LoRA", "prefix", "prompt")


def outcome(arch: str, kind: str, method: str) -> str:
    """works; refused: peft says why not; wrong: something is not as promised; fails: any other error; none: peft has no
    prompts for this kind of model, and those for the bare model do not work either.

    Of LoRA around peft's default targets and around all linear layers the better one counts.
    """
    found = [_outcome(arch, kind, method, targets) for targets in (None, "all-linear")[: 1 + (method == "LoRA")]]
    best = min(found, key=("works", "wrong", "fails", "refused").index)
    return best if method == "LoRA" or kind in TASKS or best == "works" else "none"


def _outcome(arch: str, kind: str, method: str, targets: str | None) -> str:
    try:
        check(arch, kind, method, targets)
    except AssertionError as error:
        return "wrong" if raised_in(error) == works.__file__ else "fails"
    except (ValueError, NotImplementedError) as error:
        return "refused" if raised_in(error).startswith(str(peft.__path__[0])) else "fails"
    except Exception:
        return "fails"
    return "works"


def raised_in(error: Exception) -> str:
    return traceback.extract_tb(error.__traceback__)[-1].filename


def check(arch: str, kind: str, method: str, targets: str | None = None) -> None:
    pretrained = zoo.model(arch, kind)
    inputs, labels, head = zoo.inputs(pretrained), zoo.labels(pretrained, kind), works.new_head(arch, kind)
    frozen = works.frozen_answer(pretrained, inputs)
    model = peft.get_peft_model(pretrained, config(kind, method, head, targets))
    first = works.answer(model, inputs)
    works.check_start(first, frozen, identical=method == "LoRA")
    if kind == "question_answering":  # whose labels count rows; elsewhere peft's answers are longer, as are its labels
        works.check_shapes(first, frozen)
    works.check_training(model, inputs | labels, head, (arch, kind) in works.QUIET)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = peft.PeftModel.from_pretrained(zoo.model(arch, kind), folder, is_trainable=method == "LoRA")
    works.check_same(works.answer(loaded, inputs), works.answer(model, inputs), "loaded, it answers otherwise")
    if method != "LoRA" and not hasattr(pretrained, "prepare_inputs_for_generation"):
        return  # there peft's disable_adapter raises UnboundLocalError, whatever else works
    with model.disable_adapter():
        works.check_same(works.answer(model, inputs), frozen, "disabled it is not the pretrained model")


def config(kind: str, method: str, head: set[str], targets: str | None) -> Any:
    "By the task, where peft knows it; LoRA leaves out the head, which is trained whole."
    if method == "LoRA":
        heads = sorted({name.partition(".")[0] for name in head})
        settings = {"modules_to_save": None if kind in TASKS else heads or None, "target_modules": targets}
        if targets and heads:
            settings["exclude_modules"] = rf"({'|'.join(heads)})(\..*)?"
        return peft.LoraConfig(task_type=TASKS.get(kind), **settings)
    make = peft.PrefixTuningConfig if method == "prefix" else peft.PromptTuningConfig
    return make(task_type=TASKS.get(kind, "FEATURE_EXTRACTION"), num_virtual_tokens=3)
