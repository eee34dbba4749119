"""Text as it is given out: whole characters, and nothing of a stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlx_mesh_worker.engines.generate import GenerateEngine
from mlx_mesh_worker.engines.generate.text import TextStream
from tests.generate.driver import loaded_by


class Letters:
    """A detokenizer whose tokens are characters."""

    last_segment = ""

    def add_token(self, token: int) -> None:
        self.last_segment = chr(token)

    def finalize(self) -> None:
        self.last_segment = ""


def pieces(text: str, *stops: str) -> tuple[list[str], bool]:
    stream = TextStream(Letters(), stops)
    found = []
    for letter in text:
        found.append(stream.add(ord(letter)))
        if stream.stopped:
            break
    return [*found, stream.finish()], stream.stopped


def test_what_may_be_the_beginning_of_a_stop_string_is_held_back() -> None:
    assert (["a", "", "", "##b", ""], False) == pieces("a##b", "###")
    assert (["a", "", "", "", ""], True) == pieces("a###b", "###")


def test_what_was_held_back_comes_at_the_end_if_it_was_no_stop_string() -> None:
    assert (["a", "", "#"], False) == pieces("a#", "##")


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    found, stopped = pieces(text, *stops)
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    assert bool(ends) == stopped
    if not ends:
        assert text == "".join(found)
        return
    seen = text[: ends[0]]
    assert seen[: min(seen.find(stop) for stop in stops if stop in seen)] == "".join(found)


def test_no_character_is_given_out_in_halves(engine: GenerateEngine) -> None:
    text = "é 机🚀 ende"
    stream = TextStream(loaded_by(engine).detokenizer(), ())
    found = [stream.add(token) for token in loaded_by(engine).tokenizer.encode(text)] + [stream.finish()]
    assert text == "".join(found)
    assert not any("\ufffd" in piece for piece in found)
