"""The benchmark against peft compares like with like."""

import pytest
import tiny

from finetune_lessons.benchmarks.peft import CHANGES, FULL, OURS, THEIRS


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("method", [method for method, library in CHANGES if library == THEIRS])
def test_both_sides_train_equally_many_parameters(method):
    ours, theirs = (CHANGES[method, library](tiny.tiny_model("bert")) for library in (OURS, THEIRS))
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ours, theirs)]
    assert counts[0] == counts[1] > 66  # more than the head


def test_full_fine_tuning_trains_everything():
    assert all(p.requires_grad for p in CHANGES[FULL, OURS](tiny.tiny_model("bert")).parameters())
