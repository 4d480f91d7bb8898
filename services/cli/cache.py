"""`triptych cache`: what the response cache holds, why it answers a request or not, and to make it forget."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from services.cli.client import NAME, STATE_FOLDER, ask_cluster, ask_front_doors, find_server
from services.cli.options import JsonOption, NameOption, ServerOption, StateOption, examples
from services.cli.output import EXIT_FAILED, EXIT_OK, CliError, Output
from services.cli.view import TIMEOUT_S, plain, table_of
from services.pb import cluster_pb2 as pb

cache_app = typer.Typer(
    no_args_is_help=True,
    help=(
        "Look into the response cache, and make it forget.\n\n"
        "Every front door has a cache of its own, unless redis.url lets them share. Needs a key with the role admin."
    ),
)

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="An answer's key, from `triptych cache explain`.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Count only.")]


@cache_app.command(epilog=examples("triptych cache stats", "triptych cache stats --json"))
def stats(
    as_json: JsonOption = False,
    server: ServerOption = None,
    name: NameOption = NAME,
    folder: StateOption = STATE_FOLDER,
) -> None:
    """Show what each front door's cache holds and did: answers and policies by category, hits and misses by reason."""
    output, where = Output(), find_server(server, folder.expanduser(), name)
    request = pb.GetCacheStatsRequest()
    found = ask_front_doors(where, lambda stub: stub.GetCacheStats(request, timeout=TIMEOUT_S), everyone=True)
    if as_json:
        output.json([plain(each) for each in found])
    elif not found[0].enabled:
        output.line("there is no response cache; switch it on with semcache.enabled")
    else:
        for each in found:
            show_stats(output, each)
    raise typer.Exit(EXIT_OK)


def show_stats(output: Output, told: pb.GetCacheStatsResponse) -> None:
    """One front door's cache."""
    shared = f", shared through Redis ({'reached' if told.shared_up else 'not reached'})" if told.shared else ""
    load = f", load acts at {told.load:.0%}" if told.load else ""
    output.line(f"{told.front_door}: {told.entries} answers, {told.size_bytes / 2**20:.1f} MiB{shared}{load}")
    output.out.print(policy_table(told.categories))
    counts = table_of("tier", "outcome", "reason", "category", "count", words=4)
    for each in told.counts:
        counts.add_row(each.tier, each.outcome, each.reason, each.category, str(each.count))
    output.out.print(counts)


def policy_table(categories: Any) -> Table:
    """What holds by category."""
    table = table_of("category", "scope", "answers", "similarity", "TTL s", "hottest", "quota", words=2)
    for each in categories:
        alike = f"{each.min_similarity:.2f}" if each.semantic else "equal only" if each.exact else "never"
        limits = (f"{each.ttl_s:g}", f"{each.max_temperature:g}", f"{each.quota_share:.0%}")
        table.add_row(each.name, each.scope, str(each.entries), alike, *limits)
    return table


