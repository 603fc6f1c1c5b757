"""A small byte-level BPE tokenizer, trained in-process, that stands in for a checkpoint's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

BASE_VOCAB_SIZE = 1024
"""Tokens before a family's own are added: 256 bytes and the merges learned from the corpus."""

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How GPT-4-like tokenizers (Qwen's among them) cut text into words: digits alone, punctuation with its newlines."""


@lru_cache(maxsize=1)
def _trained_bpe() -> str:
    """Trains the tokenizer on the package's corpus and returns it as JSON, which nobody can mutate."""
    corpus = resources.files("mmdatasets.testing").joinpath("corpus.txt").read_text(encoding="utf-8")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BASE_VOCAB_SIZE,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator([corpus], trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return str(tokenizer.to_str())


def build_tokenizer(
    special_tokens: Sequence[str],
    *,
    plain_tokens: Sequence[str] = (),
    named_tokens: Mapping[str, str] | None = None,
    bos_token: str | None = None,
    eos_token: str | None = None,
    pad_token: str | None = None,
    unk_token: str | None = None,
    add_bos: bool = False,
    padding_side: str = "right",
    model_max_length: int = 131072,
) -> PreTrainedTokenizerFast:
    """Builds a family's tokenizer: the small BPE vocabulary followed by the family's own tokens, in their order.

    Text is cut and normalised (NFC) as Qwen's tokenizers do it. The same arguments give the same ids always.

    Args:
        special_tokens: Added tokens that `skip_special_tokens` skips, such as `<|im_start|>`.
        plain_tokens: Added tokens that are matched whole but are not special, such as Qwen's `<tool_call>`.
        named_tokens: Attribute name -> token, such as `{"image_token": "<image>"}`: attributes of the tokenizer that
            processors read. They are special; those not in `special_tokens` are added after them.
        bos_token: Beginning of a text. This one and the next three are special, whether or not listed above.
        eos_token: End of a turn or text.
        pad_token: Padding.
        unk_token: Unknown token; a byte-level tokenizer never makes one.
        add_bos: Whether every text gets `bos_token` in front when special tokens are added.
        padding_side: `"right"` or `"left"`.
        model_max_length: Longest text, in tokens, before the tokenizer warns.

    Returns:
        A fast tokenizer that `save_pretrained` and `from_pretrained` keep as it is, named tokens included.

    Raises:
        ValueError: `add_bos` without a `bos_token`.
    """
    named = dict(named_tokens or {})
    roles = {"bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token, "unk_token": unk_token}
    standard = [token for token in roles.values() if token is not None]
    special = list(dict.fromkeys([*special_tokens, *standard, *named.values()]))

    tokenizer = Tokenizer.from_str(_trained_bpe())
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain_tokens])
    if add_bos:
        if bos_token is None:
            raise ValueError("add_bos needs a bos_token")
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos_token} $A",
            pair=f"{bos_token} $A $B:1",
            special_tokens=[(bos_token, tokenizer.token_to_id(bos_token))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **roles,
        extra_special_tokens=[token for token in special if token not in standard],
        model_specific_special_tokens=named,
        padding_side=padding_side,
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
    )
