"""Ctrl-C, SIGTERM and a parent that is killed: everything ends within seconds, and nothing is left."""

from __future__ import annotations

import signal
import time
from functools import partial
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from torch.utils.data import DataLoader

from mmdatasets import MediaOptions, preprocess
from mmdatasets.cli.main import main
from mmdatasets.shards.layout import finished_files
from mmdatasets.testing import build_processor
from mmdatasets.testing.media import write_image
from tests.robustness.calls import Call, MarkingPlugin
from tests.shards.runs import contents, make_plugin, write_chats

NUM_PROC = 2


@pytest.fixture
def chats(tmp_path):
    return write_chats(tmp_path / "source", 8_000)


@pytest.fixture
def marks(tmp_path):
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def marking(chats: Path, marks: Path, seconds: float = 0.0) -> MarkingPlugin:
    options = MediaOptions(media_root=str(chats.parent))
    return MarkingPlugin(processor=build_processor("qwen2_vl"), options=options, marks=str(marks), seconds=seconds)


def are_at_work(marks: Path) -> bool:
    return len(list(marks.iterdir())) == NUM_PROC


def map_rows(dataset: Dataset, plugin: MarkingPlugin) -> int:
    dataset.map(plugin.transform, batched=True, batch_size=64, num_proc=NUM_PROC, load_from_cache_file=False)
    return 0


def mapping(chats: Path, plugin: MarkingPlugin, tmp_path: Path) -> Call:
    source = load_dataset("json", data_files=str(chats), split="train", cache_dir=str(tmp_path / "cache"))
    return Call(tmp_path / "call", map_rows, source, plugin)


@pytest.mark.parametrize("group", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["parent", "group"])
def test_ctrl_c_ends_map(group, chats, marks, tmp_path) -> None:
    call = mapping(chats, marking(chats, marks), tmp_path)
    call.wait_for(lambda: are_at_work(marks))
    assert len(call.processes()) == 2 + NUM_PROC  # `datasets` has one more, for the queue
    # What `datasets` makes of it on its way: it waits for results of processes that have none.
    assert call.stop(signal.SIGINT, group=group) in ("KeyboardInterrupt", "multiprocess.context.TimeoutError")
    assert not list(call.temporary.iterdir())


def test_workers_of_map_end_with_a_parent_that_is_killed(chats, marks, tmp_path) -> None:
    """In the middle of a batch, too; not that which `datasets` has for its queue, where nothing of ours runs."""
    call = mapping(chats, marking(chats, marks, seconds=60), tmp_path)
    call.wait_for(lambda: are_at_work(marks))
    call.process.kill()
    call.process.join()
    workers = {int(path.name) for path in marks.iterdir()}
    deadline = time.monotonic() + 5
    while workers & set(call.processes()):
        assert time.monotonic() < deadline, "workers are left"
        time.sleep(0.02)
    call.kill_group(signal.SIGKILL)


def test_workers_of_preprocess_end_with_a_parent_that_is_killed_in_the_middle_of_a_batch(
    chats, marks, tmp_path
) -> None:
    plugin = marking(chats, marks, seconds=60)
    settings = {"rows_per_shard": 100, "num_proc": NUM_PROC, "progress": False}
    call = Call(tmp_path / "call", partial(preprocess, **settings), str(chats), plugin, tmp_path / "out")
    call.wait_for(lambda: are_at_work(marks))
    assert call.stop(signal.SIGKILL) == ""


@pytest.fixture
def command(chats, tmp_path):
    processor = tmp_path / "processor"
    build_processor("qwen2_vl").save_pretrained(processor)
    source, output = chats.with_name("few.jsonl"), tmp_path / "out"
    source.write_text("".join(chats.read_text("utf-8").splitlines(keepends=True)[:600]), "utf-8")
    arguments = ["preprocess", str(source), "--output", str(output), "--processor", str(processor), "--quiet"]
    return [*arguments, "--rows-per-shard", "20", "--num-proc", str(NUM_PROC)]


@pytest.mark.parametrize(
    ("number", "group", "words", "status"),
    [
        (signal.SIGINT, True, "interrupted", 130),
        pytest.param(signal.SIGTERM, False, "terminated", 143, marks=pytest.mark.slow),
    ],
)
def test_a_command_that_is_stopped_says_so_and_goes_on(number, group, words, status, command, tmp_path) -> None:
    output = tmp_path / "out"
    call = Call(tmp_path / "call", main, command)
    call.wait_for(lambda: len(finished_files(output, "train")) > 1)
    assert call.stop(number, group=group) == f"status {status}"
    assert call.errors.splitlines()[-1] == f"{words}; what is finished stays, and the same command goes on from there"
    assert "Traceback" not in call.errors
    assert not list(call.temporary.iterdir())
    assert not [name for name in contents(output) if ".part" in name or name.endswith(".lock")]
    finished = len(finished_files(output, "train"))
    assert 1 < finished < 30
    report = preprocess(command[1], make_plugin(), output, rows_per_shard=20, progress=False)
    assert report.shards_written == 30 - finished
    preprocess(command[1], make_plugin(), tmp_path / "whole", rows_per_shard=20, progress=False)
    assert contents(output) == contents(tmp_path / "whole")


# ------------------------------------------------------------------------------ with processes that decode


def write_large_photos(folder: Path) -> list[str]:
    folder.mkdir()
    return [str(write_image(folder / f"{number}.jpg", 3000, 2000, seed=number)) for number in range(2)]


def bounded_plugin():
    return make_plugin(options=MediaOptions(decode_timeout_s=60))


def train(rows: Dataset, marks: Path) -> None:
    loader = DataLoader(rows, batch_size=2, num_workers=NUM_PROC, collate_fn=bounded_plugin().collator())
    while True:
        for number, _ in enumerate(loader):
            (marks / str(number)).touch()


def photo_rows(tmp_path: Path) -> Dataset:
    photos = write_large_photos(tmp_path / "photos")
    chat = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "Yes."}]
    return Dataset.from_dict({"messages": [chat] * 400, "images": [[photos[n % 2]] for n in range(400)]})


@pytest.mark.slow
def test_a_training_loop_whose_workers_have_processes_that_decode(marks, tmp_path) -> None:
    rows = photo_rows(tmp_path).map(make_plugin().transform, batched=True)
    call = Call(tmp_path / "call", train, rows, marks)
    call.wait_for((marks / "1").exists)
    assert len(call.processes()) == 1 + 2 * NUM_PROC
    assert call.stop(signal.SIGINT) == "KeyboardInterrupt"


@pytest.mark.slow
def test_materialising_in_processes_that_decode_and_a_parent_that_is_killed(tmp_path) -> None:
    rows, settings = photo_rows(tmp_path), {"rows_per_shard": 4, "materialise": True, "progress": False}
    output = tmp_path / "out"
    run = partial(preprocess, num_proc=NUM_PROC, **settings)
    call = Call(tmp_path / "call", run, rows, bounded_plugin(), output)
    call.wait_for(lambda: len(finished_files(output, "train")) > 1)
    assert len(call.processes()) == 1 + 2 * NUM_PROC
    assert call.stop(signal.SIGKILL) == ""
    assert 1 < len(finished_files(output, "train")) < 100