@cache_app.command(
    epilog=examples(
        'triptych cache explain "What is the capital of Peru?" --category faq',
        'triptych cache explain "What is the capital of Peru?" --tenant acme --json',
    )
)
def explain(
    prompt: Annotated[str, typer.Argument(help="The last user turn.")],
    system: Annotated[str | None, typer.Option("--system", help="What the model is told first.")] = None,
    category: Annotated[str, typer.Option("--category", help="The client's hint, as in x-category.")] = "",
    control: Annotated[str, typer.Option("--cache-control", help="As in x-cache-control.")] = "",
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="If the client gives it.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="If the client gives it.")] = None,
    tenant: Annotated[str, typer.Option("--tenant", help="Whose request; default: the key's own tenant.")] = "",
    key_id: Annotated[str, typer.Option("--key-id", help="Which of the tenant's keys.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=64, help="Answers to show.")] = 8,
    as_json: JsonOption = False,
    server: ServerOption = None,
    name: NameOption = NAME,
    folder: StateOption = STATE_FOLDER,
) -> None:
    """Say what the cache would do with a request: key, policy, and the nearest answers with why each is given or not.

    The front door that answers is asked alone; what it says is counted nowhere, and no answer is shown.
    """
    turns = [("system", system)] if system else []
    request = pb.ExplainCacheRequest(
        messages=[pb.PromptTurn(role=role, text=text) for role, text in [*turns, ("user", prompt)]],
        max_tokens=max_tokens,
        temperature=temperature,
        category=category,
        cache_control=control,
        tenant=tenant,
        key_id=key_id,
        limit=limit,
    )
    output, where = Output(), find_server(server, folder.expanduser(), name)
    told = ask_cluster(where, lambda stub: stub.ExplainCache(request, timeout=TIMEOUT_S))
    if as_json:
        output.json(plain(told))
    else:
        show_explanation(output, told)
    raise typer.Exit(EXIT_OK)


def show_explanation(output: Output, told: pb.ExplainCacheResponse) -> None:
    """What one front door would do."""
    refused = told.read_refused or (
        f"meaning is not looked at: {told.semantic_refused}" if told.semantic_refused else ""
    )
    output.styled(told.outcome, "green" if told.outcome == "hit" else "yellow", f" at {told.front_door}; {refused}")
    output.line(f"category   {', '.join(told.categories)} (by {told.category_source}), scope {told.scope}")
    output.line(f"key        {told.exact_key}")
    output.line(f"partition  {told.partition}")
    for name, value in sorted(told.fields.items()):
        output.line(f"  {name} = {value}")
    output.out.print(policy_table([told.policy]))
    for each in told.candidates:
        verdict = f"refused by {each.refused_by}" if each.refused_by else "would be given"
        times = f"{each.age_s:.0f} s old, {each.expires_in_s:.0f} s left, given {each.hits} times"
        output.line(f"{each.tier} {each.similarity:.4f}, {verdict}; {times}; key")
        output.line(f"  {each.exact_key}")


@cache_app.command(
    epilog=examples(
        "triptych cache invalidate --category faq --dry-run",
        "triptych cache invalidate --tenant acme",
        "triptych cache invalidate --all",
    )
)
def invalidate(
    everything: Annotated[bool, typer.Option("--all", help="Every answer.")] = False,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Answers of one tenant and its keys.")] = None,
    by_all: Annotated[bool, typer.Option("--shared-by-all", help="Answers that every tenant is given.")] = False,
    category: Annotated[str | None, typer.Option("--category", help="Answers of one category.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Answers of one model, by its name.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="One answer, by its key.")] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    name: NameOption = NAME,
    folder: StateOption = STATE_FOLDER,
) -> None:
    """End answers at every front door; those that are being computed are not kept either. Say which, in one way."""
    choices = {
        "everything": everything or None,
        "tenant": tenant,
        "shared_by_all": by_all or None,
        "category": category,
        "model": model,
        "exact_key": key,
    }
    chosen = {field: value for field, value in choices.items() if value is not None}
    if len(chosen) != 1:
        raise CliError("say what ends in one way: --all, --tenant, --shared-by-all, --category, --model or --key")
    request = pb.InvalidateCacheRequest(**chosen, dry_run=dry_run)  # type: ignore[arg-type]
    output, where = Output(), find_server(server, folder.expanduser(), name)
    found = ask_front_doors(where, lambda stub: stub.InvalidateCache(request, timeout=TIMEOUT_S))
    verb = "would end" if dry_run else "ended"
    told = "; the others are told through Redis" if found[0].shared and not dry_run else ""
    lines = [f"{each.entries} answers {verb} at {each.front_door}{told}" for each in found]
    raise typer.Exit(show_reached(output, found, lines, as_json))


@cache_app.command(epilog=examples("triptych cache delete KEY", "triptych cache delete KEY --wrong"))
def delete(
    key: KeyArgument,
    wrong: Annotated[bool, typer.Option("--wrong", help="It is wrong: do not keep it again in its time.")] = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    name: NameOption = NAME,
    folder: StateOption = STATE_FOLDER,
) -> None:
    """End one answer at every front door; say with --wrong that it must not come back."""
    request = pb.DeleteCacheEntryRequest(exact_key=key, wrong=wrong)
    output, where = Output(), find_server(server, folder.expanduser(), name)
    found = ask_front_doors(where, lambda stub: stub.DeleteCacheEntry(request, timeout=TIMEOUT_S))
    lines = [f"{each.front_door}: {'ended' if each.found else 'had no such answer'}" for each in found]
    raise typer.Exit(show_reached(output, found, lines, as_json))


def show_reached(output: Output, found: list[Any], lines: list[str], as_json: bool) -> int:
    """Answers of front doors; exit status 1 where one was not reached."""
    missed = set() if any(each.shared for each in found) else set(found[-1].front_doors)
    missed -= {each.front_door for each in found}
    if as_json:
        output.json({"front_doors": [plain(each) for each in found], "not_reached": sorted(missed)})
    else:
        for line in lines:
            output.line(line)
    if missed:
        output.error(f"not reached: {', '.join(sorted(missed))}; run the command again")
    return EXIT_FAILED if missed else EXIT_OK
