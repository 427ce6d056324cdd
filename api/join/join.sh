#!/bin/sh
# Installs a worker of a jsm-queue pool into a folder of its own, and starts it. Nothing outside that folder changes.
#
#   … | JSM_API_URL=https://… JSM_INVITE=… sh -s -- [--dir DIR] [--name NAME] [--python PROGRAM] [--torch-index URL]
#                                                    [--no-llama] [--no-start]
#
# `jsm worker invite` prints the whole line. The invite stays in the environment and on standard input: other users of
# this machine can read arguments.
set -eu

say() { printf '%s\n' "▸ $*"; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 3
}

main() {
    dir=${XDG_DATA_HOME:-${HOME:?}/.local/share}/jsm-worker
    name='' python='' torch_index='' llama='' start=yes
    while [ $# -gt 0 ]; do
        case $1 in
            --dir) dir=${2:?--dir needs a folder}; shift ;;
            --name) name=${2:?--name needs a name}; shift ;;
            --python) python=${2:?--python needs a program}; shift ;;
            --torch-index) torch_index=${2:?--torch-index needs a URL}; shift ;;
            --no-llama) llama=--no-llama ;;
            --no-start) start=no ;;
            *) die "$1 is no option of this script: it has --dir --name --python --torch-index --no-llama --no-start" ;;
        esac
        shift
    done
    : "${JSM_API_URL:?set it to the address of the api; \`jsm worker invite\` prints the whole line}"
    : "${JSM_INVITE:?set it to the invite; \`jsm worker invite\` prints the whole line}"
    command -v curl > /dev/null || die "curl is missing: install it with your system's packages"
    find_python
    umask 077 # the invite and tokens are this user's alone
    mkdir -p "$dir" || die "$dir cannot be made: choose another folder with --dir"
    dir=$(cd "$dir" && pwd)
    download
    install
    run
}

find_python() {
    for candidate in ${python:-python3 python3.13 python3.12 python3.11 python3.14}; do
        if command -v "$candidate" > /dev/null && "$candidate" -c "$CHECK" 2> /dev/null; then
            python=$candidate
            say "Python: $(command -v "$python")"
            return
        fi
    done
    die "Python 3.11 or newer with venv is missing. Debian, Ubuntu: sudo apt install python3 python3-venv;" \
        "Fedora: sudo dnf install python3; macOS: brew install python"
}
CHECK='import sys, venv, ensurepip, ssl; sys.exit(sys.version_info < (3, 11))'

fetch() { # path, file: an answer of the api, which must have the key of the invite
    fingerprint=${JSM_INVITE#*.}
    case $JSM_API_URL in
        https://*)
            [ "$fingerprint" != "$JSM_INVITE" ] || die "the invite names no key of the api: copy the whole line"
            pin="sha256//$(printf '%s' "$fingerprint" | tr '_-' '/+')="
            set -- "$1" "$2" -k --pinnedpubkey "$pin" # its key is known: who signed it does not matter
            ;;
        http://127.0.0.1:* | http://localhost:*) ;;
        *) die "$JSM_API_URL has no TLS: nothing is sent there" ;;
    esac
    path=$1 file=$2
    shift 2
    status=$(printf 'header = "Authorization: Bearer %s"\n' "${JSM_INVITE%%.*}" |
        curl -sS -K - "$@" --noproxy '*' --retry 3 -o "$file" -w '%{http_code}' "$JSM_API_URL$path") || {
        [ $? -ne 90 ] || die "$JSM_API_URL has another key than the invite says: nothing was sent. Is the address right?"
        die "$JSM_API_URL does not answer: is \`jsm up --lan\` running there, and its port open in the firewall?"
    }
    case $status in
        200) ;;
        401 | 403) die "the invite is unknown, used or expired: \`jsm worker invite\` makes a new one" ;;
        *) die "$JSM_API_URL$path answered $status: see the api's log" ;;
    esac
}

download() {
    say "fetching jsm-queue from $JSM_API_URL"
    fetch /v1/join "$dir/place.json"
    version=$(sed -n 's/.*"version":"\([0-9A-Za-z.+]*\)".*/\1/p' "$dir/place.json")
    [ -n "$version" ] || die "$JSM_API_URL is no api of this version"
    wheel=$dir/jsm_queue-$version-py3-none-any.whl
    fetch /v1/join/wheel "$wheel"
    fetch /v1/join/constraints "$dir/constraints.txt"
}

install() {
    [ -x "$dir/venv/bin/python" ] || "$python" -m venv "$dir/venv" || die "no virtual environment could be made in $dir"
    say "installing into $dir/venv"
    pip -c "$dir/constraints.txt" "$wheel"
    pip --no-deps --force-reinstall "$wheel" # the same version, but of another day
    # shellcheck disable=SC2086  # no option is no argument
    "$dir/venv/bin/python" -I -m workers.provision --constraints "$dir/constraints.txt" $llama \
        ${torch_index:+--torch-index "$torch_index"} < /dev/null || exit 3
    rm -f "$wheel" "$dir/place.json"
}

pip() {
    "$dir/venv/bin/python" -m pip --disable-pip-version-check --no-input -q install "$@" < /dev/null ||
        die "pip could not install jsm-queue: what it said is above"
}

run() {
    cat > "$dir/start" << END
#!/bin/sh
# Starts this machine's worker; once it has joined it needs neither address nor invite.
export JSM_HOME='$dir' PYTHONSAFEPATH=1 # where it is started from does not matter
exec '$dir/venv/bin/python' -m workers --home '$dir/worker' "\$@"
END
    chmod 700 "$dir/start"
    say "installed. Later: $dir/start; or whenever you log in, after" \
        "JSM_HOME='$dir' '$dir/venv/bin/jsm' worker install-service"
    set -- ${name:+--name "$name"}
    if [ $start = no ]; then
        say "not started. To join within the hour: JSM_INVITE=$JSM_INVITE $dir/start --api $JSM_API_URL $*"
        return
    fi
    "$dir/start" --join --api "$JSM_API_URL" "$@" < /dev/null
    unset JSM_API_URL JSM_INVITE
    say "joined. What this machine has, and what it lacks:"
    JSM_HOME=$dir "$dir/venv/bin/jsm" worker doctor < /dev/null || say "the worker does what it can all the same"
    say "working; Ctrl-C stops the worker"
    exec "$dir/start" "$@" < /dev/null
}

main "$@"
