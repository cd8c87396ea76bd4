"""What a panel shows in words."""

from types import SimpleNamespace

from fake_runs import FakeRun, both_drives, finish, losses, make_run, press_run, raiser, status

from finetune_lessons.lab.panel import view
from finetune_lessons.lab.panel.panel import Panel


@both_drives
def test_a_plot_that_cannot_be_drawn_does_not_stop_the_training(monkeypatch, drive):
    panel = Panel(make_run, drive=drive, lr=(0.0, 1.0))
    monkeypatch.setattr(view, "svg", lambda *a: 1 / 0)
    panel.start()
    finish(panel)
    assert "could not be drawn (ZeroDivisionError" in panel._view.plot.value
    assert "Run 1 is done" in status(panel)
    assert len(losses(panel)) == 20


def test_messages_are_escaped():
    panel = Panel(lambda lr=0.1: FakeRun(lr, at={0: raiser(ValueError("<b>bold</b>"))}), lr=(0.0, 1.0))
    panel.start()
    finish(panel)
    assert "<b>" not in status(panel)


def submit(prediction, text):
    "Type, and press Enter: the browser tells the kernel."
    prediction.text.value = text
    prediction.text._handle_custom_msg({"event": "submit"}, [])


def test_run_unlocks_with_a_prediction_that_is_shown_beside_the_result():
    panel = Panel(make_run, ask="Which <lr> wins?", lr=(0.0, 1.0))
    view, prediction = panel._view, panel._view.prediction
    assert "Which &lt;lr&gt; wins?" in prediction.words.value
    prediction.commit.click()
    view.play.value += 1
    assert view.run.disabled and "Write down a prediction first" in status(panel)
    submit(prediction, "0.1")
    view.play.value += 1
    assert not view.run.disabled and prediction.text.disabled
    assert "then Run unlocks" in prediction.words.value
    press_run(panel)
    finish(panel)
    assert "You predicted: 0.1." in status(panel)
    assert list(panel.results["prediction"]) == ["0.1"]
    assert "then Run unlocks" not in prediction.words.value


def test_each_run_has_a_prediction_of_its_own_or_none():
    panel = Panel(make_run, ask="Which lr wins?", lr=(0.0, 1.0))
    prediction = panel._view.prediction
    for text in ("low", "", "high"):
        if text:
            submit(prediction, text)
            panel._view.play.value += 1
        assert not panel._view.run.disabled
        press_run(panel)
        finish(panel)
        assert (f"You predicted: {text}." if text else "") in status(panel)
        assert text or "predicted" not in status(panel)
        assert prediction.text.value == "" and not prediction.text.disabled
    assert list(panel.results["prediction"].fillna("none")) == ["low", "none", "high"]


@both_drives
def test_the_last_letters_of_a_prediction_may_arrive_after_enter(drive):
    panel = Panel(make_run, ask="Which lr wins?", drive=drive, lr=(0.0, 1.0))
    submit(panel._view.prediction, "0.")
    panel._view.prediction.text.value = "0.01"
    panel._view.play.value += 1
    assert not panel._view.ticking
    press_run(panel)
    finish(panel)
    assert list(panel.results["prediction"]) == ["0.01"]


def test_precision_and_threads_are_shown_with_the_reason():
    run = FakeRun()
    run.precision, run.computing = "fp32", SimpleNamespace(reason="fp32 was measured to be <faster> here")
    panel = Panel(lambda lr=0.1: run, lr=(0.0, 1.0))
    panel.run()
    shown = panel._view.stats.value
    assert "<b>cpu fp32</b>" in shown and "<span>threads</span>" in shown
    assert "fp32 was measured to be &lt;faster&gt; here" in shown


@both_drives
def test_nothing_that_is_drawn_on_the_way_fails(drive):
    panel = Panel(make_run, drive=drive, lr=(0.0, 1.0))
    drawn = []
    panel._view.plot.observe(lambda change: drawn.append(change["new"]), "value")
    for _ in range(2):
        panel.start()
        finish(panel)
    assert len(drawn) > 2
    assert not [text for text in drawn if "could not be drawn" in text or "ftl-charts" not in text]
