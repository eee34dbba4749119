"""Compiles a JSON schema by llguidance within bounds of work; run as a program it does so within bounds of time too.

llguidance counts its work in most places, but not where patterns are intersected or compared with one another: 20 can
take seconds, 600 a minute, and a thread that computes cannot be stopped. A process can.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import sys
from typing import Final

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

LEXER_FUEL: Final = 300_000
"""Work that building the lexer may take. llguidance's default lets a pattern of 20 characters compute for 0.8 s, during
which no text of the worker grows. By its authors, one of the largest published schemas needs 500,000."""

LEXER_STATES: Final = 50_000
"""Each takes 1 to 2 KB, and each row has its own: at most 100 MB for a row."""

ROW_ITEMS: Final = 5000
"""Optional properties are open side by side and take four each: 1250 of them."""

TRIAL_TOKENS: Final = 3
"""Some bounds show only when the first tokens are taken; such a schema should be refused, not fail later."""

CPU_S: Final = 1
"""What a schema may take in the process for doubtful ones, its start included, which takes 0.1 s."""

WALL_S: Final = 10
"""The same by the clock, for machines that are busy with other things."""

MEMORY_BYTES: Final = 2 * 1024**3
PLAIN_CHARS: Final = 4096
"""Shorter schemas with at most one pattern take a few milliseconds, and are compiled without trying them elsewhere."""

_COSTLY: Final = ('"pattern":', '"multipleOf":', '"format":', '"patternProperties":', '"patternProperties":')
"""Keys of regular expressions, which may be intersected. ``patternProperties`` has several itself: it is here twice."""

_OPTIONS: Final = (
    # A weak model that is free to indent without end does so. 24 characters are a line break and twelve levels.
    ("whitespace_pattern", r"[ \n\r\t]{1,24}"),
    # What cannot be enforced is refused: an answer either fits the schema or is cut off by max_tokens.
    ("lenient", False),
    ("coerce_one_of", False),
)


def build(tokenizer: LLTokenizer, text: str) -> tuple[LLMatcher, str]:
    """Return the matcher of a schema and what is wrong with it; nothing is wrong if that is empty."""
    limits = LLParserLimits(
        initial_lexer_fuel=LEXER_FUEL,
        max_lexer_states=LEXER_STATES,
        max_items_in_row=ROW_ITEMS,
        verbose_errors=False,
    )
    grammar = LLMatcher.grammar_from_json_schema(text, defaults=dict(_OPTIONS))  # type: ignore[arg-type]
    matcher = LLMatcher(tokenizer, grammar, limits=limits, log_level=0)
    trial = matcher.deep_copy()
    ends = sum(1 << token for token in tokenizer.eos_tokens)
    for _ in range(TRIAL_TOKENS):
        if trial.is_error() or trial.is_stopped():
            break
        allowed = int.from_bytes(trial.compute_bitmask(), "little") & ~ends
        if trial.is_error() or not allowed:
            break
        trial.consume_token((allowed & -allowed).bit_length() - 1)
    return matcher, (trial.get_error() or "no JSON fits it") if trial.is_error() else ""


def is_doubtful(text: str) -> bool:
    """Whether a schema might take long to compile."""
    return len(text) > PLAIN_CHARS or sum(map(text.count, _COSTLY)) > 1


def check(text: str) -> str:
    """Compile a schema in a process of its own; return what is wrong with it, nothing if that is empty."""
    command = [sys.executable, "-P", __file__]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=WALL_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return f"compiling it takes more than {WALL_S} s"
    if done.returncode == -signal.SIGXCPU:
        return f"compiling it takes more than {CPU_S} s"
    if done.returncode:
        return f"compiling it failed: {done.stderr.decode(errors='replace')[-200:].strip() or done.returncode}"
    return done.stdout.decode()


def main() -> None:
    """Read a schema, write what is wrong with it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
    with contextlib.suppress(OSError, ValueError):  # macOS has no such bound
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    wrong = build(LLTokenizer("byte"), sys.stdin.buffer.read().decode())[1]
    sys.stdout.buffer.write(wrong.encode())


if __name__ == "__main__":
    main()
