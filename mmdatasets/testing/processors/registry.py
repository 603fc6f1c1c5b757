"""What is known of each model family's processor, and how to build it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from mmdatasets.types import Modality

if TYPE_CHECKING:
    from transformers import ProcessorMixin

ProcessorBuilder: TypeAlias = "Callable[[], ProcessorMixin]"
BuilderT = TypeVar("BuilderT", bound="ProcessorBuilder")

_MEAN_STD = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


@dataclass(frozen=True, slots=True)
class ProcessorSpec:
    """What is known of a family's processor before it is built.

    Attributes:
        name: What `build_processor` takes.
        checkpoint: The published checkpoint whose settings it follows.
        modalities: What it takes besides text, in the order image, video, audio.
        plugin: The name of the plugin that is made for it.
        has_model: Whether `build_model` knows the family too.
        packages: Packages that its parts need, which are not among this package's own.
    """

    name: str
    checkpoint: str
    modalities: tuple[Modality, ...]
    plugin: str
    has_model: bool = True
    packages: tuple[str, ...] = ()


# Filled while the package's modules are imported, and never after.
_FAMILIES: dict[str, tuple[ProcessorSpec, ProcessorBuilder]] = {}


def family(
    name: str,
    *,
    checkpoint: str,
    modalities: tuple[Modality, ...],
    plugin: str,
    has_model: bool = True,
    packages: tuple[str, ...] = (),
) -> Callable[[BuilderT], BuilderT]:
    """Registers the decorated function as the builder of a family; the arguments are `ProcessorSpec`'s."""
    spec = ProcessorSpec(name, checkpoint, modalities, plugin, has_model, packages)

    def register(build: BuilderT) -> BuilderT:
        _FAMILIES[name] = (spec, build)
        return build

    return register


def build_processor(name: str) -> ProcessorMixin:
    """Builds the processor of a model family without a hub.

    Args:
        name: One of `list_processors()`.

    Returns:
        A new processor, with tokenizer and chat template.

    Raises:
        KeyError: No builder is registered under `name`.
    """
    return _find(name)[1]()


def get_spec(name: str) -> ProcessorSpec:
    """Returns what is known of a family's processor.

    Args:
        name: One of `list_processors()`.

    Raises:
        KeyError: No builder is registered under `name`.
    """
    return _find(name)[0]


def list_processors() -> list[str]:
    """Returns the names that `build_processor` and `get_spec` know and whose packages are installed, sorted."""
    return sorted(set(_FAMILIES) - set(missing_packages()))


def missing_packages() -> dict[str, list[str]]:
    """Returns what keeps a family from being built here: name -> packages that are not installed."""
    missing = {
        name: [package for package in spec.packages if find_spec(package) is None]
        for name, (spec, _) in _FAMILIES.items()
    }
    return {name: packages for name, packages in missing.items() if packages}


def read_chat_template(name: str) -> str:
    """Returns the Jinja source of a chat template that ships with this package, such as `"qwen3_vl"`."""
    folder = resources.files("mmdatasets.testing").joinpath("chat_templates")
    return folder.joinpath(f"{name}.jinja").read_text(encoding="utf-8")


def normalisation(kind: Literal["clip", "imagenet", "half"]) -> dict[str, list[float]]:
    """The keyword arguments for one of the three channel means and deviations that checkpoints share."""
    mean, std = _MEAN_STD[kind]
    return {"image_mean": list(mean), "image_std": list(std)}


def _find(name: str) -> tuple[ProcessorSpec, ProcessorBuilder]:
    if name not in _FAMILIES:
        raise KeyError(f"no processor {name!r}: expected one of {', '.join(list_processors())}")
    return _FAMILIES[name]
