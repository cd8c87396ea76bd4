"""What a panel shows in words."""

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


def test_run_unlocks_with_a_prediction_that_is_shown_beside_the_result():
    panel = Panel(make_run, ask="Which <lr> wins?", lr=(0.0, 1.0))
    view = panel._view
    assert "Which &lt;lr&gt; wins?" in view.question.value
    view.commit.click()
    assert view.run.disabled and "Write down a prediction first" in status(panel)
    view.guess.value = "0.1"
    view.commit.click()
    assert not view.run.disabled and view.guess.disabled
    press_run(panel)
    finish(panel)
    assert "You predicted: 0.1." in status(panel)
    assert list(panel.results["prediction"]) == ["0.1"]
    view.reset.click()
    assert view.run.disabled and not view.guess.disabled
