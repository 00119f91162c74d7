"""Everything the demo needs before it can be served: models, tenants, handbook, adapters, configuration.

Each step is kept when it is done, so an interrupted run goes on from there and a second one has nothing to do.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml

from adapters.store import AdapterStore
from adapters.train import Progress, TrainingSpec
from deploy.demo import handbook, lessons, models
from deploy.demo.place import BASE_MODEL, Place, port, read_json, write_json
from deploy.demo.screen import Screen, minutes
from deploy.demo.training import School, output_folder, threads_each
from gateway import secret
from gateway.app import open_knowledge
from gateway.database import connect, migrate
from gateway.policy import auth
from gateway.settings import parse
from gateway.tenants import Tenants
from gateway.tokens import TokenizerCounter
from retrieval.embedding import SentenceTransformerEmbedder
from retrieval.knowledge import Knowledge

TRIAGE, STYLE = "support-triage", "handbook-style"
TENANTS = ("acme", "globex")


def prepare(place: Place, screen: Screen) -> None:
    """Do whatever is not done yet. Raises ConfigurationError and the errors of training and retrieval."""
    if not place.embedder.is_dir():
        with screen.step("Fetching the embedding model"):
            models.prepare_embedder(place)
    if not place.base_model.is_dir():
        with screen.step("Fetching and converting the base model"):
            models.prepare_base(place)
    keys = tenant_keys(place)
    settings = parse(configuration(place, keys))
    db = connect(settings.sql_url)
    migrate(db)
    pepper = secret.keep(place.home / "secret", secrets.token_urlsafe)
    tenant = Tenants(db, pepper=pepper.encode()).ensure("globex").id
    embedder = SentenceTransformerEmbedder(place.embedder, threads=threads_each(1))
    knowledge = _handbook(place, screen, db, embedder, tenant)
    adapters = _adapters(place, screen, knowledge, tenant)
    write_json(place.state, {**read_json(place.state), "adapters": adapters})
    db.dispose()
    served = configuration(place, keys, adapters, _state(place, "store"))
    parse(served)
    write_private(place.config, yaml.safe_dump(served, sort_keys=False, allow_unicode=True))


def _handbook(
    place: Place, screen: Screen, db: sa.Engine, embedder: SentenceTransformerEmbedder, tenant: str
) -> Knowledge:
    """The handbook's store, made anew when a page or the embedding model has changed."""
    # A fixed secret: lessons should not change with the installation that writes them.
    knowledge, stores, files = open_knowledge(db, embedder, place.home, b"lessons")
    old, wanted = _state(place, "store"), handbook.digest()
    there = handbook.is_current(stores, tenant, old, embedder.digest)
    if there and _state(place, "handbook") == wanted:
        return knowledge
    with screen.bars() as bars:
        pages = len(list(handbook.PAGES.glob("*.md")))

        def on_progress(done: int, chunks: int, _total: int) -> None:
            bars.show("Reading the handbook", done, pages, f"{chunks} chunks")

        store = handbook.ingest(stores, files, tenant, on_progress)
    write_json(place.state, {**read_json(place.state), "store": store, "handbook": wanted})
    if old is not None and there:
        handbook.forget(stores, files, tenant, old)
    return knowledge


def _adapters(place: Place, screen: Screen, knowledge: Knowledge, tenant: str) -> dict[str, str]:
    """Adapter ids by name, trained where this content was not trained before."""
    store = _state(place, "store")
    assert store is not None
    count = TokenizerCounter(place.base_model).count
    rows = {
        TRIAGE: lessons.triage_rows(),
        STYLE: lessons.handbook_rows(knowledge, tenant_id=tenant, store_id=store, count=count),
    }
    prompts = {TRIAGE: lessons.TRIAGE_PROMPT, STYLE: lessons.HANDBOOK_PROMPT}
    school = School(place, AdapterStore(place.home / "adapters"))
    specs = {}
    for name, lesson in rows.items():
        examples = lessons.write_rows(lesson, place.training / f"{name}.jsonl")
        specs[name] = _spec(place, name, examples, prompts[name])
    known = {name: school.known(spec) for name, spec in specs.items()}
    missing = {name: spec for name, spec in specs.items() if known[name] is None}
    if missing:
        with screen.bars() as bars:
            for name in missing:
                bars.show(f"Teaching {name}", 0, 1, "loading the model")

            def on_progress(name: str, progress: Progress) -> None:
                note = f"{minutes(progress.seconds_left)}, loss {progress.loss:.2f}"
                bars.show(f"Teaching {name}", progress.step, progress.total_steps, note)

            known.update(school.teach(missing, on_progress))
    return {name: str(adapter) for name, adapter in known.items()}


