"""The stage between `transform` and `collator` that decodes media once for all epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from mmdatasets.collate.materialise import Materialiser, Unsupported, materialise_batch
from mmdatasets.collate.materialised_rows import materialised_features

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.transforms.batches import Batch


class Materialising:
    """The part of a plugin that materialises media."""

    def materialise(
        self,
        batch: Batch,
        indices: Sequence[int] | None = None,
        *,
        quality: int | None = None,
        unsupported: Unsupported = "error",
        store: str | None = None,
    ) -> pa.Table | dict[str, list[object]]:
        """Decodes the media of mapped rows once, for `mapped.map(plugin.materialise, batched=True, batch_size=32)`.

        In the place of each original stands what the model's processor resizes it to, of a video the planned frames
        of that, and of audio its samples at the model's rate. The collator makes the same batches of it, bit for bit,
        and no longer needs the originals. Every item is compared: the processor runs on the original and on what is
        stored. Images and frames are kept as uncompressed TIFF files, so that reading them takes no longer than
        copying, 3 bytes for each pixel of the resized size. A batch is held in memory, hence the small ones.

        Rows of preference data are materialised likewise. Packed rows are not: materialise, then pack.

        Args:
            batch: Columns as `transform` made them.
            indices: Row numbers for error messages: `map(..., with_indices=True)` passes them.
            quality: 1 to 100, for a smaller store that changes pixels: JPEG of that quality, and samples of 16 bits.
                The shapes of inputs and the token ids stay the same. For `map` it stands in `fn_kwargs`.
            unsupported: What becomes of items that cannot be materialised, as some processors use originals otherwise
                than by resizing them: an `"error"` says so, or they are left as they are (`"keep"`).
            store: Local directory for the files, to which the rows then refer. Each is there once, however many rows
                have it. Without it, files are in the rows; see `mmdatasets.features.PARQUET_OPTIONS` for writing them.

        Raises:
            MMDatasetsError: If rows were not mapped, an item cannot be materialised, or it cannot be decoded and the
                plugin's `on_error` is `"raise"` (else the row is left out). Names the row, and the column, index and
                source of the item.
            TooManyBadRowsError: If more rows cannot be used than the plugin allows.
            ValueError: If `quality` or `unsupported` have no such value.
        """
        materialiser = Materialiser(cast("BasePlugin", self), quality, unsupported, store)
        return materialise_batch(materialiser, batch, indices)

    def materialised_features(self, features: Features) -> Features:
        """The types of what `materialise` returns.

        They are those of the mapped dataset, unless that was mapped by an earlier version.

        Args:
            features: Features of the mapped dataset.

        Raises:
            CollateError: If it was not mapped.
        """
        return materialised_features(features)
