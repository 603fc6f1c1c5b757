"""What an engine knows of its processor."""

from __future__ import annotations

import pytest

from mmdatasets.errors import MediaError
from mmdatasets.plugins.generic import StandardPlugin
from mmdatasets.testing import build_processor


def test_a_blank_item_is_the_smallest_that_the_processor_takes() -> None:
    engine = StandardPlugin(processor=build_processor("minimax_m3_vl")).engine
    blank, ids = engine.blank("video")  # whole patches of 28 pixels
    assert (blank.shape.width, blank.shape.height) == (224, 224)
    assert engine.media_token_ids[0] in ids or engine.media_token_ids[-1] in ids


def test_what_a_processor_says_of_every_blank_item_is_asked_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = StandardPlugin(processor=build_processor("nemotron_h_omni")).engine
    asked = []
    plain = engine.media.expand_one
    monkeypatch.setattr(engine.media, "expand_one", lambda shape: asked.append(shape) or plain(shape))
    with pytest.raises(MediaError, match="takes no blank video of any size"):
        engine.blank("video")
    assert len(asked) == 3
