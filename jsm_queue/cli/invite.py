"""`jsm worker invite`: what one types on another machine, so that it works for this pool."""

from jsm_queue import protocol, tls
from jsm_queue.cli import client, console

PWSH_FETCH = (
    "Add-Type 'public static class JsmPin{{public static string Hash;"
    "public static bool Check(object s,System.Security.Cryptography.X509Certificates.X509Certificate c,"
    "System.Security.Cryptography.X509Certificates.X509Chain h,System.Net.Security.SslPolicyErrors e)"
    "{{return c!=null&&System.BitConverter.ToString(System.Security.Cryptography.SHA256.Create()"
    '.ComputeHash(c.GetRawCertData())).Replace("-","").ToLowerInvariant()==Hash;}}}}\'; '
    "[JsmPin]::Hash='{certificate}'; "
    "[Net.ServicePointManager]::SecurityProtocol='Tls12'; "
    "function Get-Jsm($Path,$File,$Token){{$r=[Net.HttpWebRequest]::Create($env:JSM_API_URL+$Path); "
    "$r.ServerCertificateValidationCallback=[Delegate]::CreateDelegate("
    "[Net.Security.RemoteCertificateValidationCallback],[JsmPin].GetMethod('Check')); "
    "if($Token){{$r.Headers['Authorization']='Bearer '+$Token}}; $a=$r.GetResponse(); $s=$a.GetResponseStream(); "
    "if($File){{$f=[IO.File]::Create($File); $s.CopyTo($f); $f.Close()}}"
    "else{{(New-Object IO.StreamReader $s).ReadToEnd()}}; $a.Close()}}; "
)
"""Downloads from a server that has the one certificate, and from no other; join.ps1 goes on to use `Get-Jsm`.

Compiled, as a script block cannot answer on the thread that asks. Windows PowerShell 5.1 and PowerShell 7 have these.
"""


def invite(as_json: bool) -> None:
    """Makes an invite and says what to do with it."""
    with client.connect() as api:
        place = protocol.Place.model_validate(client.call(api, "GET", "/v1/join"))
        url = place.api_url or str(api.base_url).rstrip("/")
        token = client.call(api, "POST", "/v1/workers/invites")["invite"]
    code = f"{token}.{place.fingerprint}" if place.fingerprint else token
    typed = lines(url, code, place)
    if as_json:
        console.print_json({"invite": code, "api": url, "fingerprint": place.fingerprint, **typed})
        return
    console.out.print("On the other machine, within an hour, once:")
    for shell, line in typed.items():
        console.out.print(f"\n[bold]{NAMES[shell]}[/]")
        print(line)  # as it is, however wide the terminal
    if place.fingerprint is None:
        console.out.print(
            "\nOnly programs of this machine reach this api. `jsm up --lan` lets other machines join, with TLS."
        )


NAMES = {"sh": "Linux, macOS (sh)", "powershell": "Windows (PowerShell)", "jsm": "where jsm-queue is installed already"}


def lines(url: str, code: str, place: protocol.Place) -> dict[str, str]:
    """Shell → what to type there. The invite is in no argument, which other users of the machine could read."""
    there = {"jsm": f"jsm worker start --api {url} --invite {code}"}
    if not (place.fingerprint and place.certificate):
        return there
    return {"sh": sh_line(url, code, place.fingerprint), "powershell": pwsh_line(url, code, place.certificate)} | there


def sh_line(url: str, code: str, fingerprint: str) -> str:
    """For sh, with curl, which accepts the pinned key whoever signed it, and no other."""
    fetch = f"curl -fsSk --pinnedpubkey '{tls.curl_pin(fingerprint)}' {url}/join.sh"
    return f"{fetch} | JSM_API_URL={url} JSM_INVITE={code} sh"


def pwsh_line(url: str, code: str, certificate: str) -> str:
    """For PowerShell."""
    told = f"$env:JSM_API_URL='{url}'; $env:JSM_INVITE='{code}'; "
    return told + PWSH_FETCH.format(certificate=certificate) + "Invoke-Expression (Get-Jsm '/join.ps1')"
