"""How well the gate and the search do on the demo handbook, in strata that are never pooled.

    python tests/bench/bench_gate.py path/to/all-MiniLM-L6-v2

`gate.MINILM` was chosen on the rows marked dev: inject_at is the highest value, to 0.02, that misses no
answerable dev question. No threshold was set on held-out rows, but the rule for quoted text ("Translate '…'
into Dutch") was added after the held-out no_need rows had been read, when one of ten was injected.
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import sqlalchemy as sa

from retrieval import tables
from retrieval.embedding import Embedder, SentenceTransformerEmbedder
from retrieval.files import FileStore
from retrieval.knowledge import Knowledge, Query, Retrieval
from retrieval.store_faiss import FaissBackend
from retrieval.stores import Stores

DEMO = Path(__file__).parents[2] / "deploy" / "demo"
BUDGETS = (320, 640, 1280)
"""Tokens of context, as the embedder counts them."""

# Written for this file before any threshold was set; several name places that the handbook names too.
DEV: dict[str, list[str]] = {
    "off_topic": [
        "What is the capital of Australia?",
        "Who wrote Pride and Prejudice?",
        "How do I bake sourdough bread?",
        "What is the distance from the Earth to the moon?",
        "Who won the 2018 football world cup?",
        "how to remove rust from a cast iron pan",
        "What causes the northern lights?",
        "When did the Berlin Wall fall?",
        "Which planet has the most moons?",
        "best way to grow tomatoes on a balcony",
        "How many bones are in the human body?",
        "What is the plot of Hamlet?",
        "Who discovered penicillin?",
        "How does a diesel engine work?",
        "What is the population of Japan?",
        "how do i tune a guitar",
        "What language is spoken in Brazil?",
        "Explain how photosynthesis works",
        "What time zone is New Zealand in?",
        "How tall is Mount Kilimanjaro?",
        "Who was the first woman in space?",
        "Which vitamins are in oranges?",
        "how long should I boil an egg",
        "What is the difference between a crocodile and an alligator?",
        "Who composed The Four Seasons?",
        "What are good names for a black cat?",
        "Why is the sky blue?",
        "How do vaccines work?",
        "What is the fastest land animal?",
        "recommend a science fiction novel",
        "How do I change a bicycle tyre?",
        "What is the tallest building in Dubai?",
        "When was the printing press invented?",
        "How far is Porto from Lisbon by train?",
        "What should I see on a weekend in Toronto?",
        "Is Utrecht older than Amsterdam?",
        "How do I remove a coffee stain from a shirt?",
        "What is quantum entanglement?",
        "Which countries border Switzerland?",
        "how to train a puppy not to bite",
    ],
    "near_miss": [
        "Does Globex run a company car scheme?",
        "Can I bring my dog to the office?",
        "Is there a creche or childcare at the office?",
        "How much is the signing bonus for new engineers?",
        "Who is the chief executive of Globex?",
        "Can I be paid in a cryptocurrency?",
        "Does Globex pay for my home internet?",
        "Is there a dress code?",
        "What is the wifi password for visitors?",
        "How many employees does Globex have?",
    ],
    "no_need": [
        "hi",
        "hello there!",
        "Good morning team",
        "thanks so much, that's perfect",
        "ok great, bye",
        "cool",
        "how are you today?",
        "what is 17*23?",
        "12.5% of 80",
        "what's 144 divided by 12",
        "Translate to Spanish: the meeting moves to Monday.",
        "Rewrite this to sound friendlier: Send me the report by noon or else.",
        "Summarise the following text:\nThe ship left the harbour at dawn and the crew was tired.",
        "Write a Python function that reverses a linked list",
        "write me a regex that matches an email address",
        "tell me a joke",
        "Fix the grammar in this sentence: he go to school every days",
        "got it, thank you",
        "yes",
        "Can you proofread this paragraph: We was very happy with them results last year.",
        "what is the square root of 169?",
        "write a haiku about autumn",
        "implement quicksort in rust",
        "see you tomorrow!",
        "Shorten this message: I just wanted to check in and see whether you have had a chance to look.",
    ],
}


@dataclass(frozen=True, slots=True)
class Case:
    stratum: str
    question: str
    page: str | None = None


def cases() -> Iterator[Case]:
    for split, stratum in (("train", "dev answerable"), ("heldout", "held-out answerable")):
        for row in _rows(split):
            if row["page"]:
                yield Case(stratum, row["question"], row["page"])
    for kind, questions in DEV.items():
        yield from (Case(f"dev {kind}", question) for question in questions)
    yield from (Case(f"held-out {row['kind']}", row["question"]) for row in _rows("unanswerable"))


def knowledge_of_the_handbook(root: Path, embedder: Embedder) -> tuple[Knowledge, str]:
    db = sa.create_engine(f"sqlite:///{root}/bench.db")
    tables.metadata.create_all(db)
    files = FileStore(db, root / "files")
    stores = Stores(db, embedder, root / "indexes", files=files, backend=FaissBackend())
    store = stores.create("bench", "handbook")
    pages = sorted((DEMO / "handbook").glob("*.md"))
    ids = [files.put("bench", page.name, page.read_bytes(), "assistants").id for page in pages]
    stores.add_files("bench", store.id, ids)
    return Knowledge(stores, embedder, secret=b"bench"), store.id


def interval(hits: int, total: int) -> str:
    """Wilson's 95 % interval of a share, in per cent."""
    z, share = 1.96, hits / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low, high = ((centre + sign * spread) / (1 + z * z / total) for sign in (-1, 1))
    return f"{100 * max(low, 0):.0f}-{100 * min(high, 1):.0f} %"


def report(results: list[tuple[Case, Retrieval]]) -> None:
    for stratum in dict.fromkeys(case.stratum for case, _ in results):
        rows = [(case, found) for case, found in results if case.stratum == stratum]
        injected = sum(found.decision.inject for _, found in rows)
        line = f"{stratum:20} n={len(rows):3}  injected {injected:3} ({interval(injected, len(rows))})"
        if rows[0][0].page:
            right = sum(case.page in {source.filename for source in found.sources} for case, found in rows)
            first = sum(bool(f.sources) and f.sources[0].filename == c.page for c, f in rows)
            tokens = median(found.context_tokens for _, found in rows)
            line += f"  right page among sources {right}, first {first}; context {tokens:.0f} tokens"
        print(line)
        for case, found in rows:
            pages = {source.filename for source in found.sources}
            wrong = case.page not in pages if case.page else found.decision.inject
            if wrong and "-v" in sys.argv:
                print(f"    {found.decision.header}  {case.question!r} {sorted(pages)}")


def main(model: Path) -> None:
    embedder = SentenceTransformerEmbedder(model, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        knowledge, store_id = knowledge_of_the_handbook(Path(folder), embedder)
        for budget in BUDGETS:
            started = time.perf_counter()
            results = [
                (case, knowledge.retrieve(_query(case, store_id, budget, embedder))) for case in cases()
            ]
            each = (time.perf_counter() - started) / len(results)
            print(f"budget {budget} tokens, {1000 * each:.1f} ms a question on one thread")
            report(results)


def _query(case: Case, store_id: str, budget: int, embedder: Embedder) -> Query:
    return Query("bench", (store_id,), "auto", (case.question,), budget, embedder.count)


def _rows(split: str) -> list[dict[str, str]]:
    lines = (DEMO / "style" / f"{split}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