def _spec(place: Place, name: str, examples: Path, prompt: str) -> TrainingSpec:
    """Chosen for both to be done within five minutes on two cores: each run's record.json tells its seconds."""
    return TrainingSpec(
        base_model=place.base_model,
        examples=examples,
        output=output_folder(place, name),
        system_prompt=prompt,
        threads=threads_each(2),
        learning_rate=1e-3,
        last_layers=12,
        epochs=3 if name == TRIAGE else 2,
        batch_size=8 if name == TRIAGE else 4,
    )


def configuration(
    place: Place, keys: dict[str, str], adapters: dict[str, str] | None = None, store: str | None = None
) -> dict[str, Any]:
    """What `repertory serve --config` reads. Without adapters and store: as much as preparing needs."""
    base = {"base_model": BASE_MODEL}
    brief = {"temperature": 0, "max_tokens": 160}
    triage = {
        "name": TRIAGE,
        **base,
        "system_prompt": {"text": lessons.TRIAGE_PROMPT, "policy": "replace"},
        "sampling": brief,
    }
    assistant = {
        "name": "handbook-assistant",
        **base,
        "system_prompt": {"text": lessons.HANDBOOK_PROMPT, "policy": "replace"},
        "sampling": brief,
    }
    if adapters is not None:
        triage["adapter"], assistant["adapter"] = adapters[TRIAGE], adapters[STYLE]
        assistant["retrieval"] = {
            "vector_store_ids": [store],
            "mode": "auto",
            "max_tokens": lessons.CONTEXT_TOKENS,
        }
    url = os.environ.get("REPERTORY_DATABASE_URL")
    return {
        "home": str(place.home),
        **({"database_url": url} if url else {}),
        "server": {"host": "127.0.0.1", "port": port()},
        "engines": [_engine(place)],
        "embedding": {"path": str(place.embedder)},
        "prices": {
            BASE_MODEL: {"input": 0.15, "cached_input": 0.075, "output": 0.60},
            place.embedder.name: {"input": 0.02},
        },
        "shared_models": [{"name": BASE_MODEL, **base}],
        "tenants": [
            {"name": name, "keys": [{"name": "demo", "value": keys[name]}], "models": [model]}
            for name, model in zip(TENANTS, (triage, assistant), strict=True)
        ],
    }


def _engine(place: Place) -> dict[str, Any]:
    return {
        "kind": "local",
        "name": "local",
        "base_model": BASE_MODEL,
        "model_path": str(place.base_model),
        "max_model_len": 4096,
        "max_loras": 4,
        "max_cpu_loras": 16,
        "max_lora_rank": 16,
        "gpu_memory_utilization": 0.3,
        # Lets clients send tools with tool_choice auto; the parser reads the form most small models write.
        "extra_args": ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"],
    }


def tenant_keys(place: Place) -> dict[str, str]:
    """Each tenant's key, made once."""
    path = place.home / "demo-keys.json"
    keys = read_json(path)
    if set(keys) != set(TENANTS):
        keys = {name: auth.generate()[1] for name in TENANTS}
        write_json(path, keys)
    return keys


def _state(place: Place, name: str) -> str | None:
    found = read_json(place.state).get(name)
    return found if isinstance(found, str) else None


def write_private(path: Path, text: str) -> None:
    """Replace a file that holds keys, readable by its owner only."""
    unfinished = path.with_name(path.name + ".new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    unfinished.replace(path)
