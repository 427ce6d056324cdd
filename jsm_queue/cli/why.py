"""`jsm why`: in one sentence why a job waits."""

from jsm_queue.cli import client, console


def run(job: str, as_json: bool) -> None:
    """Prints the sentence."""
    with client.connect() as api:
        answer = client.call(api, "GET", f"/v1/jobs/{client.quoted(job)}/why")
    if as_json:
        console.print_json(answer)
    else:
        console.out.print(f"[bold]{console.escape(answer['label'])}[/]  {console.escape(answer['why'])}")
