"""`jsm token`: who may do what with the api."""

import time

from jsm_queue.cli import client, console


def create(scope: str, name: str, days: float | None, as_json: bool) -> None:
    """Makes a token and prints it, this once."""
    with client.connect() as api:
        made = client.call(api, "POST", "/v1/tokens", json={"scope": scope, "name": name, "days": days})
    if as_json:
        console.print_json(made)
        return
    console.err.print(f"token {made['id']} of scope {scope} for {console.escape(name)}; it is not shown again:")
    print(made["token"])  # alone on standard output, for `> file` and $(…)
    console.err.print("Use it as JSM_TOKEN, with JSM_API_URL")


def show(as_json: bool) -> None:
    """Lists the tokens."""
    with client.connect() as api:
        found = client.call(api, "GET", "/v1/tokens")
    if as_json:
        console.print_json(found)
        return
    rows = [
        [token["id"], token["name"], token["scope"], _state(token), _date(token["created_at"])]
        for token in found["tokens"]
    ]
    columns = {"token": "left", "name": "left", "scope": "left", "state": "left", "made": "left"}
    console.print_table(columns, rows, "no tokens: `jsm token create --scope submit --name NAME` makes one")


def revoke(named: str, as_json: bool) -> None:
    """Makes a token good for nothing, at once."""
    with client.connect() as api:
        gone = client.call(api, "DELETE", f"/v1/tokens/{client.quoted(named)}")
    if as_json:
        console.print_json(gone)
        return
    name = f" ({console.escape(gone['name'])})" if gone["name"] else ""
    console.out.print(f"token {gone['id']}{name} of scope {gone['scope']} is revoked")


def _state(token: dict) -> str:
    if token["revoked_at"]:
        return f"revoked {_date(token['revoked_at'])}"
    if not token["expires_at"]:
        return "valid"
    return ("valid until " if token["valid"] else "expired ") + _date(token["expires_at"])


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
