"""Qwen2-Audio."""

from __future__ import annotations

from dataclasses import dataclass

from mmdatasets.planning.dry_run import ProcessorRunner
from mmdatasets.plugins.base import BasePlugin
from mmdatasets.types import AudioShape


@dataclass(eq=False)
class Qwen2AudioPlugin(BasePlugin):
    """Whisper's features, of which the processor counts the frames that have any sample."""

    def canonical_audio(self, runner: ProcessorRunner, shape: AudioShape) -> AudioShape:
        """The length rounded up to whole frames."""
        hop = runner.processor.feature_extractor.hop_length
        rounded, limit = -(-shape.num_samples // hop) * hop, runner.max_samples
        if limit is not None and rounded > limit:
            return shape
        return AudioShape(rounded)
