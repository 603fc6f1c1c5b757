"""The output folder is replaced only where the demo wrote all of it."""

from __future__ import annotations

import pytest
from datasets import Dataset, load_from_disk

from mmdatasets.cli.output import check_output, save_dataset
from mmdatasets.errors import MMDatasetsError


def test_second_run_replaces_the_first(tmp_path):
    output = tmp_path / "new" / "output"
    save_dataset(Dataset.from_dict({"a": [1, 2]}), output)
    save_dataset(Dataset.from_dict({"a": [3]}), output)
    assert load_from_disk(str(output))["a"][:] == [3]
    assert [path.name for path in output.parent.iterdir()] == ["output"]


def test_empty_folder_is_used(tmp_path):
    save_dataset(Dataset.from_dict({"a": [1]}), tmp_path)
    assert len(load_from_disk(str(tmp_path))) == 1


def test_foreign_files_are_kept(tmp_path):
    output = tmp_path / "output"
    save_dataset(Dataset.from_dict({"a": [1]}), output)
    (output / "thesis.txt").write_text("precious")
    with pytest.raises(MMDatasetsError, match=r"thesis\.txt"):
        save_dataset(Dataset.from_dict({"a": [2]}), output)
    assert (output / "thesis.txt").read_text() == "precious"
    assert load_from_disk(str(output))["a"][:] == [1]


def test_a_dataset_of_someone_else_is_kept(tmp_path):
    Dataset.from_dict({"a": [1]}).save_to_disk(str(tmp_path / "output"))
    with pytest.raises(MMDatasetsError, match="did not write"):
        check_output(tmp_path / "output")


def test_a_file_or_link_is_kept(tmp_path):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(MMDatasetsError, match="not a folder"):
            check_output(tmp_path / name)
