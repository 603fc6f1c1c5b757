"""Stand-ins for the models of the families that are code of their checkpoints; written for tests.

Each takes what the published forward takes and puts it where that puts it. Everything else is as small as can be: a
linear vision tower, one layer in which a token sees what stands before it, and the embedding once more for logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from transformers.modeling_outputs import CausalLMOutput

if TYPE_CHECKING:
    from mmdatasets.testing.standins.base import StandInProcessor

_WIDTH = 8
_DECAY = 0.05
_MEL_BINS = 80

Rows = Sequence[torch.Tensor]


class StandInModel(torch.nn.Module):
    """A model whose inputs are text alone.

    Args:
        vocabulary: Number of tokens.
        patch_values: Numbers in one patch of an image.
        media_token_id: The token in whose places features are put.
    """

    def __init__(self, vocabulary: int, patch_values: int, media_token_id: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(vocabulary, _WIDTH)
        self.vision = torch.nn.Linear(patch_values, _WIDTH)
        self.mixer = torch.nn.Linear(_WIDTH, _WIDTH)
        self.media_token_id = media_token_id

    def get_input_embeddings(self) -> torch.nn.Embedding:
        """The text embedding."""
        return self.embedding

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **media: torch.Tensor,
    ) -> CausalLMOutput:
        """Makes logits `(batch, length, vocabulary)`, and the loss of `labels` where there are any."""
        hidden = self.see(self.embedding(input_ids), input_ids, media) if media else self.embedding(input_ids)
        positions = attention_mask.cumsum(dim=1) - 1 if position_ids is None else position_ids
        distance = positions[:, :, None] - positions[:, None, :]
        weights = torch.exp(-_DECAY * distance) * attention_mask[:, None, :] * (distance >= 0)
        seen = weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-9) @ hidden
        logits = (hidden + self.mixer(seen)) @ self.embedding.weight.T
        loss = None
        if labels is not None:
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def see(self, embedded: torch.Tensor, input_ids: torch.Tensor, media: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Puts one feature in each place of the media token.

        Raises:
            ValueError: If there are more or fewer features than places.
        """
        features = torch.cat([self.vision(patches) for patches in self.merged_patches(media)])
        places = input_ids == self.media_token_id
        if int(places.sum()) != len(features):
            raise ValueError(f"{len(features)} features for {int(places.sum())} media tokens")
        return embedded.masked_scatter(places[..., None], features)

    def merged_patches(self, media: Mapping[str, torch.Tensor]) -> Rows:
        """For each image `(num_features, patch_values)`, in order."""
        raise NotImplementedError


