"""How large anything from the network may be. All of it is checked before memory is spent on it."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds on one message; the defaults hold two dozen cameras' worth of margin for a robot."""

    body_bytes_max: int = 16 * MIB
    images_max: int = 16
    pixels_max: int = 16_000_000  # of all images of one message together, as their headers declare: 48 MB decoded
    history_frames_max: int = 16
    tensor_values_max: int = 4 * MIB
    prefix_rows_max: int = 1024


DEFAULT_LIMITS = Limits()
OBJECTS_MAX = 16_384  # values of a body, its keys included: decoding takes time by their number, not by bytes
TEXT_MAX = 4096  # bytes of any string in UTF-8
LABEL_MAX = 256  # characters of a name: action, camera, tag
NAMES_MAX = 1024  # entries of a list of names
TAGS_MAX = 32
FEATURES_MAX = 64
NDIM_MAX = 4
DTYPES = ("<f4", "<f8", "<i4", "<i8", "|u1", "|b1")
HALF = "<f2"  # in chunks for a client that takes it, nowhere else
CLIENT_ID_MAX = 64
SEGMENT_MAX = 512  # long tasks and paths of checkpoints: both sides must come to the same key
