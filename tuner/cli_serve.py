"""Verbs of the training API: `serve`, and `serve keys add|list|revoke`."""

from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.terminal import AsJson, Settings, busy, out, positive, print_json, talk

if TYPE_CHECKING:
    from cluster.service.ledger import Ledger

serve_app = typer.Typer(invoke_without_command=True)
keys_app = typer.Typer(help="Say who may ask.", no_args_is_help=True)
serve_app.add_typer(keys_app, name="keys")

Folder = Annotated[Path, typer.Option("--dir", help="Where keys, runs and checkpoints lie.")]
FOLDER = Path("runs/serve")


@serve_app.callback()
def serve(
    context: typer.Context,
    config: Annotated[
        str, typer.Option(help="course, cpu, or a TOML file of ranges, budget and recipe.")
    ] = "course",
    settings: Settings = None,
    backend: Annotated[
        str | None, typer.Option(help="law, train or replay; default: what the settings say.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="FLOP a key may spend.", callback=positive)
    ] = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    key: Annotated[
        str | None, typer.Option(help="A key for trying, beside those of `serve keys`.")
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Processes that answer requests.")] = 1,
    folder: Folder = FOLDER,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster: auto. Start it on the head node.")
    ] = None,
) -> None:
    """Serve the training API over HTTP, until Ctrl-C.

    Example: isoflop serve --backend law --port 8000 --key KEY
    """
    if context.invoked_subcommand is not None:
        return
    from cluster.service.address import check_free
    from cluster.service.settings import load
    from cluster.service.state import prepare
    from tuner.errors import ConfigError

    if key is not None and not key:
        raise ConfigError("--key: is empty; leave it out, or name one")
    laid = [*(settings or ()), *([f'backend="{backend}"'] if backend else [])]
    laid += [f"budget={budget!r}"] if budget else []
    loaded = load(config, laid)
    say = partial(talk.print, markup=False)
    if address is None:  # on a cluster what a killed service left must be ended first
        check_free(host, port, say=say)
    state = prepare(loaded, folder)
    ledger = state.ledger()
    if key is not None:
        try:
            ledger.ensure_key("trial", key)
        except ValueError:
            raise ConfigError("--key: was revoked; name another") from None
    if not ledger.keys():
        talk.print(f"nobody has a key: isoflop serve keys add NAME --dir {folder}", markup=False)
    ledger.close()
    with busy("starting the service"):
        from cluster.service import deploy  # takes seconds: mistakes are told before

        started = deploy.run(
            state, host=host, port=port, replicas=replicas, say=say, address=address
        )
        first = next(started)
    for url in chain([first], started):
        talk.print(f"serving {url} (page at /, description at /docs); Ctrl-C ends it")
        talk.print(f"what is asked and answered is kept in {folder}", markup=False)


@keys_app.command()
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    key: Annotated[
        str | None, typer.Option(help="Any text, e.g. an SSH public key; default: a random one.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="FLOP, if not the service's.", callback=positive)
    ] = None,
    folder: Folder = FOLDER,
) -> None:
    """Add a key, and print it: it is stored as a digest and cannot be shown again.

    Example: isoflop serve keys add ada
    """
    from cluster.service.keys import fresh
    from tuner.errors import ConfigError

    given = fresh() if key is None else key
    if not given:
        raise ConfigError("--key: is empty; leave it out for a random one")
    try:
        _ledger(folder).add_key(name, given, budget)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}; `isoflop serve keys list` shows all") from None
    typer.echo(given)


@keys_app.command(name="list")
def list_(folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """List the keys and what they have spent; the keys themselves are not known.

    Example: isoflop serve keys list
    """
    known = _ledger(folder).keys()
    rows = [
        {
            "name": key.name, "added": key.added, "revoked": key.revoked, "budget": key.budget,
            "charged": key.charged, "reserved": key.reserved,
        }
        for key in known
    ]  # fmt: skip
    if as_json:
        print_json(rows)
        return
    for row in rows:
        state = f"revoked {row['revoked'][:19]}" if row["revoked"] else f"since {row['added'][:19]}"
        line = f"{row['name']:20} {row['charged']:.4g} FLOP charged, {row['reserved']:.4g} reserved"
        out.print(f"{line}, {state}", markup=False, highlight=False, soft_wrap=True)


@keys_app.command()
def revoke(name: str, folder: Folder = FOLDER) -> None:
    """Refuse a key from now on; a service that runs hears of it at once.

    Example: isoflop serve keys revoke ada
    """
    from tuner.errors import ConfigError

    if not _ledger(folder).revoke_key(name):
        raise ConfigError(f"{name}: no key of that name is in use")


def _ledger(folder: Path) -> "Ledger":
    from cluster.service.ledger import Ledger
    from cluster.service.state import LEDGER

    return Ledger(folder / LEDGER)