class KimiVLModel(StandInModel):
    """Takes `pixel_values` `(num_patches, 3, size, size)` in rows of patches, and `image_grid_hws`."""

    def merged_patches(self, media: Mapping[str, torch.Tensor]) -> Rows:
        """Means of blocks of two by two patches."""
        grids = media["image_grid_hws"].tolist()
        images = torch.split(media["pixel_values"].flatten(1), [rows * columns for rows, columns in grids])
        return [
            image.reshape(rows // 2, 2, columns // 2, 2, -1).mean(dim=(1, 3)).flatten(0, 1)
            for image, (rows, columns) in zip(images, grids, strict=True)
        ]


class YoutuVLModel(StandInModel):
    """Takes `pixel_values` `(num_images, most_patches, patch_values)` in blocks, their mask and `spatial_shapes`."""

    def merged_patches(self, media: Mapping[str, torch.Tensor]) -> Rows:
        """Means of blocks of four patches, padding left out."""
        masks = media["pixel_attention_mask"].bool()
        sizes = media["spatial_shapes"].prod(dim=1).tolist()
        if masks.sum(dim=1).tolist() != sizes:
            raise ValueError(f"pixel_attention_mask shows {masks.sum(dim=1).tolist()} patches of {sizes}")
        pairs = zip(media["pixel_values"], masks, strict=True)
        return [image[mask].unflatten(0, (-1, 4)).mean(dim=1) for image, mask in pairs]


class MossVLModel(StandInModel):
    """Takes images and frames beside the text: a token sees those that `cross_attention_mask` does not hide."""

    def see(self, embedded: torch.Tensor, input_ids: torch.Tensor, media: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Adds, to each token, what it sees of its row's images and frames."""
        grids = media["grid_thw"]
        sizes = torch.repeat_interleave(grids[:, 1] * grids[:, 2], grids[:, 0])
        patches = torch.split(media["pixel_values"], sizes.tolist())
        features = torch.stack([self.vision(frame).mean(dim=0) for frame in patches])
        visible = ~media["cross_attention_mask"][:, 0]
        per_row = torch.split(grids[:, 0], [int(count) for count in media["media_nums_per_sample"]])
        counts = [int(frames.sum()) for frames in per_row]
        rows = zip(visible, torch.split(features, counts), strict=True)
        seen = [mask[:, : len(own)].float() @ own for mask, own in rows]
        return embedded + torch.stack(seen)


class MiniCPMVModel(StandInModel):
    """Takes everything in `data`, and what its text model takes again beside it."""

    def forward(self, data: Mapping[str, torch.Tensor], **text: torch.Tensor) -> CausalLMOutput:  # type: ignore[override]
        """As published: `input_ids` beside `data` are dropped."""
        return super().forward(data["input_ids"], text["attention_mask"], text.get("labels"), **_media(data))

    def see(self, embedded: torch.Tensor, input_ids: torch.Tensor, media: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Puts each slice's features within its bounds."""
        rows = []
        for row, bounds, slices, sizes in zip(
            embedded, media["image_bound"], media["pixel_values"], media["tgt_sizes"], strict=True
        ):
            filled = row
            for (start, end), part, size in zip(bounds.tolist(), slices, sizes, strict=True):
                patches = part.unflatten(2, (int(size.prod()), -1)).permute(2, 0, 1, 3).flatten(1)
                feature = self.vision(patches).mean(dim=0, keepdim=True).expand(end - start, -1)
                filled = torch.cat([filled[:start], feature, filled[end:]])
            rows.append(filled)
        return torch.stack(rows)


class MiniCPMOModel(MiniCPMVModel):
    """Also takes audio: all features of a row, one after the other, within its bounds."""

    def __init__(self, vocabulary: int, patch_values: int, media_token_id: int) -> None:
        super().__init__(vocabulary, patch_values, media_token_id)
        self.audio = torch.nn.Linear(_MEL_BINS, _WIDTH)

    def see(self, embedded: torch.Tensor, input_ids: torch.Tensor, media: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Puts audio in its places, too.

        Raises:
            ValueError: If a row has more or fewer features than places.
        """
        seen = super().see(embedded, input_ids, media)
        windows = iter(media["audio_features"])
        lengths = media["audio_feature_lens"]
        rows = []
        for row, bounds, own in zip(
            seen, media["audio_bounds"], lengths if len(lengths) else [[]] * len(seen), strict=True
        ):
            features = [self._hear(next(windows)[:, : int(length)]) for length in own]
            places = [place for start, end in bounds.tolist() for place in range(start, end)]
            count = sum(len(one) for one in features)
            if count != len(places):
                raise ValueError(f"{count} features of audio for {len(places)} places")
            rows.append(row.index_copy(0, torch.tensor(places), torch.cat(features)) if count else row)
        return torch.stack(rows)

    def _hear(self, window: torch.Tensor) -> torch.Tensor:
        """`(num_features, width)`: one for each four frames; a rest of three makes another."""
        halved = torch.nn.functional.avg_pool1d(window, 2, ceil_mode=True)
        hearing: torch.Tensor = self.audio(torch.nn.functional.avg_pool1d(halved, 2).T)
        return hearing


def _media(data: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in data.items() if name not in ("input_ids", "attention_mask")}


_MODELS: Mapping[str, tuple[Callable[..., StandInModel], int]] = {
    "kimi_vl": (KimiVLModel, 3 * 14 * 14),
    "minicpm_o": (MiniCPMOModel, 3 * 14 * 14),
    "minicpm_v": (MiniCPMVModel, 3 * 14 * 14),
    "moss_vl": (MossVLModel, 3 * 16 * 16),
    "youtu_vl": (YoutuVLModel, 3 * 16 * 16),
}


def build_standin_model(name: str, processor: StandInProcessor) -> StandInModel:
    """Builds the model of a stand-in, the same weights always.

    Args:
        name: One of `list_standins()`.
        processor: The stand-in, whose output it is to take.
    """
    kind, patch_values = _MODELS[name]
    tokenizer = processor.tokenizer
    token = getattr(processor, "image_token", tokenizer.unk_token)
    build = partial(kind, len(tokenizer), patch_values, tokenizer.convert_tokens_to_ids(token))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()
