"""`plugin.report`: what it says of datasets, its page, and what it refuses."""

from __future__ import annotations

import json
import re
import sys
from html import unescape
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from mmdatasets.errors import MMDatasetsError
from mmdatasets.plugins.registry import get_mm_plugin
from mmdatasets.report.report import Report
from mmdatasets.testing.mapped import make_mapped
from tests.browser import check_page, launch
from tests.report.cases import chat, make_plugin, map_rows, rows_of, write_media

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>'


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return write_media(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def plugin():
    return make_plugin()


@pytest.fixture
def mapped(plugin, media):
    return map_rows(plugin, rows_of(media))


def test_numbers_are_those_of_the_rows_and_files(plugin, mapped, media):
    data = plugin.report(mapped, title="five rows").data
    assert (data["title"], data["kind"], data["family"]) == ("five rows", "chats", "qwen2_omni")
    assert data["rows"] == 5
    assert data["tokens"] == sum(mapped["length"])
    records = [record for row in mapped["media_info"] for record in row]
    assert data["media_tokens"] == sum(record["num_tokens"] for record in records)
    assert {name: facts["items"] for name, facts in data["media"].items()} == {"image": 3, "video": 1, "audio": 1}
    assert data["media"]["video"]["quantiles"]["frames decoded"]["max"] == 4
    assert data["media"]["video"]["quantiles"]["frames in the video"]["max"] == 12
    assert data["media"]["audio"]["quantiles"]["duration (seconds)"]["max"] == 1.0
    sizes = {name: Path(path).stat().st_size for name, path in media.items()}
    assert [file["num_bytes"] for file in data["largest_files"]] == sorted(sizes.values(), reverse=True)
    assert data["files"]["images"]["sizes"]["max"] == sizes["large"]
    assert data["most_tokens"][0]["tokens"] == max(record["num_tokens"] for record in records)
    assert {item["source"] for item in data["slowest"]} == set(media.values())
    assert all(item["seconds"] > 0 and item["error"] is None for item in data["slowest"])
    assert data["outcomes"] == []


def test_the_json_is_the_data_and_the_summary_is_short(plugin, mapped, tmp_path):
    report = plugin.report(mapped, time_media=0)
    page = report.save(tmp_path / "here" / "rows.html")
    assert page.read_text("utf-8") == report.html
    assert json.loads((tmp_path / "here" / "rows.json").read_text("utf-8")) == json.loads(report.to_json())
    assert Report(json.loads(report.to_json())).html.count("<svg") == 0  # made of the JSON alone
    assert report.save(tmp_path / "folder") == tmp_path / "folder" / "report.html"
    assert (tmp_path / "folder" / "report.json").is_file()
    lines = str(report).splitlines()
    assert lines[1].split() == ["rows", "5", "rows"]
    assert len(lines) < 20
    assert unescape(re.search('srcdoc="(.*?)"', report._repr_html_(), re.DOTALL)[1]) == report.html


def test_rows_that_are_not_mapped_are_mapped_whole_and_failures_listed(media, tmp_path):
    rows = rows_of(media).to_list()
    rows[1]["images"][1] = str(tmp_path / "lost.png")
    rows[3]["audios"] *= 2
    source = Dataset.from_list(rows, features=rows_of(media).features)
    # Its own limits are those of training: the report is to see the rows as they are.
    plugin = make_plugin(max_length=8, on_overflow="drop")
    data = plugin.report(source, time_media=0).data
    assert data["rows"] == 3
    found = {(one["outcome"], one["reason"]): one for one in data["outcomes"]}
    assert {key: one["rows"] for key, one in found.items()} == {
        ("dropped", "media_not_found"): 1,
        ("dropped", "placeholder"): 1,
    }
    (lost,) = found["dropped", "media_not_found"]["examples"]
    assert (lost["row"], lost["column"], lost["index"]) == (1, "images", 1)
    assert lost["source"].endswith("lost.png")


def test_what_became_of_fitted_rows(media, tmp_path):
    source = rows_of(media)
    whole = map_rows(make_plugin(), source)
    limit = sorted(whole["length"])[2]
    plugin = make_plugin(max_length=limit, on_overflow="drop", row_log=str(tmp_path / "log"))
    mapped = map_rows(plugin, source)
    data = plugin.report(mapped, source=source, time_media=0, max_lengths=[limit]).data
    assert (data["rows"], data["lengths"]["max"]) == (3, limit)
    # The lengths of the rows that are gone are in the log.
    assert data["original_lengths"]["count"] == 5
    assert data["original_lengths"]["max"] == max(whole["length"])
    assert [(one["reason"], one["rows"]) for one in data["outcomes"]] == [("too_long", 2)]
    (at_limit,) = data["overflow"]
    assert (at_limit["rows_above"], at_limit["items_beyond"]) == (2, None)
    unlogged = make_plugin().report(mapped, source=7, time_media=0).data
    assert [(one["reason"], one["rows"]) for one in unlogged["outcomes"]] == [("not_recorded", 4)]


def test_preference_data_and_packed_rows(plugin, mapped, media):
    pairs = Dataset.from_list(
        [
            {"prompt": chat("<image>What?")[:1], "chosen": chat("", "Good.")[1:], "rejected": chat("", "B")[1:]}
            | {"images": [media["small"]]}
            for _ in range(3)
        ]
    )
    made = pairs.map(plugin.preference_transform, batched=True, features=plugin.preference_features(pairs.features))
    for given in (pairs, made):
        data = plugin.report(given, time_media=0).data
        assert (data["kind"], data["rows"], data["packing"]) == ("pairs", 3, [])
        chosen, rejected = (len(made[0][f"{side}_ids"]) for side in ("chosen", "rejected"))
        waste = 1 - (chosen + rejected) / (2 * max(chosen, rejected))
        assert data["padding"][0]["random"] == pytest.approx(waste)
    packed = plugin.packer(max_length=max(mapped["length"])).pack(mapped)
    data = plugin.report(packed, time_media=0).data
    assert (data["kind"], data["rows"], data["suggestion"]) == ("packed", len(packed), None)
    assert data["sequences"]["count"] == 5
    assert data["tokens"] == sum(mapped["length"])
    assert plugin.report(mapped.select([]), time_media=0).data["lengths"] is None


def test_a_media_item_that_cannot_be_decoded_is_said(plugin, media, tmp_path):
    copy = tmp_path / "clip.mp4"
    copy.write_bytes(Path(media["clip"]).read_bytes())
    mapped = map_rows(plugin, rows_of({**media, "clip": str(copy)}))
    copy.write_bytes(b"nothing")
    report = plugin.report(mapped)
    first = report.data["slowest"][0]
    assert first["seconds"] is None
    assert "not a readable video" in first["error"]
    assert "not a readable video" in str(report)


def test_what_it_refuses(plugin, mapped):
    with pytest.raises(MMDatasetsError, match="the dataset streams"):
        plugin.report(mapped.to_iterable_dataset())
    with pytest.raises(MMDatasetsError, match="choose one of 'train'"):
        plugin.report(DatasetDict(train=mapped))
    with pytest.raises(TypeError, match=r"expected a datasets\.Dataset, got list"):
        plugin.report([1])
    with pytest.raises(ValueError, match="max_lengths must be positive"):
        plugin.report(mapped, max_lengths=[0])


@pytest.mark.slow  # starts a browser
def test_the_page_in_a_browser(plugin, media, tmp_path):
    """At two widths and in both colour schemes, with text in the data that would be markup."""
    clips = {modality: [media[name]] for modality, name in (("video", "clip"), ("audio", "speech"))}
    many = make_mapped(400, files={"image": [media["small"], f"/nowhere/{'long-name-' * 12}{HOSTILE}.png"], **clips})
    report = plugin.report(many, title=HOSTILE, time_media=2)
    with launch() as browser:
        assert check_page(browser, report.save(tmp_path / "page.html")) == []


def test_the_page_has_text_for_each_plot_and_loads_nothing(plugin, mapped):
    page = plugin.report(mapped, title=HOSTILE, time_media=0).html
    assert "onerror=alert(1)>" not in page
    images = re.findall(r"<img [^>]*?>", page)
    assert images
    assert all(re.search(r'alt="[^"]{20,}"', image) for image in images)
    assert not re.search(r"(?:src|href|srcset)=\"(?!data:)", page)


def test_without_matplotlib_the_numbers_are_there_and_the_page_says_what_is_missing(plugin, mapped, monkeypatch):
    report = plugin.report(mapped, time_media=0)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert report.to_json()
    assert "rows" in str(report)
    with pytest.raises(ImportError, match=r"pip install 'mmdatasets\[preview\]'"):
        report.html  # noqa: B018


def test_drawing_leaves_matplotlib_as_it_was(plugin, mapped):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    assert plugin.report(mapped, time_media=0).html
    assert dict(mpl.rcParams) == before


def test_a_plugin_without_a_processor_reports_on_mapped_rows(mapped):
    report = get_mm_plugin("qwen2_omni").report(mapped, time_media=4)
    assert report.data["media"]["audio"]["quantiles"]["duration (seconds)"]["max"] == 1.0  # the dataset says the rate
    assert all(item["error"] is None for item in report.data["slowest"])
