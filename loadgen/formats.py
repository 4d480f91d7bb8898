"""Formats of public traces, by column name: one record in, the fields of one row out, or the reason why not.

Sources: BurstGPT (HPMLL/BurstGPT), Azure LLM inference traces 2023 to 2025, Mooncake (FAST'25), Qwen-Bailian, TraceLab.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from services.core.clock import NS_PER_MS, NS_PER_S
from services.core.workload import WorkloadRow

Record = Mapping[str, Any]
Fields = tuple[int, dict[str, Any]]
"""When it came (ns, on the trace's own clock), and the other fields of `WorkloadRow`."""
MAX_TOKENS = 10_000_000
MAX_SECONDS = 1e10
CHAINED_BLOCK_TOKENS = 16


class BadRow(Exception):
    """A record that is no row; says why in a word, for the count."""


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file.

    Attributes:
        name: how it is asked for.
        columns: names that a record must have for this to be its format.
        parse: one record to the fields of a row; raises BadRow.
    """

    name: str
    columns: frozenset[str]
    parse: Callable[[Record], Fields]


def number(record: Record, column: str, least: int = 0) -> int:
    """A count of a record.

    Raises:
        BadRow: it is missing, no number, or below `least`.
    """
    value = record.get(column)
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise BadRow(f"bad {column}") from None
    if not least <= found <= MAX_TOKENS:
        raise BadRow(f"bad {column}")
    return int(found)


def seconds(record: Record, column: str) -> float | None:
    """A length of time of a record, in seconds; None where it has none.

    Raises:
        BadRow: it is no number, negative or not finite.
    """
    value = record.get(column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SECONDS:
        raise BadRow(f"bad {column}")
    return float(value)


def time_ns(record: Record, column: str, unit_ns: int) -> int:
    """A time on the trace's clock.

    Raises:
        BadRow: it is no number.
    """
    text = str(record.get(column, "")).strip()
    try:
        whole, _, fraction = text.partition(".")
        if whole.lstrip("-").isdigit() and (fraction.isdigit() or not fraction):  # exact where a float is not
            digits = (fraction + "000000000")[:9]
            found = int(whole) * unit_ns + int(digits) * unit_ns // NS_PER_S
        else:
            found = round(float(text) * unit_ns)
    except (ValueError, OverflowError):
        raise BadRow(f"bad {column}") from None
    if abs(found) > MAX_SECONDS * NS_PER_S:
        raise BadRow(f"bad {column}")
    return found


def iso_ns(text: str, column: str) -> int:
    """ISO time of any precision, with a zone or without (UTC then), as nanoseconds.

    Raises:
        BadRow: it is something else.
    """
    text = text.strip()
    body, _, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    zone = rest[len(digits) :] if rest else ""
    try:
        moment = datetime.fromisoformat(body + zone)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int(moment.timestamp()) * NS_PER_S + int((digits + "000000000")[:9])
    except (ValueError, OverflowError):
        raise BadRow(f"bad {column}") from None


def chained(session: str, tokens: int) -> tuple[int, ...]:
    """Ids of the full blocks of a conversation that only ever grows."""
    return tuple(block_id(session, each) for each in range(tokens // CHAINED_BLOCK_TOKENS))


def block_id(scope: str, number_in_scope: int) -> int:
    """An id that is its own in the whole trace, of one that is unique in its scope: 63 bits of BLAKE2b."""
    digest = hashlib.blake2b(f"{scope}\0{number_in_scope}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def burstgpt(record: Record) -> Fields:
    """BurstGPT, 6 and 8 columns.

    No response tokens means that the request failed; of such a one the prompt's length may be unknown too, and 0.
    """
    output = number(record, "Response tokens")
    kind = str(record.get("Log Type") or "")
    return time_ns(record, "Timestamp", NS_PER_S), {
        "input_tokens": number(record, "Request tokens", 1 if output else 0),
        "output_tokens": output,
        "session": str(record.get("Session ID") or "").strip(),
        "category": kind.lower().removesuffix(" log").strip(),
        "model": str(record.get("Model") or ""),
        "failed": output == 0,
    }


def azure(record: Record) -> Fields:
    """Azure 2023 and 2024, and the multimodal one of 2025."""
    images = number(record, "NumImages") if "NumImages" in record else 0
    return iso_ns(str(record.get("TIMESTAMP", "")), "TIMESTAMP"), {
        "input_tokens": number(record, "ContextTokens", 1),
        "output_tokens": number(record, "GeneratedTokens", 1),
        "images": images,
    }


def _hashed(record: Record, block_tokens: int) -> dict[str, Any]:
    tokens = number(record, "input_length", 1)
    ids = record.get("hash_ids")
    if not isinstance(ids, list) or not all(type(each) is int for each in ids):
        raise BadRow("bad hash_ids")
    if len(ids) * block_tokens < tokens:
        raise BadRow("hash_ids too short for input_length")
    return {
        "input_tokens": tokens,
        "output_tokens": number(record, "output_length", 1),
        "prefix": tuple(ids),
        "prefix_block_tokens": block_tokens,
    }


def mooncake(record: Record) -> Fields:
    """Mooncake: milliseconds, chained blocks of 512 tokens."""
    return time_ns(record, "timestamp", NS_PER_MS), _hashed(record, 512)


def bailian(record: Record) -> Fields:
    """Qwen-Bailian: seconds, chained blocks of 16 tokens, conversations by parent."""
    parent = record.get("parent_chat_id")
    turn = number(record, "turn") if "turn" in record else 0
    fields = _hashed(record, 16)
    fields |= {"category": str(record.get("type") or ""), "turn": max(turn - 1, 0)}
    fields["session"] = str(record.get("chat_id", ""))
    if parent not in (None, -1, "", "-1"):
        fields["parent"] = str(parent)
    return time_ns(record, "timestamp", NS_PER_S), fields


def tracelab(record: Record) -> Fields:
    """TraceLab CSV: a round's prompt is what came before it and `input_len` more; rounds wait for tools."""
    session = str(record.get("session_id", record.get("id", "")))
    before = number(record, "prefix_len")
    tokens = before + number(record, "input_len")
    if tokens == 0:
        raise BadRow("bad input_len")
    at = time_ns(record, "arrival_time", NS_PER_MS) if "arrival_time" in record else 0
    return at, {
        "input_tokens": tokens,
        "output_tokens": number(record, "output_len", 1),
        "session": session,
        "turn": number(record, "round_idx"),
        "wait_after_s": number(record, "tool_wait_after_ms") / 1000 if record.get("tool_wait_after_ms") else 0.0,
        "prefix": chained(session, tokens),
        "prefix_block_tokens": CHAINED_BLOCK_TOKENS,
    }


GENERIC_FIELDS: dict[str, type] = {
    **dict.fromkeys(("input_tokens", "output_tokens", "turn", "prefix_block_tokens", "images"), int),
    **dict.fromkeys(("session", "tenant", "category", "model"), str),
    **{"prefix": list, "failed": bool},
}


def generic(record: Record) -> Fields:
    """Rows as `loadgen synth` writes them: JSON objects of `WorkloadRow`'s own fields."""
    fields = {key: value for key, value in record.items() if key not in (*BESIDE_A_ROW, "think_s")}
    for name, value in fields.items():
        if name not in GENERIC_FIELDS:
            raise BadRow("unknown field")
        if type(value) is not GENERIC_FIELDS[name] or (isinstance(value, int) and value < 0):
            raise BadRow(f"bad {name}")
    fields["input_tokens"] = number(record, "input_tokens", 0 if record.get("failed") else 1)
    fields["output_tokens"] = number(record, "output_tokens")
    fields["prefix"], fields["think_s"] = tuple(fields.get("prefix", ())), seconds(record, "think_s")
    if not all(type(each) is int for each in fields["prefix"]):
        raise BadRow("bad prefix")
    if fields["prefix"] and len(fields["prefix"]) * number(record, "prefix_block_tokens", 1) < fields["input_tokens"]:
        raise BadRow("prefix too short for input_tokens")
    return time_ns(record, "arrival_s", NS_PER_S), fields


CSV_FORMATS = (
    Format("burstgpt", frozenset({"Timestamp", "Request tokens", "Response tokens"}), burstgpt),
    Format("azure", frozenset({"TIMESTAMP", "ContextTokens", "GeneratedTokens"}), azure),
    Format("tracelab", frozenset({"round_idx", "prefix_len", "input_len", "output_len"}), tracelab),
)
JSON_FORMATS = (
    Format("bailian", frozenset({"timestamp", "input_length", "output_length", "hash_ids", "chat_id"}), bailian),
    Format("mooncake", frozenset({"timestamp", "input_length", "output_length", "hash_ids"}), mooncake),
    Format("rows", frozenset({"arrival_s", "input_tokens", "output_tokens"}), generic),
)

# ------------------------------------------------------------------ rows as they are written

BESIDE_A_ROW = ("arrival_s", "prompt", "label")
"""Of a record of `rows`: its time, and its text and what is known of that, which are no fields of `WorkloadRow`."""
DEFAULTS = {each.name: each.default for each in dataclasses.fields(WorkloadRow)}


def generic_record(row: WorkloadRow) -> dict[str, Any]:
    """What `generic` reads as that row: the fields that are not the default, and its arrival to the microsecond."""
    fields = {name: getattr(row, name) for name in DEFAULTS}
    kept = {name: value for name, value in fields.items() if value != DEFAULTS[name]}
    return kept | {"arrival_s": round(row.arrival_s, 6)}
