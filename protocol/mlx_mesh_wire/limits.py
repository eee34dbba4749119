"""Every bound of the protocol, each with its reason.

The units come last in the names. A broker may announce smaller values in WELCOME; these are the
largest that a conforming peer has to be able to handle.
"""

from typing import Final

PROTOCOL_MAJOR: Final = 1
PROTOCOL_MINOR: Final = 0

HEADER_MAX_BYTES: Final = 4096
"""One page: the only part that the broker decodes, so its cost per message stays bounded."""

HEADER_ITEMS_MAX: Final = 128
"""Items of one array or map in a header; no message has over 100. A decoder makes room for as many as an array claims
to have: a thousand of them one in the other, in one header of 4 KiB, took 32 MB and 40 ms of the broker.
"""

FRAMES_MAX: Final = 8
"""Header, body and six buffers; ``ZMQ_MAXMSGSIZE`` bounds one frame only, so frames are counted too."""

MESSAGE_MAX_BYTES: Final = 64 * 1024 * 1024
"""All frames of a message together. gRPC stops at 4 MiB, NATS at 1 to 64 MiB; vectors need room."""

WRAPPED_MAX_BYTES: Final = MESSAGE_MAX_BYTES + 128
"""The one frame of a message where there are keys: 1 byte and 4 for each frame more by wrapping, 33 by CURVE."""

BODY_DEPTH_MAX: Final = 32
"""Nesting of arrays and maps in a body. Node's decoder has no limit of its own; JSON tools use 32 to 1000."""

BODY_ITEMS_MAX: Final = 2**21
"""Items of all arrays and maps in a body together; a pair of a map is one. An empty array is one byte, and 72 in the
memory of a Python process, which then takes a microsecond to look at it: a message of them cost 5 GB and a minute.
A prompt of a million tokens fits twice; other numbers in bulk go as tensors, and are no items.
"""

BODY_ITEMS_UNCHECKED: Final = 512
"""Items that an array or a map in a body may claim before it is looked whether they are there, for the same reason."""

DIMENSIONS_MAX: Final = 32
"""Of a tensor; NumPy's bound for long. To multiply more takes a time that grows with the square of their number."""

INTEGER_MAX: Final = 2**53 - 1
"""The largest integer that a double holds exactly, which is all that JavaScript's numbers can carry."""

OP_MAX_CHARS: Final = 64
MODEL_MAX_CHARS: Final = 200
"""Long enough for ``organisation/name`` of the model hubs (96 + 1 + 96) and for folder names."""

NAME_MAX_CHARS: Final = 64
AFFINITY_MAX_BYTES: Final = 64
"""A SHA-512 digest fits; anything longer should be hashed by the client."""

TRACEPARENT_MAX_CHARS: Final = 64
"""W3C Trace Context, version 00, needs 55."""

SESSION_BYTES: Final = 16
"""128 random bits: collisions are not a concern, guessing is hopeless."""

EPOCH_MAX_CHARS: Final = 32
ERROR_MESSAGE_MAX_CHARS: Final = 900
"""At up to four bytes each this still fits into a header of 4 KiB."""

CODE_MAX_CHARS: Final = 32
REASON_MAX_CHARS: Final = 200
REMAINING_MAX_MS: Final = 7 * 24 * 3600 * 1000
"""A week: longer jobs belong in a batch system."""

WINDOW_MAX_CHUNKS: Final = 1024
"""Stream credit; at 1 KiB a chunk a full window is 1 MiB of unread text."""

BUNDLE_MAX_MESSAGES: Final = 32
"""Messages in one bundle. A frame's cost is spread thin by then, and the next process can begin with the first half of
what one client may have outstanding while this one is at the other half: 12% more throughput than with 64, or 16.
"""

BUNDLED_MAX_BYTES: Final = 8192
"""Body of a message that goes in a bundle; copying a larger one costs as much as frames of its own."""

SLOTS_MAX: Final = 4096
LIST_MAX_ITEMS: Final = 64
"""Ops or models of one worker, so that READY fits into a header."""

HELD_MAX_ITEMS: Final = 100
"""Jobs named in one HELD message: 100 of about 30 bytes fit into a header; more take more messages."""

MAP_MAX_ITEMS: Final = 64

QUOTA_MAX: Final = 10**6
"""The largest quota of a key: requests per second, at once or outstanding. More than a broker can serve is no quota."""

QUOTA_RATE_MIN: Final = 0.001
"""Per second: less than a request in 17 minutes is better revoked."""
