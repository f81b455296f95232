"""report.md from metrics files made by hand."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from nanochat import report
from nanochat.console import UserError
from nanochat.metrics import MetricsWriter, newest, training_file
from nanochat.paths import runs_dir
from nanochat.report.blocks import Cell, Table
from nanochat.report.curve import loss_picture
from nanochat.report.document import render
from nanochat.report.markdown import quoted, table
from nanochat.report.plot import smoothed
from nanochat.report.runs import Runs
from nanochat.report.timing import stages
from tests.report.made import evaluated, everything, score, train, write


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return tmp_path / "base"


def rows(text: str, first: str) -> list[list[str]]:
    return [
        [c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith(f"| {first} |")
    ]


def times(text: str, stage: str) -> list[str]:
    """Time, cost and status of a stage."""
    [row] = [row for row in rows(text, stage) if len(row) == 5]
    return row[2:]


def test_metric_table_has_a_column_per_stage(base: Path) -> None:
    everything()
    text = render(Runs.read(runs_dir()))
    assert "| Metric | BASE | MID | SFT |\n|---|---:|---:|---:|" in text
    assert rows(text, "CORE") == [["CORE", "0.2565", "-", "-"]]
    assert rows(text, "val bpb") == [["val bpb", "0.9123", "-", "-"]]  # base_loss goes before training's own 0.2
    assert rows(text, "val loss") == [["val loss", "-", "0.2000", "0.2000"]]
    assert rows(text, "TinyWorld") == [["TinyWorld", "-", "0.6000", "0.9000"]]
    assert rows(text, "SpellingBee") == [["SpellingBee", "-", "0.5000", "0.5000"]]
    assert text.index("| CORE ") < text.index("| val bpb ") < text.index("| TinyWorld ") < text.index("| SpellingBee ")


def test_categories_stand_beside_the_commonest_answer() -> None:
    everything()
    text = render(Runs.read(runs_dir()))
    assert "## TinyWorld\n\n| Category | n | MID (95% CI) | SFT (95% CI) | commonest answer |" in text
    assert rows(text, "unseen phrasing") == [
        ["unseen phrasing", "300", "0.600 (0.55 to 0.65)", "0.900 (0.85 to 0.95)", "0.0500"]
    ]
    assert rows(text, "unknown")[0][-1] == "-"
    assert "## SpellingBee" not in text  # it has no categories


def test_many_categories_are_folded_away() -> None:
    subjects = {f"subject {number}": score(0.3, 100) for number in range(57)}
    evaluated("chat_eval", "sft", tasks={"MMLU": score(0.3, 5700, by_category=subjects)})
    text = render(Runs.read(runs_dir()))
    folded = text.split("<details><summary>57 categories</summary>\n\n")[1].split("\n\n</details>")[0]
    assert folded.startswith("| Category |") and "| subject 56 | 100 |" in folded


def test_core_tasks_are_not_in_the_metric_table() -> None:
    everything()
    text = render(Runs.read(runs_dir()))
    assert rows(text, "copa") == [["copa", "100", "0.7000", "0.4000"]]
    assert text.index("## CORE tasks") < text.index("| copa |")


def test_rl_has_a_column_once_it_was_measured() -> None:
    everything()
    evaluated("chat_eval", "rl", tasks={"GSM8K": score(0.1, 50)}, chatcore=0.3)
    text = render(Runs.read(runs_dir()))
    assert "| Metric | BASE | MID | SFT | RL |" in text
    assert rows(text, "GSM8K") == [["GSM8K", "-", "-", "-", "0.1000"]]
    assert rows(text, "ChatCORE") == [["ChatCORE", "-", "-", "-", "0.3000"]]


def test_the_newest_evaluation_counts() -> None:
    evaluated("chat_eval", "sft", tasks={"MMLU": score(0.2, 5)})
    evaluated("chat_eval", "sft", tasks={"MMLU": score(0.3, 5)})
    assert rows(render(Runs.read(runs_dir())), "MMLU") == [["MMLU", "-", "-", "0.3000"]]


def test_evaluations_of_one_model_add_up() -> None:
    def ask(step: int, **tasks: Any) -> None:
        write("chat_eval-sft", "eval", command="chat_eval", checkpoint={"step": step}, tasks=tasks)

    ask(1, GSM8K=score(0.9, 5))  # an older model
    ask(2, MMLU=score(0.2, 5))
    ask(2, SpellingBee=score(0.4, 5), MMLU=score(0.3, 5))
    text = render(Runs.read(runs_dir()))
    assert rows(text, "MMLU")[0][-1] == "0.3000"
    assert rows(text, "SpellingBee")[0][-1] == "0.4000"
    assert not rows(text, "GSM8K")


def test_what_was_measured_before_the_training_is_of_an_older_model() -> None:
    train("base_train")
    evaluated("chat_eval", "sft", tasks={"MMLU": score(0.2, 5)})
    time.sleep(0.002)  # times are written in milliseconds
    train("chat_sft", bpb=False)
    assert not rows(render(Runs.read(runs_dir())), "MMLU")
    evaluated("chat_eval", "sft", tasks={"MMLU": score(0.3, 5)})
    assert rows(render(Runs.read(runs_dir())), "MMLU")[0][-1] == "0.3000"


def test_time_and_cost_by_the_pipelines_clock() -> None:
    everything()
    for seconds, status in ((600, "interrupted"), (1200, "done")):  # a stage that was taken up again
        write("speedrun", "stage", stage="base_train", seconds=seconds, status=status, command="...")
    # an older run with other settings, then an interrupted one that the training's own clock knows of
    for seconds in (5000, 20):
        write("speedrun", "stage", stage="mid_train", seconds=seconds, status="done", command="...")
    write("speedrun", "stage", stage="report", seconds=1725, status="done", command="...")
    text = render(Runs.read(runs_dir()), price_per_hour=3.0)
    assert times(text, "base_train") == ["30m00s", "$1.50", "done"]
    assert times(text, "mid_train") == ["1m15s", "$0.06", "done"]
    # 3 s of tok_train, 75 s of fine-tuning and 5 calls of evaluations of 5 s were not the pipeline's
    assert rows(text, "**total**") == [["**total**", "", "**1h01m**", "**$3.09**", ""]]
    assert (
        "**Total wall time:** 1h01m · **Cost:** $3.09 · **Parameters:** 1,234,567 · **Training tokens:** 10,000" in text
    )


def test_time_by_the_runs_own_clock_without_a_price() -> None:
    everything()
    text = render(Runs.read(runs_dir()))
    assert times(text, "tok_train") == ["3s", "not given", "done"]
    assert times(text, "base_train") == ["1m15s", "not given", "done"]
    # 3 + 3 x 75 + 4 evaluations, of which one was made twice, of 5 s
    assert "**Total wall time:** 4m13s · **Cost:** not given" in text


def test_settings_and_outcome_of_a_stage() -> None:
    everything()
    text = render(Runs.read(runs_dir()))
    part = text.split("### base_train\n")[1].split("\n### ")[0]
    for pair in ("time | 1m15s", "tokens | 10,000", "params | 1,234,567", "tok_per_s | 7,654", "flops | 1.5e12"):
        assert f"| {pair} |" in part
    opened, folded = part.split("<details>", 1)
    assert "| depth | 4 |" in opened
    assert "| model.width | 256 |" in folded and "| label | a\\|b |" in folded
    assert text.index("### tok_train") < text.index("### base_train") < text.index("### mid_train")


def test_samples_of_the_newest_evaluation_are_quoted() -> None:
    write("base_loss-base", "sample", prompt="", text="old sample")
    evaluated("base_loss", "base", tasks={})
    everything()
    text = render(Runs.read(runs_dir()))
    assert "````text\nOnce upon | a ``` time\n````" in text
    assert "old sample" not in text


def test_absent_runs_leave_no_section() -> None:
    train("base_train")
    text = render(Runs.read(runs_dir()))
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Time and cost",
        "## Curves",
        "## Machine",
        "## Code",
        "## Stages",
    ]
    assert rows(text, "torch") and rows(text, "Cores") and rows(text, "Lines")
    lines = [line for line in text.splitlines() if line]
    assert not [a for a, b in itertools.pairwise(lines) if a.startswith("### ") and b.startswith("#")]


def test_trainings_own_bpb_stands_in() -> None:
    train("base_train")
    assert rows(render(Runs.read(runs_dir())), "val bpb") == [["val bpb", "0.2000", "-", "-"]]


def test_half_a_line_at_the_end_is_left_out() -> None:
    train("base_train")
    with open(training_file("base", "d4"), "a") as f:
        f.write('{"version":1,"kind":"ste')
    assert "### base_train" in render(Runs.read(runs_dir()))


def test_generate_writes_both_places_and_the_picture(base: Path, tmp_path: Path) -> None:
    everything()
    here = tmp_path / "work"
    here.mkdir()
    path = report.generate(copy_to=here)
    assert path == base / "report" / "report.md"
    assert path.read_text() == (here / "report.md").read_text()
    assert "![training loss and validation over tokens](loss.png)" in path.read_text()
    assert (base / "report" / "report.html").read_bytes() == (here / "report.html").read_bytes()
    for folder in (path.parent, here):
        assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    report.generate()  # and again over the old one
    assert sorted(p.name for p in path.parent.iterdir()) == ["loss.png", "report.html", "report.md"]


def test_nothing_to_report(base: Path) -> None:
    with pytest.raises(UserError, match="nothing to report"):
        report.generate()
    assert not (base / "report").exists()


def test_reset_moves_everything_aside(base: Path) -> None:
    assert report.reset() is None
    for _ in range(2):
        everything()
        report.generate()
        aside = report.reset()
        assert aside is not None
        assert (aside / "report" / "report.md").exists() and (aside / "report" / "report.html").exists()
        assert (aside / "runs" / "base-d4" / "metrics.jsonl").exists()
        assert not (base / "runs").exists()
        assert not (base / "report").exists()
    assert len(list((base / "reports").iterdir())) == 2


def test_resumed_steps_replace_the_lost_ones() -> None:
    for step, loss in ((1, 5.0), (2, 4.0), (3, 9.0), (2, 3.0)):  # killed after step 3, taken up after step 1
        write("base_train", "step", step=step, loss=loss, tokens=step * 10)
    assert Runs.read(runs_dir()).series("base_train", "step", "loss") == [(10, 5.0), (20, 3.0)]


def test_each_model_has_a_report_of_its_own(base: Path, tmp_path: Path) -> None:
    """Two tags in one base folder: neither's losses, scores, settings or times are in the other's report."""
    for tag, loss in (("a", 2.0), ("b", 7.0)):
        write("base_train", "settings", tag, tag=tag, matrix_lr=loss)
        for step in (1, 2):
            write("base_train", "step", tag, step=step, tokens=step, loss=loss)
        write("base_train", "summary", tag, seconds=10 * loss, val_bpb=loss / 10)
        write(
            "chat_eval-sft",
            "eval",
            tag,
            command="chat_eval",
            checkpoint={"tag": tag},
            tasks={"MMLU": score(loss / 10, 9)},
        )
        write("speedrun", "stage", stage="base_train", seconds=100 * loss, status="done", tag=tag)
    write("speedrun", "stage", stage="dataset", seconds=1, status="done", tag="a")
    write("base_train", "step", "a", step=3, tokens=3, loss=2.0)  # resumed after b was trained
    newest, a, b = (Runs.read(runs_dir(), tag) for tag in ("", "a", "b"))
    assert (newest.tag, newest) == ("a", a)
    assert a.series("base_train", "step", "loss") == [(1, 2.0), (2, 2.0), (3, 2.0)]
    assert b.series("base_train", "step", "loss") == [(1, 7.0), (2, 7.0)]
    for runs, value, seconds in ((a, "0.2000", "3m20s"), (b, "0.7000", "11m40s")):
        text = render(runs)
        assert f"# nanochat report: {runs.tag}" in text
        assert rows(text, "MMLU")[0][-1] == value == rows(text, "val bpb")[0][1]
        assert times(text, "base_train")[0] == seconds
        assert times(text, "dataset")[0] == "1s"
    report.generate(tag="b", copy_to=tmp_path)
    assert "# nanochat report: b" in (tmp_path / "report.md").read_text()
    with pytest.raises(UserError, match="tag 'c' has left metrics.*Choose one of: a, b"):
        report.generate(tag="c")


def test_a_longer_run_that_was_stopped_has_outlived_its_summary() -> None:
    train("base_train")
    write("base_train", "step", step=11, tokens=11, loss=0.1)
    write("base_train", "eval", step=11, tokens=11, val_bpb=0.15)
    assert rows(render(Runs.read(runs_dir())), "val bpb")[0][1] == "0.1500"


def test_a_model_trained_by_hand_beside_a_speedrun_has_its_time() -> None:
    """Also beside one of an older version, whose stages are told apart by their commands."""
    for tag in ("d4", "d6"):
        command = f"python -m scripts.base_train --depth=4 --model_tag={tag}"
        seconds = 100 * int(tag[1])
        write("speedrun", "stage", stage="base_train", seconds=seconds, status="done", command=command)
    write("speedrun", "stage", stage="dataset", seconds=5, status="done", command="...")
    for tag in ("d4", "mine"):
        write("base_train", "settings", tag)
        write("base_train", "summary", tag, seconds=30.0)
    d4, mine = ({s.name: s.seconds for s in stages(Runs.read(runs_dir(), tag))} for tag in ("d4", "mine"))
    assert d4 == {"base_train": 400, "dataset": 5}
    assert mine == {"base_train": 30, "dataset": 5}


def test_a_model_that_was_set_aside_keeps_its_scores() -> None:
    """They say whom they asked by the tag of then; those of the model there is now are in another folder."""
    write("base_loss-base", "eval", "d4.previous-1", command="base_loss", checkpoint={"tag": "d4"}, bpb={"val": 1.7})
    write("base_loss-base", "eval", "d4", command="base_loss", checkpoint={"tag": "d4"}, bpb={"val": 0.8})
    assert [Runs.read(runs_dir(), tag).val_bpb("base") for tag in ("d4.previous-1", "d4")] == [1.7, 0.8]


def test_a_model_that_was_set_aside_is_reported_by_name_only() -> None:
    write("base_train", "settings", "d4.previous-1", tag="d4", old=True)
    assert Runs.read(runs_dir()).records == {}
    assert Runs.read(runs_dir(), "d4.previous-1").records["base_train"][0]["old"]
    with pytest.raises(UserError, match="Train one first"):
        Runs.read(runs_dir(), "d4.previous-2")


def test_metrics_of_the_old_layout_are_read(base: Path) -> None:
    """One file a command, whatever the tag: what began it is known, and evaluations say whom they asked."""

    def old(run: str, kind: str, **values: Any) -> None:
        MetricsWriter(runs_dir(run) / "metrics.jsonl").write(kind, **values)

    old("base_train", "settings", tag="d6", depth=6)
    for step in (1, 2, 3):
        old("base_train", "step", step=step, tokens=step, loss=9.0)
    for tag in ("d4", "d6"):
        old("base_eval-base", "eval", command="base_eval", checkpoint={"tag": tag}, tasks={}, bpb={"val": len(tag)})
    write("base_train", "step", "d6", step=3, tokens=3, loss=1.0)  # gone on with in the new one, after step 2
    runs = Runs.read(runs_dir())
    assert runs.tag == "d6"
    assert runs.series("base_train", "step", "loss") == [(1, 9.0), (2, 9.0), (3, 1.0)]
    assert [r["checkpoint"]["tag"] for r in runs.evaluations("base")] == ["d6"]


def test_a_report_is_linear_in_the_steps() -> None:
    """Comparisons of steps are counted: a few for each record, however many there are."""

    class Counted(int):
        compared = 0

        def __ge__(self, other: Any) -> bool:
            Counted.compared += 1
            return super().__ge__(other)

        __lt__ = __gt__ = __le__ = __ge__

        def __hash__(self) -> int:
            return super().__hash__()

    costs = []
    for steps in (1000, 4000):
        Counted.compared = 0
        records = [{"kind": "step", "step": Counted(n), "tokens": n, "loss": 1.0} for n in range(steps)]
        assert len(Runs({"base_train": newest(records)}).series("base_train", "step", "loss")) == steps
        costs.append(Counted.compared)
    assert costs[1] <= 4 * costs[0] + 10 <= 20000


def test_picture_only_of_what_was_trained() -> None:
    evaluated("chat_eval", "sft", tasks={})
    assert loss_picture(Runs.read(runs_dir())) is None
    train("chat_sft", bpb=False)
    png = loss_picture(Runs.read(runs_dir()))
    assert png is not None
    assert png.startswith(b"\x89PNG")


def test_smoothing_follows_without_lag_at_the_start() -> None:
    points = [(float(i), 2.0) for i in range(100)]
    assert [y for _, y in smoothed(points)] == pytest.approx([2.0] * 100)
    steep = [(float(i), 100.0 / (i + 1)) for i in range(200)]
    assert smoothed(steep)[0] == steep[0] and steep[-1][1] <= smoothed(steep)[-1][1] <= steep[-5][1]


def test_tables() -> None:
    drawn = table(Table(["a", "b", "c"], [["x|y\nz", "1", Cell("<i>", "note")]], words=("c",)))
    assert drawn == "| a | b | c |\n|---|---:|---|\n| x\\|y z | 1 | &lt;i&gt; (note) |"
    assert quoted("x ```` y").startswith("`````text\n")
