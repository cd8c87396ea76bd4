"""`explore`: a result that is drawn again when a knob moves."""

from finetune_lessons.lab.panel.explorer import explore


def picture_of(result, **options):
    return explore(lambda x: result, x=(0.0, 1.0), **options)


def test_explore_draws_again_when_a_knob_moves():
    explorer = explore(lambda t=1.0: {"a": t, "b": 2.0}, t=(0.0, 5.0))
    explorer.knobs["t"].slider.value = 3.0
    assert explorer.result == {"a": 3.0, "b": 2.0}
    assert 'aria-label="a 3, b 2"' in explorer._picture.value


def test_explore_draws_lines_maps_figures_tables_and_texts():
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    lines = picture_of({"f": ([0, 1, 2], [3, 4, 5]), "g": [1, 2, 3]}, xlabel="epoch")
    assert lines._picture.value.count("<polyline") == 2
    assert "f 5 at epoch 2" in lines._picture.value
    assert "data:image/png" in picture_of(np.eye(4))._picture.value
    assert "data:image/png" in picture_of(Figure())._picture.value
    assert "<table" in picture_of(pd.DataFrame({"a": [1]}))._picture.value
    assert "&lt;text" in picture_of("<text")._picture.value


def test_explore_leaves_a_picture_for_pages_without_widgets():
    for result in ({"a": 1.0}, {"f": [1, 2, 3]}):
        assert picture_of(result)._repr_mimebundle_()["image/png"].startswith("iVBORw0KGgo")


def test_explore_says_what_failed():
    explorer = explore(lambda t=1.0: {"a": 1 / t}, t=(0.0, 5.0))
    explorer.set(t=0.0)
    assert "Failed while computing the result: ZeroDivisionError" in explorer._picture.value
    assert "Changed from the start: t=0." in explorer._picture.value
    explorer.set(t=2.0)
    assert "0.5" in explorer._picture.value
