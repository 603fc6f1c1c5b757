"""Previews in a real browser: nothing overflows, nothing is loaded from elsewhere, nothing of the data runs."""

from __future__ import annotations

import pytest

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.testing import build_processor
from mmdatasets.testing.audio import write_audio
from mmdatasets.testing.media import write_image
from mmdatasets.testing.video import VideoSpec, write_video
from tests.browser import check_page, launch

HOSTILE = (
    "</style><script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg onload=alert(3)> {{ 7*7 }} "
    "<iframe src='https://example.com'></iframe><link rel=stylesheet href=//example.com/a.css> \u202eabc\u2066 \x00 "
    "<style>*{display:none}</style> <base href='https://example.com/'> " + "x" * 400 + " " + "m" * 300
)
NAME = "\"><img src=x onerror=alert(4)>'.jpg"


@pytest.fixture(scope="module")
def browser():
    with launch() as browser:
        yield browser


@pytest.fixture(scope="module")
def row(tmp_path_factory):
    """A row with all that a page can show: hostile text and names, tiny and long media, what cannot be read."""
    folder = tmp_path_factory.mktemp("media")
    images = [write_image(folder / NAME, 640, 480), write_image(folder / "wide.jpg", 1800, 60), folder / f"lost{NAME}"]
    clip = write_video(folder / "clip.mp4", VideoSpec(num_frames=50, width=320, height=240, audio_codec="aac"))
    sound = write_audio(folder / "tone.wav", sampling_rate=44_100, duration_s=1.5, num_channels=2)
    plugin = auto_plugin(
        build_processor("qwen2_5_omni"), options=MediaOptions(use_audio_in_video=True, video_max_pixels=160 * 160)
    )
    images[2].write_bytes(images[0].read_bytes())
    chat = [
        {"role": "system", "content": HOSTILE},
        {"role": "user", "content": f"<image><image><image><video><audio>{HOSTILE}\n\n\tWhat?"},
        {"role": "assistant", "content": HOSTILE},
    ]
    columns = {"messages": [chat], "images": [[str(path) for path in images]], "videos": [[str(clip)]]}
    made = plugin.transform({**columns, "audios": [[str(sound)]]})
    images[2].unlink()
    return plugin, {name: column[0] for name, column in made.items()}


def test_a_row_in_a_browser(browser, row, tmp_path):
    plugin, made = row
    preview = plugin.preview(made, names=[HOSTILE])
    assert [item.error is not None for item in preview.facts.rows[0].media] == [False, False, True, False, False]
    path = preview.save(tmp_path / "row.html")
    assert check_page(browser, path) == []
    assert check_page(browser, path, widths=(360,), schemes=("light",)) == []
    assert path.stat().st_size < 300_000
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.locator("script, iframe, link[rel=stylesheet], base").count() == 0
    assert page.locator("svg[onload], img[onerror]").count() == 0
    assert page.locator("style").count() == 2  # the page's and the preview's own
    assert "<script>alert(1)</script>" in page.locator(".mmp-said").first.inner_text()
    assert page.locator("img").evaluate_all("all => all.every(one => one.src.startsWith('data:image/webp'))")
    page.close()


def test_what_is_trained_is_told_by_more_than_colour(browser, row, tmp_path):
    plugin, made = row
    page = browser.new_page()
    page.goto(plugin.preview(made).save(tmp_path / "row.html").as_uri())
    style = "one => { const s = getComputedStyle(one); return [s.textDecorationLine, s.backgroundColor]; }"
    (line, background), (other_line, other) = (
        page.locator(f".mmp-flow > {kind}").first.evaluate(style) for kind in (".mmp-t", "i")
    )
    assert (line, other_line) == ("underline", "none")
    assert background != other
    page.close()


def test_in_a_notebook_the_style_stays_inside_and_follows_its_theme(browser, row, tmp_path):
    plugin, made = row
    fragment = plugin.preview(made)._repr_html_()
    page = browser.new_page(color_scheme="light")
    page.set_content(f'<body data-jp-theme-light="false"><h1>Title</h1><table><td>x</table>{fragment}</body>')
    colours = "one => getComputedStyle(one).backgroundColor"
    assert page.locator(".mmp").evaluate(colours) == "rgb(23, 26, 32)"
    page.evaluate("document.body.dataset.jpThemeLight = 'true'")
    assert page.locator(".mmp").evaluate(colours) == "rgb(255, 255, 255)"
    outside = "one => { const s = getComputedStyle(one); return [s.fontSize, s.paddingLeft, s.borderBottomWidth]; }"
    styled = [page.locator(kind).first.evaluate(outside) for kind in ("h1", "body > table td")]
    page.set_content("<body><h1>Title</h1><table><td>x</table></body>")
    assert styled == [page.locator(kind).first.evaluate(outside) for kind in ("h1", "body > table td")]
    page.close()


def test_batches_and_several_rows_in_a_browser(browser, row, tmp_path):
    plugin, made = row
    text = plugin.transform(
        {"messages": [[{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes"}]]}
    )
    short = {name: column[0] for name, column in text.items()}
    batch = auto_plugin(build_processor("qwen2_5_omni")).collator()([short, short])
    pages = {"batch": plugin.preview(batch), "rows": plugin.preview([short, made])}
    for name, preview in pages.items():
        assert check_page(browser, preview.save(tmp_path / f"{name}.html"), schemes=("dark",)) == []


def test_the_check_finds_what_is_wrong(browser, tmp_path):
    """What the checks above would not notice, they would not rule out."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<body><div style='width:2000px'>wide</div><p style='color:#aaa;background:#bbb'>pale</p>"
        "<img src='data:image/png;base64,AAAA'><script>alert(1)</script>"
        "<img src='file:///nowhere/else.png'></body>",
        "utf-8",
    )
    found = " ".join(fault.what for fault in check_page(browser, path, widths=(800,), schemes=("light",)))
    for words in (
        "beyond the viewport",
        "sideways",
        "dialog: 1",
        "request of file:///nowhere",
        "does not load",
        "contrast",
    ):
        assert words in found
