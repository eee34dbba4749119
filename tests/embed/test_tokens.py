"""Texts to tokens: prepared as by sentence-transformers, cut to the model's length, read no further than needed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlx_mesh_worker.engines.embed.config import read_config
from mlx_mesh_worker.engines.embed.tokens import HEAD_CHARS_PER_TOKEN, HEAD_GROWTH, Row, TextTokenizer
from tests.embed.driver import Driver
from tests.embed.folder import ROBERTA, ModelFolder

Make = Callable[..., ModelFolder]


def tokens(folder: ModelFolder, *texts: str) -> list[Row]:
    return TextTokenizer(folder.path, read_config(folder.path))(texts)


def test_special_tokens_surround_a_text(make: Make) -> None:
    folder = make()
    assert [Row([2, 5, 6, 3], False), Row([2, 1, 3], False)] == tokens(folder, "w1 w2", "unheard-of"[:7])
    roberta = make("roberta", config=ROBERTA)
    assert [Row([0, 5, 2], False)] == tokens(roberta, "w1")


def test_sentence_bert_config_sets_the_longest_text_within_what_positions_allow(make: Make) -> None:
    folder = make()
    for given, most in ((None, 40), (12, 12), (40, 40), (4096, 40)):
        folder.write("sentence_bert_config.json", {"max_seq_length": given})
        whole, cut = tokens(folder, "w1 " * (most - 2), "w1 " * (most - 1))
        assert (most, False) == (len(whole.ids), whole.truncated)
        assert (whole.ids, True) == cut


def test_the_limits_that_a_tokenizer_was_saved_with_do_not_count(make: Make) -> None:
    """The files of many models carry the length and the padding of their training."""
    folder = make()
    path = folder.path / "tokenizer.json"
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(path))
    assert [Row(folder.ids("w1 w2 w3 w4 w5 w6"), False)] == tokens(folder, "w1 w2 w3 w4 w5 w6")


def test_white_space_around_a_text_is_taken_away(make: Make) -> None:
    folder = make()
    assert tokens(folder, "w1") == tokens(folder, "\n  w1\t ")
    assert [Row([2, 3], False)] == tokens(folder, " \n")


def test_texts_are_put_in_lower_case_if_the_folder_says_so(make: Make) -> None:
    folder = make()
    assert [2, 1, 3] == tokens(folder, "W1")[0].ids
    folder.write("sentence_bert_config.json", {"do_lower_case": True})
    assert [2, 5, 3] == tokens(folder, "W1")[0].ids


def test_a_text_without_any_token_is_an_invalid_request_and_harms_nobody(make: Make) -> None:
    """Only a tokenizer without special tokens makes nothing of a text."""
    driver = Driver(make(special=False).engine())
    good, bad = driver.job(["w1 w2"]), driver.job(["w1", "  "])
    answers = driver.run(good, bad)
    assert isinstance(answers[0], dict)
    assert [2] == answers[0]["tokens"]
    error = driver.error(["w1", "  "])
    assert ("INVALID_REQUEST", {"field": "texts", "index": 1}) == (error.code, error.details)
    assert "texts[1] has nothing that the model reads" == error.message


HEAD = HEAD_CHARS_PER_TOKEN * 40


@pytest.mark.parametrize(
    "text",
    [
        "w1 w2 " * HEAD,
        "w1 " * 30 + " " * HEAD + "w2 " * 30,
        " " * HEAD + "w3 w4",
        "w1" + " " * (HEAD - 3) + "w23",
        "x" * (HEAD + 50) + " w1",
        "w1 " * 36 + "w2" + " " * (HEAD - 111) + "w24 w5",
    ],
    ids=["all-words", "gap", "only-gap", "cut-in-a-word", "one-long-word", "cut-at-the-end"],
)
def test_a_long_text_has_the_tokens_it_would_have_if_it_were_read_whole(make: Make, text: str) -> None:
    folder = make()
    tokenizer = TextTokenizer(folder.path, read_config(folder.path))
    tokenizer._head_chars = len(text)
    (whole,) = tokenizer([text])
    assert [whole] == tokens(folder, text)
    assert len(whole.ids) <= 40


@pytest.mark.slow
def test_a_word_that_is_cut_within_reach_of_the_model_is_read_whole(minilm: Driver) -> None:
    """A word of over 100 characters is one unknown token; its first 90 are many known ones."""
    head = "word " * 253
    text = head + " " * (256 * HEAD_CHARS_PER_TOKEN - 90 - len(head)) + "x" * 150
    result = minilm.embed([text, head + "x" * 150])
    assert ([256, 256], []) == (result["tokens"], result["truncated"])
    assert 0 == pytest.approx(abs(result["vectors"][0] - result["vectors"][1]).max(), abs=1e-5)


@pytest.mark.slow
def test_of_a_long_text_little_more_than_the_model_reads_is_tokenised(
    minilm: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Counting:
        """The real tokenizer, and how much it is given."""

        def encode_batch_fast(self, texts: list[str]) -> object:
            seen.extend(map(len, texts))
            return real.encode_batch_fast(texts)

    real = minilm.engine._tokenizer._tokenizer
    monkeypatch.setattr(minilm.engine._tokenizer, "_tokenizer", Counting())
    result = minilm.embed(["hello " * 100_000])
    assert [256] == result["tokens"]
    assert [0] == result["truncated"]
    assert [256 * HEAD_CHARS_PER_TOKEN] == seen


def test_a_gap_does_not_cost_the_reading_of_all_behind_it(make: Make) -> None:
    folder = make()
    tokenizer = TextTokenizer(folder.path, read_config(folder.path))
    seen: list[int] = []

    class Counting:
        """The real tokenizer, and how much it is given."""

        def encode_batch_fast(self, texts: list[str]) -> object:
            seen.extend(map(len, texts))
            return real.encode_batch_fast(texts)

    real = tokenizer._tokenizer
    tokenizer._tokenizer = Counting()  # type: ignore[assignment]
    (row,) = tokenizer(["w1" + " " * HEAD + "w2 " * 300_000])
    assert ([2, 5, *[6] * 37, 3], True) == row
    assert [HEAD, HEAD * HEAD_GROWTH] == seen
