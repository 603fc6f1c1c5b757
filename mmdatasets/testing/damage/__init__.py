"""Damaged media: every format, damaged in every way that downloads, disks, programs and people damage files.

Whoever reads media must give a result or an error of its own for each item, in bounded time, and keep nothing open.
"""

from mmdatasets.testing.damage.corpus import DAMAGE_KINDS, DamagedItem, DamageKind, damaged_corpus
from mmdatasets.testing.damage.formats import MediaFormat, media_formats

__all__ = ["DAMAGE_KINDS", "DamageKind", "DamagedItem", "MediaFormat", "damaged_corpus", "media_formats"]
