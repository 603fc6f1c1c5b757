"""What a plugin computes with: everything that is not configuration, built once in each process, never pickled."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from mmdatasets.chat.control_tokens import ControlTokenGuard, Piece
from mmdatasets.chat.formats import Conversation
from mmdatasets.chat.plain import PlainText
from mmdatasets.chat.template import ChatTemplate
from mmdatasets.chat.tokenise import IntArray, TextEncoder
from mmdatasets.errors import MediaError, MissingTemplateError, MMDatasetsError, TemplateError
from mmdatasets.media.cache import MetadataCache
from mmdatasets.options import MediaOptions, PixelBudget
from mmdatasets.planning.dry_run import ProcessorKwargs, ProcessorRunner
from mmdatasets.planning.inputs import blank_input
from mmdatasets.transforms.media import MediaReader
from mmdatasets.types import AudioShape, FramePlan, ImageInfo, MediaInput, MediaShape, Modality, VideoShape

if TYPE_CHECKING:
    import numpy.typing as npt
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    from mmdatasets.plugins.base import BasePlugin

_MARKUP_CACHE_SIZE = 1024
_BUDGET_CACHE_SIZE = 64
_SIDES = (32, 64, 128, 224, 256, 512)  # 224: whole patches of 14, 16, 28 and 32 pixels
_HOPELESS = 3
_BLANKS: dict[Modality, list[MediaShape]] = {
    "image": [ImageInfo(side, side) for side in _SIDES],
    "video": [
        VideoShape(side, side, FramePlan(tuple(range(count)), tuple(map(float, range(count)))), count, 1.0, count)
        for count in (2, 8, 32)
        for side in _SIDES
    ],
    "audio": [AudioShape(samples) for samples in (4_000, 16_000, 64_000)],
}
_MARK = "\U0010fff3"


class Engine:
    """A processor at work under a plugin's settings.

    Args:
        plugin: Gives the family's rules and the settings.
        processor: The model's processor.
        options: How media is read and sized.

    Raises:
        MMDatasetsError: If `audio_sampling_rate` is not what the processor takes, or the directory of the metadata
            cache cannot be used.
    """

    def __init__(
        self, plugin: BasePlugin, processor: ProcessorMixin | PreTrainedTokenizerBase, options: MediaOptions
    ) -> None:
        self.options = options
        self._plugin = plugin
        self._media_tokens = plugin.media_tokens(processor) if hasattr(processor, "image_processor") else {}
        self._overrides = _overrides(plugin, processor, options)
        self.runner = self._make_runner(processor, self._overrides)
        _check_rate(self.runner, options)
        self._cache = None if plugin.metadata_cache is None else MetadataCache(plugin.metadata_cache)
        self.media = MediaReader(plugin, self.runner, options, self._cache)
        self.tokenizer = self.runner.tokenizer
        self.encoder = TextEncoder(self.tokenizer)
        self._takes_parts: dict[Modality, bool] = {}
        self._delimiters: dict[Modality, tuple[IntArray, IntArray]] = {}
        self._markup = lru_cache(maxsize=_MARKUP_CACHE_SIZE)(self._find_markup)
        self._at_budget = lru_cache(maxsize=_BUDGET_CACHE_SIZE)(self._make_at_budget)

    def _make_runner(
        self, processor: ProcessorMixin | PreTrainedTokenizerBase, overrides: dict[Modality, ProcessorKwargs]
    ) -> ProcessorRunner:
        return ProcessorRunner(
            processor,
            overrides,
            self._media_tokens,
            frames_are_independent=self._plugin.frames_are_independent,
        )

    def at_budget(self, budget: PixelBudget | None) -> Engine:
        """The engine for a row with a budget of its own; for one without, this one.

        It has the same runner where the processor has no size arguments for the budget: media is resized before it.
        """
        return self if budget is None else self._at_budget(budget)

    def _make_at_budget(self, budget: PixelBudget) -> Engine:
        engine = copy.copy(self)  # shares the template, the encoder and what is remembered of them
        engine.options = budget.applied_to(self.options)
        engine._overrides = _overrides(self._plugin, self.runner.processor, engine.options)
        if engine._overrides != self._overrides:
            engine.runner = self._make_runner(self.runner.processor, engine._overrides)
        engine.media = MediaReader(self._plugin, engine.runner, engine.options, self._cache)
        for modality, reason in self.media.refused.items():
            engine.media.refuse(modality, reason)
        return engine

    @cached_property
    def guard(self) -> ControlTokenGuard:
        """Keeps control tokens that stand in the data's own text from becoming control tokens."""
        allowed = self._plugin.allowed_special
        if allowed == "all":
            return ControlTokenGuard([])
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        tokens = {*special, *self.runner.placeholders.values(), *self.runner.feature_tokens.values()}
        return ControlTokenGuard(tokens - set(allowed))

    @cached_property
    def media_token_ids(self) -> tuple[int, ...]:
        """Ids of the tokens that stand for one feature each."""
        tokens = dict.fromkeys(self.runner.feature_tokens.values())
        return tuple(self.tokenizer.convert_tokens_to_ids(list(tokens)))

    def is_media_token(self, ids: np.ndarray) -> np.ndarray:
        """Boolean mask, of the same shape, of the media tokens among token ids."""
        mask = np.zeros(ids.shape, dtype=bool)
        for token_id in self.media_token_ids:  # a handful: quicker than np.isin
            mask |= ids == token_id
        return mask

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template to render with: the plugin's, else the processor's, else the tokenizer's own.

        Raises:
            MissingTemplateError: If there is none.
        """
        plugin, own = self._plugin, getattr(self.runner.processor, "chat_template", None)
        for candidate in (plugin.chat_template, own, self.tokenizer.chat_template, plugin.default_chat_template):
            template = candidate.get("default") if isinstance(candidate, dict) else candidate
            if template:
                return ChatTemplate(template, self.tokenizer.special_tokens_map, plugin.train_on)
        raise MissingTemplateError(
            f"{type(self.runner.processor).__name__} has no chat template; pass chat_template=... to the plugin"
        )

    def template_for(self, conversation: Conversation) -> ChatTemplate | PlainText:
        """What writes the conversation: the chat template, with the conversation's tools.

        Raises:
            TemplateError: If it has some, and the template writes none.
        """
        if conversation.is_plain:
            return self._plain
        tools = conversation.tools
        return self.template.with_tools(self.guard.mark(tools)) if tools else self.template

    @cached_property
    def _plain(self) -> PlainText:
        """Ends texts with the tokenizer's own end of text, where its call does not add that."""
        end = self.tokenizer.eos_token
        added = self.tokenizer("a")["input_ids"] if self.runner.adds_special_tokens else []
        given = bool(added) and added[-1] == self.tokenizer.eos_token_id
        return PlainText(self._write_item, "" if end is None or given else end, self._plugin.train_on)

    def _write_item(self, modality: Modality, index: int) -> str:
        """An item's placeholder within what the chat template, if there is one, writes around it."""
        own = self._plugin.delimiters.get(modality, ("", ""))
        before, after = self.markup(modality, index) if self.takes_parts(modality) else own
        return f"{before}{self.runner.placeholders[modality]}{after}"

    def adds_special_tokens(self, text: str) -> bool:
        """Whether the processor's call has the tokenizer add bos and eos to a text: not where it starts with bos."""
        bos = self.tokenizer.bos_token
        return self.runner.adds_special_tokens and not (bos is not None and text.startswith(bos))

    def renders_parts(self, modalities: Iterable[Modality]) -> bool:
        """Whether a conversation with these modalities is rendered from typed parts."""
        wanted = set(modalities) or set(list(self.runner.placeholders)[:1])
        return all(self.takes_parts(modality) for modality in wanted)

    def takes_parts(self, modality: Modality) -> bool:
        """Whether the chat template writes a part of a modality as its placeholder; older ones only take strings."""
        if modality not in self._takes_parts:
            self._takes_parts[modality] = self._writes_part(modality)
        return self._takes_parts[modality]

    def _writes_part(self, modality: Modality) -> bool:
        try:
            text = self.template.render([{"role": "user", "content": [{"type": modality}]}]).text
        except TemplateError:
            return False
        return text.count(self.runner.placeholders[modality]) == 1

    def markup(self, modality: Modality, index: int) -> tuple[str, str]:
        """What the chat template writes before and after the placeholder of a row's item number `index`."""
        return self._markup(modality, index)

    def _find_markup(self, modality: Modality, index: int) -> tuple[str, str]:
        placeholder = self.runner.placeholders[modality]
        part, mark = {"type": modality}, {"type": "text", "text": _MARK}
        # A mark stands before the items, and one behind each.
        text = self.template.render([{"role": "user", "content": [mark, *[part, mark] * (index + 1)]}]).text
        pieces = text.split(_MARK)
        if len(pieces) == index + 3 and pieces[index + 1].count(placeholder) == 1:
            before, _, after = pieces[index + 1].partition(placeholder)
            return before, after
        return self._find_first_markup(modality)

    def _find_first_markup(self, modality: Modality) -> tuple[str, str]:
        """The same for templates that put media before all text."""
        part, mark = {"type": modality}, {"type": "text", "text": _MARK}
        alone = self.template.render([{"role": "user", "content": [mark]}]).text.partition(_MARK)[0]
        text = self.template.render([{"role": "user", "content": [part, mark]}]).text.partition(_MARK)[0]
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(alone, text, strict=False)))
        before, _, after = text[same:].partition(self.runner.placeholders[modality])
        return before, after

    @cached_property
    def _control_token(self) -> re.Pattern[str]:
        tokens = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or r"(?!)")

    def delimiter_ids(self, modality: Modality) -> tuple[IntArray, IntArray]:
        """Ids of what stands around an item's expansion and belongs to its media span; empty for none.

        Of what the chat template writes there, that is what reaches from its control tokens to the item ("Picture 1:"
        does not); where it writes none, the family's own.
        """
        if modality not in self._delimiters:
            written = self._delimiters_in(*self.written_around(modality, 0))
            texts = written if any(written) else self._plugin.delimiters.get(modality, ("", ""))
            tokens = self.encoder.encode([[Piece(text, 0, literal=False)] for text in texts], [False, False])
            self._delimiters[modality] = tokens[0].ids, tokens[1].ids
        return self._delimiters[modality]

    def written_around(self, modality: Modality, index: int) -> tuple[str, str]:
        """The same as `markup`, and nothing where the template writes no such item, or none by itself."""
        try:
            return self.markup(modality, index) if self.takes_parts(modality) else ("", "")
        except TemplateError:
            return "", ""

    def _delimiters_in(self, before: str, after: str) -> tuple[str, str]:
        first = self._control_token.search(before)
        last = re.match(f"(?:{self._control_token.pattern})*", after)
        return before[first.start() :] if first else "", last.group() if last else ""

    def blank(self, modality: Modality) -> tuple[MediaInput, list[int]]:
        """The smallest black image or video or silent audio that the processor takes, and its token ids.

        For batches that must not be without media.

        Raises:
            MediaError: If the processor takes none that was tried.
        """
        refusals: Counter[str] = Counter()
        for shape in _BLANKS[modality]:
            try:
                expansion = self.media.expand_one(shape)
            except MediaError as error:
                refusals[error.message] += 1
                if refusals[error.message] == _HOPELESS:  # what is said of any size is not about the size
                    break
                continue
            tokens = self.encoder.encode([[Piece(expansion.text, 0, literal=False)]], [False])[0].ids
            return blank_input(shape, "cpu"), np.repeat(tokens, self.run_counts(tokens, expansion.runs)).tolist()
        raise MediaError(
            f"{type(self.runner.processor).__name__} takes no blank {modality} of any size that was tried"
        )

    def run_counts(self, ids: np.ndarray, runs: Sequence[int]) -> npt.NDArray[np.int64]:
        """How often each token of a text with shortened runs is to be repeated.

        Raises:
            TemplateError: If the tokenizer made another number of media tokens than there are runs.
        """
        is_media = self.is_media_token(ids)
        if int(is_media.sum()) != len(runs):
            raise TemplateError(
                f"the tokenizer made {int(is_media.sum())} media tokens of a text with {len(runs)}; the media tokens "
                "must be added tokens of the tokenizer"
            )
        counts = np.ones(len(ids), dtype=np.int64)
        counts[is_media] = runs
        return counts


def _check_rate(runner: ProcessorRunner, options: MediaOptions) -> None:
    wanted = options.audio_sampling_rate
    if wanted is not None and "audio" in runner.placeholders and wanted != runner.sampling_rate:
        raise MMDatasetsError(
            f"audio_sampling_rate={wanted}, but {type(runner.processor).__name__} takes audio at "
            f"{runner.sampling_rate} Hz; leave it out: files of any rate are resampled to that"
        )


def _overrides(
    plugin: BasePlugin, processor: ProcessorMixin | PreTrainedTokenizerBase, options: MediaOptions
) -> dict[Modality, ProcessorKwargs]:
    """The settings that options replace: those of the family, and the rate of frames."""
    overrides = dict(plugin.processor_kwargs(processor, options))
    if options.video_fps is not None and hasattr(processor, "video_processor"):
        overrides["video"] = {"fps": options.video_fps, **overrides.get("video", {})}
    return overrides
