"""Files of a run, resuming after a stop, and folders that a run must not overwrite."""

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, replace

import pytest
import torch
from conftest import PROJECT, SMALL, write_case
from matplotlib.figure import Figure

from swinunetr.data.checks import check_dataset
from swinunetr.data.lists import read_dataset
from swinunetr.errors import InputError, TrainingStopped
from swinunetr.files import write_json
from swinunetr.hardware import find_hardware
from swinunetr.network.checkpoints import build_swinunetr, save_weights, training_note
from swinunetr.training.run_folder import RunFolder
from swinunetr.training.settings import run_settings

SETTINGS = {"recipe": {"max_steps": 10, "learning_rate": 1e-4, "schedule": "cosine", "seed": 0}}


def open_run(folder, settings=SETTINGS, **options) -> RunFolder:
    return RunFolder(folder, settings, find_hardware(), **options)


def network() -> dict[str, torch.nn.Module | torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    return {"model": model, "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-2)}


def train_step(step, model, optimizer) -> float:
    """Train on data that depend only on the step, as the notebook does."""
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
    loss = model(x).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def test_metrics_are_written_and_the_best_validation_is_known(tmp_path):
    run = open_run(tmp_path / "run")
    run.losses = [1.0, 3.0]
    assert run.record(10, {"mean_dice": 0.75, "left box": 0.5, "right box": 1})
    run.losses = [1.0]
    assert not run.record(20, {"mean_dice": 0.5, "left box": 0.5, "right box": 0.5})
    lines = (tmp_path / "run/metrics.csv").read_text().splitlines()
    assert lines[0] == "step,train_loss,mean_dice,left box,right box"
    assert [float(v) for v in lines[1].split(",")] == [10, 2, 0.75, 0.5, 1]
    assert run.best["step"] == 10 and run.best_dice == 0.75
    assert list((tmp_path / "run").glob("events.out.tfevents*"))


def test_nan_in_a_table_is_an_empty_field(tmp_path):
    run = open_run(tmp_path / "run")
    run.write_table([{"organ": "liver", "dice": 0.5}, {"organ": "aorta", "dice": math.nan}], "table.csv")
    assert (tmp_path / "run/table.csv").read_text().splitlines() == ["organ,dice", "liver,0.5", "aorta,"]


def test_weights_are_saved_with_the_settings_of_the_run(tmp_path):
    run = open_run(tmp_path / "run")
    run.save_weights(build_swinunetr(2, feature_size=12), "best_model.pth")
    assert training_note(tmp_path / "run/best_model.pth") == SETTINGS | {"ranks": 1}


def test_summary_is_valid_json_with_null_for_an_absent_organ(small_data, tmp_path):
    dataset, file = read_dataset(*small_data), tmp_path / "a.pth"
    save_weights(build_swinunetr(2, feature_size=12), file)
    run = open_run(tmp_path / "run", run_settings(SMALL, dataset, file), trains=False)
    run.write_summary(dice_per_organ={"left box": 1.0, "right box": math.nan}, data_root="here")
    summary = json.loads((tmp_path / "run/summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["dice_per_organ"] == {"left box": 1.0, "right box": None}
    assert summary["split"] == {"training": ["img0001", "img0002"], "validation": ["img0003"]}
    assert summary["recipe"]["crop_size"] == [64, 64, 64] and summary["pretrained_checkpoint"] == "a.pth"
    assert {"kind", "recipe", "versions", "hardware", "seconds", "data_root"} <= set(summary)
    assert summary["recipe"]["seed"] == 0


def run_steps(folder, until, stop_at=None, save_every=1e9, settings=SETTINGS):
    """Train up to step ``until`` as the notebook does; the process gets SIGTERM in step ``stop_at``."""
    run = open_run(folder, settings, save_every=save_every)
    parts = network()
    first = run.restore(**parts)
    with run.stopping_cleanly():
        for step in range(first + 1, until + 1):
            if step == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            run.losses.append(train_step(step, **parts))
            if step % 4 == 0:
                run.record(step, {"mean_dice": step % 10 / 10})
            run.keep(step, step == until, **parts)
    return run, parts["model"]


def test_a_resumed_run_gives_the_same_result_as_an_uninterrupted_run(tmp_path):
    whole, expected = run_steps(tmp_path / "whole", 10)
    with pytest.raises(TrainingStopped, match="after step 6"):
        run_steps(tmp_path / "stopped", 10, stop_at=6)
    resumed, model = run_steps(tmp_path / "stopped", 10)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    assert resumed.history == whole.history and resumed.losses == whole.losses
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "stopped/metrics.csv").read_bytes()


def test_signal_handlers_are_restored_after_training(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run_steps(tmp_path, 1)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_finished_run_does_not_train_again(tmp_path):
    run_steps(tmp_path, 10)
    run = open_run(tmp_path)
    assert run.restore(**network()) == 10 and run.best_dice > 0


@pytest.mark.parametrize("damage", ["cut short", "one bit", "emptied", "a page"])
def test_a_damaged_state_is_reported_and_the_previous_state_is_used(tmp_path, capsys, damage):
    run_steps(tmp_path, 3)
    run_steps(tmp_path, 5)
    state = tmp_path / "state.pt"
    content = bytearray(state.read_bytes())
    middle = content.index(b"model") if damage == "a page" else len(content) // 2
    content[middle] ^= 1
    state.write_bytes({"cut short": content[:-100], "one bit": content, "emptied": b"", "a page": b"<html>"}[damage])
    run = open_run(tmp_path)
    assert "state.pt is damaged" in capsys.readouterr().out
    assert run.restore(**network()) == 3


def test_a_folder_without_an_undamaged_state_is_refused(tmp_path):
    run_steps(tmp_path, 3)
    for name in ("state.pt", "state.previous.pt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match="no state in"):
        open_run(tmp_path)


def test_the_state_of_another_run_is_refused(tmp_path):
    run_steps(tmp_path / "run", 3)
    run_steps(tmp_path / "other", 3, settings={"recipe": SETTINGS["recipe"] | {"seed": 1}})
    shutil.copy(tmp_path / "other/state.pt", tmp_path / "run/state.pt")
    with pytest.raises(InputError, match="state of a run with other settings.*\n  seed: 1 in the folder, 0 now"):
        open_run(tmp_path / "run")


@pytest.mark.parametrize("content", [{"a": 1}, torch.zeros(2)])
def test_a_file_that_is_no_state_is_damaged(content, tmp_path, capsys):
    run_steps(tmp_path, 3)
    run_steps(tmp_path, 5)
    torch.save(content, tmp_path / "state.pt")
    assert open_run(tmp_path).restore(**network()) == 3
    assert "it is not the state of a run" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["[]", "null", '{"recipe": []}', None])
def test_settings_that_cannot_be_read_are_refused(content, tmp_path):
    run_steps(tmp_path, 3)
    file = tmp_path / "settings.json"
    if content is None:
        file.unlink()
        file.mkdir()
    else:
        file.write_text(content)
    with pytest.raises(InputError, match="settings.json' cannot be read"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    "damage", [b"step;train_loss;mean_dice\n8;1,0;0,5\n", b"\xef\xbb\xbfstep,mean_dice\n8,1\n", b"PK\xff"]
)
def test_metrics_that_a_spreadsheet_saved_are_refused_where_they_are_all_there_is(damage, tmp_path):
    run_steps(tmp_path, 8, settings=settings_with(max_steps=8))
    (tmp_path / "metrics.csv").write_bytes(damage)
    assert open_run(tmp_path, settings_with(max_steps=8)).restore(**network()) == 8
    for name in ("state.pt", "state.previous.pt"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match="metrics.csv' is not as the run wrote it|up to step 0"):
        open_run(tmp_path, settings_with(max_steps=8))


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_summary_costs_no_more_than_the_time_that_it_notes(content, tmp_path):
    run_steps(tmp_path, 8, settings=settings_with(max_steps=8))
    for name in ("state.pt", "state.previous.pt"):
        (tmp_path / name).unlink()
    (tmp_path / "summary.json").write_text(content)
    assert open_run(tmp_path, settings_with(max_steps=8)).restore(**network()) == 8


def test_the_weights_of_another_run_are_refused(tmp_path):
    recipe = json.loads(json.dumps(asdict(SMALL)))
    settings = [{"recipe": recipe | {"seed": seed}} for seed in (0, 1)]
    run, other = (open_run(tmp_path / name, each) for name, each in zip(("run", "other"), settings, strict=True))
    with pytest.raises(InputError, match="best_model.pth' is missing"):
        run.saved_weights("best_model.pth")
    for one in (run, other):
        one.save_weights(build_swinunetr(2, feature_size=12), "best_model.pth")
        assert one.saved_weights("best_model.pth") == one.path / "best_model.pth"
    shutil.copy(other.path / "best_model.pth", run.path)
    with pytest.raises(InputError, match="is not of this run:\n  seed: 1 in the file, 0 in the run"):
        run.saved_weights("best_model.pth")


def test_a_folder_name_that_no_file_can_have_is_refused(tmp_path):
    with pytest.raises(InputError, match="logdir.*cannot be written"):
        open_run(f"{tmp_path}/a\0b")


def test_a_kill_between_the_two_renames_leaves_the_previous_state(tmp_path):
    run_steps(tmp_path, 3)
    (tmp_path / "state.pt").rename(tmp_path / "state.previous.pt")
    assert open_run(tmp_path).restore(**network()) == 3


def test_a_new_run_saves_a_state_before_the_first_step(tmp_path):
    run = open_run(tmp_path)
    assert run.restore(**network()) == 0
    run.losses = [1.0]
    run.record(1, {"mean_dice": 0.5})  # if the process is killed here, there are metrics.csv and the state of step 0
    run = open_run(tmp_path)
    assert run.restore(**network()) == 0 and run.history == []


def test_the_state_is_of_the_step_of_the_best_weights(tmp_path):
    run = open_run(tmp_path, save_every=1e9)
    run.restore(**(parts := network()))
    for step, dice in ((1, 0.5), (2, 0.4)):
        run.losses.append(train_step(step, **parts))
        if run.record(step, {"mean_dice": dice}):
            run.save_weights(build_swinunetr(2, feature_size=12, window_size=4), "best_model.pth")
        run.keep(step, last=False, **parts)
    assert open_run(tmp_path).restore(**network()) == 1  # the second step is not due


def test_restoring_again_in_the_same_process_loads_the_last_state(tmp_path):
    run, model = run_steps(tmp_path, 3)
    parts = network()
    run.losses.append(train_step(4, **parts))  # a step that a second interrupt stopped before its state was saved
    assert run.restore(**parts) == 3 and len(run.losses) == 3
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), parts["model"].parameters(), strict=True))


def test_a_changed_recipe_is_refused_with_the_difference_and_two_solutions(tmp_path):
    run_steps(tmp_path, 3)
    changed = {"recipe": SETTINGS["recipe"] | {"max_steps": 20}}
    with pytest.raises(InputError, match="max_steps: 10 in the folder, 20 now(.|\n)*Restore them.*another folder") as e:
        open_run(tmp_path, settings=changed)
    assert "learning_rate" not in str(e.value)


def test_a_setting_that_is_stored_twice_is_reported_once(tmp_path):
    settings = [{"recipe": {"max_steps": 10, "seed": seed}, "seed": seed} for seed in (0, 1)]
    open_run(tmp_path, settings[0]).keep(1, True, **network())
    with pytest.raises(InputError) as caught:
        open_run(tmp_path, settings[1])
    assert str(caught.value).count("seed: 0 in the folder, 1 now") == 1


def test_settings_stay_the_same_when_written_and_read(small_data, tmp_path):
    dataset = read_dataset(*small_data)
    for _ in range(2):  # tuples are read back as lists, which must not count as a difference
        run = open_run(tmp_path, run_settings(SMALL, dataset, ""))
        run.keep(1, True, **network())
    with pytest.raises(InputError, match="learning_rate"):
        open_run(tmp_path, settings=run_settings(replace(SMALL, learning_rate=0.5), dataset, ""))


CONSTANT = {"max_steps": 10, "schedule": "constant", "test_time_flips": False, "windows_per_batch": 4}


def settings_with(**changes) -> dict:
    return {"recipe": CONSTANT | changes}


def test_before_its_first_validation_a_run_has_nothing_to_evaluate(tmp_path):
    with pytest.raises(TrainingStopped, match="after step 3"):
        run_steps(tmp_path, 10, stop_at=3)
    run = open_run(tmp_path)
    for show in (run.require_validation, run.write_summary, lambda: run.open_predictions(("background", "liver"))):
        with pytest.raises(
            InputError, match="reached step 3 of 10, and no validation yet. Run the cell that trains first"
        ):
            show()
    assert not (tmp_path / "summary.json").exists() and not (tmp_path / "predictions").exists()


def test_an_unfinished_run_says_so_in_its_summary(tmp_path, capsys):
    with pytest.raises(TrainingStopped, match="after step 6"):
        run_steps(tmp_path, 10, stop_at=6)
    for run, step in ((open_run(tmp_path), 6), (run_steps(tmp_path, 10)[0], 10)):
        capsys.readouterr()
        run.open_predictions(("background", "liver"))
        assert ("has reached step 6 of 10: these are results of an unfinished run" in capsys.readouterr().out) == (
            step == 6
        )
        run.write_table([{"organ": "liver", "dice": 0.5}], "evaluation.csv")
        run.write_summary(mean_dice=0.5)
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert (summary["step"], summary["recipe"]["max_steps"], summary["finished"]) == (step, 10, step == 10)


def test_scores_of_other_weights_than_the_best_are_not_in_the_summary(tmp_path):
    run, _ = run_steps(tmp_path, 4)
    for step, dice in ((None, None), (9, 0.9)):
        if step:
            run.losses = [1.0]
            run.record(step, {"mean_dice": dice})  # better weights than those that were evaluated
        for refused in (lambda: run.write_summary(mean_dice=0.5), run.require_evaluation):
            with pytest.raises(
                InputError, match=f"of step {step or 4}, have not been evaluated.*writes evaluation.csv first"
            ):
                refused()
        run.write_table([{"organ": "liver", "dice": 0.5}], "evaluation.csv")
        run.require_evaluation()


def test_figures_of_several_steps_go_to_a_folder(tmp_path):
    run, _ = run_steps(tmp_path / "run", 4)
    run.add_figure(Figure(), "dice_curve")
    for step in (2, 4):
        run.add_figure(Figure(), "validations", step)
    pictures = sorted(file.relative_to(run.path).as_posix() for file in run.path.rglob("*.png"))
    assert pictures == ["dice_curve.png", "validations/000002.png", "validations/000004.png"]


def test_a_removed_folder_is_not_filled_again(tmp_path):
    run, _ = run_steps(tmp_path / "run", 4)
    run.events.writer.flush()  # so that the thread of the events writes nothing while the folder is removed
    shutil.rmtree(tmp_path / "run")
    writers = (
        lambda: run.keep(5, True, **network()),
        lambda: run.save_weights(build_swinunetr(2, feature_size=12, window_size=4), "best_model.pth"),
        lambda: run.write_table([{"organ": "liver"}], "evaluation.csv"),
        lambda: run.add_figure(Figure(), "dice_curve"),
        lambda: run.open_predictions(("background", "liver")),
        run.write_summary,
    )
    for write in writers:
        with pytest.raises(InputError, match="run' has lost its 'settings.json' since the start"):
            write()
    assert not (tmp_path / "run").exists()


def test_events_that_cannot_be_written_do_not_stop_the_run(tmp_path, capfd):
    run = open_run(tmp_path / "run")
    run.events.writer.flush()  # so that the thread of the events writes nothing while the folder is removed
    shutil.rmtree(tmp_path / "run")
    run.events.writer.add_scalar("a", 1.0, 1)
    with suppress(OSError):  # which the thread of the events raised
        run.events.writer.flush()
    (tmp_path / "run").mkdir()
    write_json(SETTINGS, tmp_path / "run/settings.json")
    for step in (1, 2):
        run.losses = [1.0]
        run.record(step, {"mean_dice": 0.5})
    printed = capfd.readouterr()
    assert printed.out.count("Events for TensorBoard are no longer written") == 1 and "Traceback" not in printed.err
    assert len((tmp_path / "run/metrics.csv").read_text().splitlines()) == 3


def test_a_folder_whose_name_is_not_utf8_holds_all_but_events(tmp_path, capsys):
    run, _ = run_steps(tmp_path / os.fsdecode(b"J\xfcrgen"), 10)
    run.open_predictions(("background", "liver"))
    run.write_summary()
    assert (run.path / "summary.json").is_file() and "No events for TensorBoard" in capsys.readouterr().out


def test_what_only_affects_inference_may_change(tmp_path):
    run_steps(tmp_path, 10, settings=settings_with())
    run = open_run(tmp_path, settings_with(test_time_flips=True, windows_per_batch=1))
    assert run.restore(**network()) == 10
    assert json.loads((tmp_path / "settings.json").read_text())["recipe"]["test_time_flips"] is True
    assert run.identity == open_run(tmp_path, settings_with()).identity


def test_a_finished_run_can_be_trained_further_at_a_constant_rate(tmp_path):
    run_steps(tmp_path / "further", 10, settings=settings_with())
    _, model = run_steps(tmp_path / "further", 14, settings=settings_with(max_steps=14))
    _, expected = run_steps(tmp_path / "whole", 14, settings=settings_with(max_steps=14))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    with pytest.raises(InputError, match="max_steps: expected at least 14.*found 12"):
        open_run(tmp_path / "further", settings_with(max_steps=12))


def test_with_a_schedule_that_depends_on_it_max_steps_may_not_change(tmp_path):
    run_steps(tmp_path, 10, settings=settings_with(schedule="cosine"))
    with pytest.raises(InputError, match="max_steps: 10 in the folder, 14 now"):
        open_run(tmp_path, settings_with(schedule="cosine", max_steps=14))


def test_a_finished_run_without_its_state_shows_its_results(tmp_path):
    whole, _ = run_steps(tmp_path, 8, settings=settings_with(max_steps=8))
    whole.write_summary()
    for name in ("state.pt", "state.previous.pt"):
        (tmp_path / name).unlink(missing_ok=True)
    run = open_run(tmp_path, settings_with(max_steps=8))
    assert run.restore(**network()) == 8 and run.history == whole.history
    assert run.seconds >= json.loads((tmp_path / "summary.json").read_text())["seconds"]
    assert not (tmp_path / "state.pt").exists()
    with pytest.raises(InputError, match="up to step 8, but no state to resume from"):
        open_run(tmp_path, settings_with(max_steps=12))


def test_a_run_is_known_by_the_content_of_its_weights_and_not_by_their_name(small_data, tmp_path):
    dataset, settings = read_dataset(*small_data), []
    for folder, seed in (("a", 0), ("b", 1), ("moved", 0)):
        torch.manual_seed(seed)
        save_weights(build_swinunetr(2, feature_size=12), tmp_path / folder / "best_model.pth")
        settings.append(run_settings(SMALL, dataset, tmp_path / folder / "best_model.pth"))
    run_steps(tmp_path / "run", 1, settings=settings[0])
    with pytest.raises(InputError, match="pretrained_sha256: .* in the folder, .* now"):
        open_run(tmp_path / "run", settings[1])
    open_run(tmp_path / "run", settings[2])


def test_a_run_is_known_by_the_content_of_its_scans_and_not_by_their_folder(small_data, tmp_path):
    json_path, root = small_data
    dataset = read_dataset(json_path, root)
    before = run_settings(SMALL, dataset, "", check_dataset(dataset, SMALL.spacing_mm).fingerprint)
    run_steps(tmp_path / "run", 1, settings=before)
    (tmp_path / "new").mkdir()
    for name in ("imagesTr", "labelsTr"):
        shutil.move(root / name, tmp_path / "new" / name)
    moved = read_dataset(json_path, tmp_path / "new")
    open_run(tmp_path / "run", run_settings(SMALL, moved, "", check_dataset(moved, SMALL.spacing_mm).fingerprint))
    write_case(tmp_path / "new", 1, shape=(72, 72, 68))
    other = run_settings(SMALL, moved, "", check_dataset(moved, SMALL.spacing_mm).fingerprint)
    with pytest.raises(InputError, match="img0001: .* in the folder, .* now"):
        open_run(tmp_path / "run", other)


def test_a_message_about_many_differences_is_short(tmp_path):
    run_steps(tmp_path, 1, settings={"data": {f"img{n}": "a" for n in range(30)}, **{f"s{n}": 0 for n in range(30)}})
    with pytest.raises(InputError) as caught:
        open_run(tmp_path, {"data": {f"img{n}": "b" for n in range(30)}, **{f"s{n}": 1 for n in range(30)}})
    assert len(str(caught.value).splitlines()) <= 12 and "data: several differ (img0, img1, img2, ...)" in str(
        caught.value
    )


def test_a_folder_of_an_earlier_version_is_refused_in_plain_words(tmp_path):
    run_steps(tmp_path, 3)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(InputError, match="no settings.json.*earlier version.*Choose another folder"):
        open_run(tmp_path)


def test_without_training_no_state_is_written(tmp_path):
    run = open_run(tmp_path, settings_with(max_steps=0), trains=False)
    assert run.restore(**network()) == 0
    run.write_table([{"organ": "liver", "dice": 0.5}], "evaluation.csv")
    assert not (tmp_path / "state.pt").exists()
    with pytest.raises(InputError, match="holds a run with other settings"):
        open_run(tmp_path, {"recipe": CONSTANT | {"max_steps": 0, "seed": 1}}, trains=False)


def test_a_long_interval_between_states_is_kept(tmp_path):
    run = open_run(tmp_path, save_every=600)
    run.restore(**network())
    run._saved_at -= 100
    written = (tmp_path / "state.pt").stat().st_mtime_ns
    run.keep(1, False, **network())
    assert (tmp_path / "state.pt").stat().st_mtime_ns == written
    run._saved_at -= 600
    run.keep(2, False, **network())
    assert (tmp_path / "state.pt").stat().st_mtime_ns > written


def test_a_recipe_that_was_changed_after_the_folder_was_opened_is_refused(tmp_path):
    run = open_run(tmp_path, {"recipe": asdict(SMALL)})
    with pytest.raises(InputError, match="learning_rate: 0.008 in the run, 0.5 now\nRun the cell that makes the RunF"):
        run.restore(replace(SMALL, learning_rate=0.5), **network())
    assert run.restore(SMALL, **network()) == 0


def test_an_optimizer_of_an_earlier_network_is_refused(tmp_path):
    parts = network()
    with pytest.raises(InputError, match="optimizer: it belongs to an earlier network"):
        open_run(tmp_path).restore(model=network()["model"], optimizer=parts["optimizer"])


def test_a_folder_with_results_but_no_state_is_refused_and_unchanged(tmp_path):
    (tmp_path / "metrics.csv").write_text("mine")
    with pytest.raises(InputError, match="logdir"):
        open_run(tmp_path)
    assert (tmp_path / "metrics.csv").read_text() == "mine"


def test_a_folder_with_a_run_is_refused_if_resume_is_false(tmp_path):
    run_steps(tmp_path, 3)
    with pytest.raises(InputError, match="resume"):
        open_run(tmp_path, resume=False)


@pytest.mark.parametrize(
    ("options", "message"), [({"save_every": -1}, "save_every"), ({"save_every": "x"}, "save_every")]
)
def test_an_invalid_option_is_named_in_the_error(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        open_run(tmp_path, **options)


def test_an_empty_folder_name_is_refused():
    with pytest.raises(InputError, match="logdir"):
        open_run("")


def test_a_full_gpu_stops_the_run_with_advice(tmp_path):
    run = open_run(tmp_path)
    with pytest.raises(TrainingStopped, match="crops_per_volume"), run.stopping_cleanly():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="logdir.*cannot be written"):
        open_run(tmp_path / "file")


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    open_run(tmp_path)
    code = "from ssl_helpers import RunFolder, find_hardware; RunFolder({!r}, {{}}, find_hardware())"
    other = subprocess.run(
        [sys.executable, "-c", code.format(str(tmp_path))], cwd=PROJECT, capture_output=True, text=True
    )
    assert other.returncode != 0 and "is in use by another run" in other.stderr


def test_a_full_disk_leaves_the_previous_state(tmp_path):
    run, model = run_steps(tmp_path, 3)
    before = (tmp_path / "state.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(InputError, match="state.pt' could not be written.*Free disk space"):
            run.keep(4, True, **network())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "state.pt").read_bytes() == before
    assert not [file for file in tmp_path.iterdir() if file.name.endswith("state.pt") and file.name != "state.pt"]
    shutil.rmtree(tmp_path)


def test_a_finished_run_of_an_earlier_version_keeps_its_predictions(tmp_path):
    whole = json.loads(json.dumps(asdict(SMALL)))
    before = {name: value for name, value in whole.items() if name not in ("deep_supervision", "window_weights")}
    run = open_run(tmp_path, {"recipe": before | {"crop_centres": "voxels"}})
    run.losses = [1.0]
    run.record(1, {"mean_dice": 0.5})
    run.keep(1, True, **network())
    folder = run.open_predictions(("background", "liver"))
    write_json({"recipe": before | {"crop_centres": "voxels"}, "ranks": 1}, folder / "made_by.json")
    now = whole | {"crop_centres": "voxels", "deep_supervision": 0, "window_weights": "constant"}
    assert open_run(tmp_path, {"recipe": now}).open_predictions(("background", "liver")) == folder
    with pytest.raises(InputError, match="window_weights"):
        open_run(tmp_path, {"recipe": now | {"window_weights": "gaussian"}})
