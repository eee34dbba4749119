"""Makes ``reference.json``: vectors of 20 texts by the original library, to compare ours with.

Run once in an environment of its own: ``pip install sentence-transformers torch``, then
``python make_reference.py FOLDER``, where FOLDER holds sentence-transformers/all-MiniLM-L6-v2.
"""

import json
import sys
from pathlib import Path

TEXTS = [
    "hello",
    "A",
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "  leading and trailing   spaces\tand\ttabs\n",
    "How do I restart a worker without losing a request?",
    "Supervisord keeps the processes alive.",
    "Überraschung: naïve café façade, coöperation.",
    "机器学习模型需要预热。",
    "Привет, как дела?",
    "emoji 🚀🔥 and ❤️ symbols ∑∫√",
    "def add(a: int, b: int) -> int:\n    return a + b",
    "SELECT name, count(*) FROM workers WHERE state = 'ready' GROUP BY name;",
    "12345 67890 3.14159 1e-9 0xdeadbeef",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "!!! ??? ... --- ***",
    "A heartbeat every second says that a process is alive. " * 4,
    "The broker decodes the header of a message and nothing else. " * 12,
    "Long texts are cut to what the model reads, and the caller is told so. " * 40,
    "word " * 1000,
]


def main() -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(sys.argv[1], device="cpu")
    vectors = model.encode(TEXTS, batch_size=1)
    rows = [{"text": text, "vector": [round(float(x), 7) for x in v]} for text, v in zip(TEXTS, vectors, strict=True)]
    path = Path(__file__).with_name("reference.json")
    path.write_text(json.dumps(rows, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
