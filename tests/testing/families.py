"""Conversations and media in the form in which transformers' own processors take them."""

import numpy as np
import torch

from mmdatasets.testing import make_image

SAMPLING_RATE = 16000
OTHER_RATES = {"muse_spark": 24000, "vibevoice_asr": 24000}
FRAMES = 4

# Their processors take no metadata: they neither sample frames nor write times.
WITHOUT_METADATA = ("internvl", "llava_next_video", "video_llava")

# Their processors write times from metadata that their video processors return only if asked to.
RETURN_METADATA = ("cosmos3_edge", "muse_glimmer", "muse_spark")

# It takes one list of images for all rows, where others take one for each row.
FLAT_IMAGES = ("got_ocr2",)
# Molmo2 takes one video a row, Perception LM cannot put images of different numbers of tiles together, some speech
# models take one clip a row.
ONE_A_ROW = (
    ("molmo2", "video"),
    ("perception_lm", "image"),
    ("audioflamingo3", "audio"),
    ("fun_asr_nano", "audio"),
    ("glmasr", "audio"),
    ("musicflamingo", "audio"),
    ("qwen3_asr", "audio"),
)


def text(value):
    return {"type": "text", "text": value}


def turn(role, content):
    return {"role": role, "content": content}


def question(kind, count):
    """A user turn with so many media items of a kind, and its answer."""
    return [
        turn("user", [{"type": kind}] * count + [text("What is this?")]),
        turn("assistant", [text("Shapes.")]),
    ]


def make_media(kind, count, seed=0):
    """Items that differ from one another and with the seed."""
    if kind == "image":
        return [make_image(200 + 60 * index, 120, seed=seed + index) for index in range(count)]
    rng = np.random.default_rng(seed)
    if kind == "audio":
        return [rng.normal(scale=0.1, size=(index + 1) * SAMPLING_RATE).astype("float32") for index in range(count)]
    return [torch.from_numpy(rng.integers(0, 255, (FRAMES, 3, 96, 128), dtype=np.uint8)) for _ in range(count)]


def media_arguments(name, kind, rows):
    """The processor's keyword arguments for rows of media of one kind."""
    if not any(rows):
        return {}
    items = [item for row in rows for item in row]
    if kind == "image":
        return {"images": items if name in FLAT_IMAGES else [list(row) for row in rows]}
    if kind == "audio":
        return {"audio": items, "audio_kwargs": {"sampling_rate": OTHER_RATES.get(name, SAMPLING_RATE)}}
    if name in WITHOUT_METADATA:
        return {"videos": items}
    metadata = {
        "fps": 2.0,
        "duration": FRAMES / 2,
        "total_num_frames": FRAMES,
        "frames_indices": list(range(FRAMES)),
        "width": 128,
        "height": 96,
    }
    settings = {"do_sample_frames": False, "video_metadata": [dict(metadata) for _ in items]}
    if name in RETURN_METADATA:
        settings["return_metadata"] = True
    return {"videos": items, "videos_kwargs": settings}


def encode(name, processor, kind, rows):
    """The processor's own batch: each row is its media, a question and an answer."""
    texts = [processor.apply_chat_template(question(kind, len(row)), tokenize=False) for row in rows]
    batch = processor(
        text=texts, return_tensors="pt", text_kwargs={"padding": True}, **media_arguments(name, kind, rows)
    )
    # Llama 4's processor gives bfloat16, and the tiny models are in float32.
    return {
        key: value.float() if torch.is_tensor(value) and value.dtype == torch.bfloat16 else value
        for key, value in batch.items()
    }
