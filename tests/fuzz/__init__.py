"""Coverage-guided fuzzing: ``make fuzz``, or ``python -m tests.fuzz --help``.

A target is an ordinary function of bytes in ``targets/``; the first sentence of its module says what must hold. What
the fuzzer keeps lies in ``corpus/<target>/`` and is replayed by ``test_corpus.py``, without a fuzzer.
"""
