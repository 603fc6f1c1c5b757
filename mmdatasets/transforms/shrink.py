"""`on_overflow="shrink"`: the largest pixel and frame budget with which a row fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from mmdatasets.errors import MediaProcessorError, MMDatasetsError
from mmdatasets.options import PixelBudget
from mmdatasets.planning.own_sizes import own_size
from mmdatasets.transforms.tokenise import tokenise_rows
from mmdatasets.types import Modality

if TYPE_CHECKING:
    from mmdatasets.chat.formats import Conversation
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.transforms.tokenise import TokenisedRow

_STEPS_PER_DOUBLING = 4
"""Budgets are the floor's times powers of 2^(1/4): few, so that rows share what is computed for each."""


NotShrunk: TypeAlias = Literal["nothing_to_shrink", "media_of_one_size", "too_long_at_floor"]
"""Why a row is not shrunk: it has no images or videos, they become no fewer tokens, or not few enough at the floor."""


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A row with a budget of its own.

    Attributes:
        row: The row.
        budget: Its budget.
    """

    row: TokenisedRow
    budget: PixelBudget


def shrink(
    plugin: BasePlugin, conversation: Conversation, row: TokenisedRow, name: int | str, max_length: int
) -> Shrunk | NotShrunk:
    """Lowers what the pixels of a row's images, those of its videos' frames and their number may be, all alike.

    No pixel is decoded: each budget is tried by planning the row with it.

    Args:
        plugin: The family's rules and the floor.
        conversation: The row's chat, with what is planned of its media.
        row: What it became without a budget of its own; it is longer.
        name: What errors call the row.
        max_length: Most tokens to have.

    Returns:
        The row with the largest of the budgets with which it fits; why not, where there is none.
    """
    if not any(plan.modality != "audio" for plan in row.origin.written.media.plans):
        return "nothing_to_shrink"
    budgets = _budgets(plugin, row)
    made = _at_budget(plugin, conversation, budgets[0], name) if budgets else None
    if made is None:
        return "too_long_at_floor"
    if len(made.input_ids) > max_length:
        return "too_long_at_floor" if len(made.input_ids) < len(row.input_ids) else "media_of_one_size"
    best = Shrunk(made, budgets[0])
    low, high = 0, len(budgets)  # fits, does not fit
    while high - low > 1:
        middle = (low + high) // 2
        made = _at_budget(plugin, conversation, budgets[middle], name)
        if made is None or len(made.input_ids) > max_length:
            high = middle
        else:
            low, best = middle, Shrunk(made, budgets[middle])
    return best


def check_can_shrink(plugin: BasePlugin) -> None:
    """Checks that a plugin's class leaves the processing of media to this package.

    Raises:
        MMDatasetsError: If it processes messages or media itself: it would not know of a row's budget.
    """
    if plugin.has_own_messages or plugin.has_own_inputs:
        method = "process_messages" if plugin.has_own_messages else "get_mm_inputs"
        raise MMDatasetsError(
            f"on_overflow='shrink' gives rows budgets of their own, of which the {method} of {type(plugin).__name__} "
            "cannot know: choose another policy"
        )


def _at_budget(
    plugin: BasePlugin, conversation: Conversation, budget: PixelBudget, name: int | str
) -> TokenisedRow | None:
    """The row with a budget, where the processor takes its items so small."""
    engine = plugin.engine.at_budget(budget)
    try:
        if budget.video_max_frames is not None:
            conversation = replace(conversation, plans=engine.media.plan(conversation.media))
        row = tokenise_rows(plugin, [conversation], [name], engine)[0]
    except MediaProcessorError:
        return None
    bounds = {"image": budget.image_max_pixels, "video": budget.video_max_pixels}
    for record in row.media:
        record["max_pixels"] = bounds.get(record["modality"])
    return row


def _budgets(plugin: BasePlugin, row: TokenisedRow) -> list[PixelBudget]:
    """The budgets to try, from the floor on up to what the row has now, each lower than that in something."""
    now, floor = _present(plugin, row), _floor(plugin)
    budgets: list[PixelBudget] = []
    step = 0
    while True:
        bounds = {name: int(floor[name] * 2 ** (step / _STEPS_PER_DOUBLING)) for name in now}
        bounds = {name: bound for name, bound in bounds.items() if bound < now[name]}
        if not bounds:
            return budgets
        budgets.append(PixelBudget(**bounds))
        step += 1


def _floor(plugin: BasePlugin) -> dict[str, int]:
    floor, options = plugin.shrink_floor, plugin.engine.options
    return {
        "image_max_pixels": max(floor.image_pixels, options.image_min_pixels or 0),
        "video_max_pixels": max(floor.video_pixels, options.video_min_pixels or 0),
        "video_max_frames": max(floor.video_frames, options.video_min_frames or 0),
    }


def _present(plugin: BasePlugin, row: TokenisedRow) -> dict[str, int]:
    """The most that items of the row have now of what a budget bounds, by the bound's name."""
    options = plugin.engine.options
    pixels: dict[Modality, int] = {}
    frames: list[int] = []
    for plan in row.origin.written.media.plans:
        if plan.width is not None and plan.height is not None:
            pixels[plan.modality] = max(pixels.get(plan.modality, 0), plan.width * plan.height)
        if plan.frames is not None:
            frames.append(len(plan.frames.indices))
    bounds: Mapping[Modality, int | None] = {"image": options.image_max_pixels, "video": options.video_max_pixels}
    now = {}
    for modality, most in pixels.items():
        enlarged = _enlarged(plugin, modality) or most
        bound = bounds[modality] or _own_bound(plugin, modality)
        now[f"{modality}_max_pixels"] = enlarged if bound is None else min(enlarged, bound)
    return {**now, "video_max_frames": max(frames)} if frames else now


def _enlarged(plugin: BasePlugin, modality: Modality) -> int | None:
    """To how many pixels the processor enlarges images, where it does so to any."""
    tiles = plugin.tiles_of(plugin.engine.runner.processor) if modality == "image" else None
    return None if tiles is None else tiles.most


def _own_bound(plugin: BasePlugin, modality: Modality) -> int | None:
    """The bound that the processor has itself, and that a budget would replace."""
    engine, name = plugin.engine, f"{modality}_max_pixels"
    if not engine.at_budget(PixelBudget(**{name: _floor(plugin)[name]})).runner.sizes(modality):
        return None
    size = own_size(engine.runner.processor, modality)
    if size is None:
        return None
    times = plugin.frames_of_image(engine.runner.processor) if modality == "image" else 1
    return size["longest_edge"] // times
