"""What a JPEG says beside its pixels, taken off without touching them (ITU-T T.81, annex B)."""

from __future__ import annotations

import re

MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""What ends the coded pixels of a JPEG: no stuffed byte, no restart and no fill."""


def without_metadata(jpeg: bytes) -> bytes | None:
    """The same pixels without EXIF, XMP, IPTC and comments; None if the segments don't add up.

    JFIF, colour profile and Adobe's note on colours stay, since the pixels mean nothing without them
    (ITU-T T.81, annex B). What follows the end of the image goes.
    """
    if jpeg[:2] != b"\xff\xd8":
        return None
    kept, at = [jpeg[:2]], 2
    while at + 4 <= len(jpeg):
        marker, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if (
            jpeg[at] != 0xFF
            or length < 2
            or not 0xC0 <= marker <= 0xFE
            or marker in range(0xD0, 0xDA)
        ):
            return None
        segment = jpeg[at : at + 2 + length]
        if _has_to_do_with_pixels(marker, segment[4:]):
            kept.append(segment)
        at += 2 + length
        if marker == 0xDA:
            # Progressive images go on: further scans, with segments between them.
            following = MARKER.search(jpeg, at)
            if following is None:
                return None
            kept.append(jpeg[at : following.start()])
            at = following.start()
            if following[0] == b"\xff\xd9":
                return b"".join([*kept, following[0]])
    return None


def _has_to_do_with_pixels(marker: int, content: bytes) -> bool:
    if 0xE0 <= marker <= 0xEF:
        return (
            (marker == 0xE0 and content.startswith(b"JFIF\0"))
            or (marker == 0xE2 and content.startswith(b"ICC_PROFILE\0"))
            or (marker == 0xEE and content.startswith(b"Adobe"))
        )
    return marker != 0xFE
