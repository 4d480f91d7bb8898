"""Traces that keep one file for each session: Weka agent sessions, and OpenTelemetry GenAI spans."""

from __future__ import annotations

import json
import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadgen.formats import BadRow, Fields, block_id, iso_ns, number, seconds, time_ns
from services.core.clock import NS_PER_S

CHARS_PER_TOKEN = 4
"""Where a span carries text and no counts; rough for English, and counted as `estimated tokens`."""
SESSION_ATTRIBUTES = ("gen_ai.conversation.id", "session.id", "exgentic.session.id")
DAMAGED = (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError)
"""What reading a damaged or truncated file raises."""
MAX_DEPTH = 8
WEKA_BLOCK_TOKENS = 64


def is_session_file(path: Path) -> bool:
    """A tar, or JSON files of whole sessions."""
    return path.suffix == ".json" or ".tar" in path.suffixes or path.suffix in (".tgz", ".txz")


def read_sessions(path: Path, counts: Counter[str]) -> Iterator[Fields]:
    """All requests of all sessions in order of arrival; they are held in memory, for files come in any order."""
    found: list[Fields] = []
    for name, data in _documents(path, counts):
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict) and isinstance(document.get("requests"), list):
            found += _weka(str(document.get("id", name)), document, document["requests"], counts, 0)
        elif isinstance(document, dict) and isinstance(document.get("spans"), list):
            found += _otel(document["spans"], counts)
        else:
            counts["read"] += 1
            counts["dropped: no session file"] += 1
    yield from sorted(found, key=lambda each: each[0])


def _documents(path: Path, counts: Counter[str]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each file; a tar is read as far as it is whole."""
    if path.is_dir():
        for file in sorted(path.rglob("*.json")):
            yield file.stem, file.read_bytes()
    elif path.suffix == ".json":
        yield path.stem, path.read_bytes()
    else:
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    opened = archive.extractfile(member) if member.name.endswith(".json") else None
                    if opened is not None:
                        yield Path(member.name).stem, opened.read()
        except DAMAGED as error:
            counts["read"] += 1
            counts[f"dropped: damaged archive ({type(error).__name__})"] += 1


def _weka(
    session: str, document: dict[str, Any], requests: list[Any], counts: Counter[str], depth: int
) -> Iterator[Fields]:
    """Ids count from 1 in each session, so they are made the session's own. Sub-agents are sessions of their own."""
    turn = 0
    for place, request in enumerate(requests):
        nested = request.get("requests") if isinstance(request, dict) else None
        if isinstance(nested, list) and depth < MAX_DEPTH:
            yield from _weka(f"{session}/{place}", document, nested, counts, depth + 1)
            continue
        counts["read"] += 1
        try:
            if not isinstance(request, dict):
                raise BadRow("no request")
            size = number(document, "block_size", 1) if "block_size" in document else WEKA_BLOCK_TOKENS
            tokens, ids = number(request, "in", 1), request.get("hash_ids")
            if not isinstance(ids, list) or not all(type(each) is int for each in ids):
                raise BadRow("bad hash_ids")
            if len(ids) * size < tokens - tokens % size:
                raise BadRow("hash_ids too short for in")
            scope = session.partition("/")[0]
            # The list covers full blocks: what is left over is a block that nobody shares.
            prefix = [block_id(scope, each) for each in ids]
            if len(prefix) * size < tokens:
                prefix.append(block_id(f"{session}/rest", turn))
            think_s = seconds(request, "think_time")
            yield (
                time_ns(request, "t", NS_PER_S),
                {
                    "input_tokens": tokens,
                    "output_tokens": number(request, "out", 1),
                    "session": session,
                    "turn": turn,
                    "think_s": think_s if turn else None,
                    "prefix": tuple(prefix),
                    "prefix_block_tokens": size,
                    "model": str(request.get("model", "")),
                },
            )
            turn += 1
        except BadRow as reason:
            counts[f"dropped: {reason}"] += 1


def _otel(spans: list[Any], counts: Counter[str]) -> Iterator[Fields]:
    """Spans of model calls; others are the application's own."""
    ends: dict[str, int] = {}
    turns: Counter[str] = Counter()
    known = [each for each in spans if isinstance(each, dict)]
    counts["read"] += len(spans)
    counts["dropped: no span"] += len(spans) - len(known)
    for span in sorted(known, key=lambda each: str(each.get("start_time"))):
        try:
            attributes = span.get("attributes")
            if not isinstance(attributes, dict) or "gen_ai.request.model" not in attributes:
                raise BadRow("no GenAI span")
            start = iso_ns(str(span.get("start_time", "")), "start_time")
            end = iso_ns(str(span.get("end_time", "")), "end_time")
            named = (str(attributes[key]) for key in SESSION_ATTRIBUTES if attributes.get(key))
            session = f"{span.get('trace_id', '')}/{next(named, '')}"
            before = ends.get(session)
            status = span.get("status")
            yield (
                start,
                {
                    "input_tokens": _tokens(attributes, "input", "gen_ai.input.messages", counts),
                    "output_tokens": _tokens(attributes, "output", "gen_ai.output.text", counts),
                    "session": session,
                    "turn": turns[session],
                    # Branches of one conversation overlap: what began before the other ended did not wait for it.
                    "think_s": (start - before) / NS_PER_S if before is not None and start >= before else None,
                    "model": str(attributes["gen_ai.request.model"]),
                    "failed": isinstance(status, dict) and status.get("code") == 2,
                },
            )
            turns[session] += 1
            ends[session] = end
        except BadRow as reason:
            counts[f"dropped: {reason}"] += 1


def _tokens(attributes: dict[str, Any], which: str, text: str, counts: Counter[str]) -> int:
    if f"gen_ai.usage.{which}_tokens" in attributes:
        return number(attributes, f"gen_ai.usage.{which}_tokens", 1)
    found = attributes.get(text)
    if not found:
        raise BadRow(f"no {which} tokens")
    counts["estimated tokens"] += 1
    return max(1, len(str(found)) // CHARS_PER_TOKEN)
