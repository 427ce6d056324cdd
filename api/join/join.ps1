# Installs a worker of a jsm-queue pool into a folder of its own, and starts it. Nothing outside that folder changes.
#
# `jsm worker invite` prints the whole line, which sets JSM_API_URL and JSM_INVITE and defines Get-Jsm: it downloads from
# the one server whose certificate the line names. Settings before the line:
#   $env:JSM_WORKER_DIR, $env:JSM_WORKER_NAME, $env:JSM_TORCH_INDEX, $env:JSM_NO_LLAMA, $env:JSM_NO_START
& {
    $ErrorActionPreference = 'Stop'
    $ProgressPreference = 'SilentlyContinue'

    function Say($Line) { Write-Host "> $Line" }

    function Find-Python {
        $check = 'import sys, venv, ensurepip, ssl; sys.exit(sys.version_info < (3, 11))'
        foreach ($candidate in @(@('py', '-3'), @('python'), @('python3'))) {
            if (-not (Get-Command $candidate[0] -ErrorAction SilentlyContinue)) { continue }
            $options = @($candidate | Select-Object -Skip 1)
            & $candidate[0] @options -c $check 2>$null
            if ($LASTEXITCODE -eq 0) { return , $candidate }
        }
        throw 'Python 3.11 or newer is missing: winget install Python.Python.3.12, then open a new window'
    }

    function Invoke-Checked($What, $Program, $Arguments) {
        & $Program @Arguments
        if ($LASTEXITCODE -ne 0) { throw "$What failed: what it said is above" }
    }

    function Get-File($Path, $File) {
        try { Get-Jsm $Path $File $token }
        catch {
            $answer = $_.Exception
            while ($answer.InnerException -and -not $answer.Response) { $answer = $answer.InnerException }
            $status = if ($answer.Response) { [int]$answer.Response.StatusCode } else { 0 }
            if ($status -eq 401 -or $status -eq 403) {
                throw 'The invite is unknown, used or expired: `jsm worker invite` makes a new one'
            }
            throw "$env:JSM_API_URL does not answer as it should ($($answer.Message)): is the address right, and the port open?"
        }
    }

    try {
        if (-not $env:JSM_API_URL -or -not $env:JSM_INVITE) { throw 'Paste the whole line of `jsm worker invite`' }
        if ($env:JSM_API_URL -notlike 'https://*') { throw "$env:JSM_API_URL has no TLS: nothing is sent there" }
        $token = $env:JSM_INVITE.Split('.')[0]
        $dir = if ($env:JSM_WORKER_DIR) { $env:JSM_WORKER_DIR } else { Join-Path $env:LOCALAPPDATA 'jsm-worker' }
        $name = $env:JSM_WORKER_NAME
        $index = $env:JSM_TORCH_INDEX
        $llama = -not $env:JSM_NO_LLAMA
        $start = -not $env:JSM_NO_START
        # The worker refuses variables that it does not know.
        'WORKER_DIR', 'WORKER_NAME', 'TORCH_INDEX', 'NO_LLAMA', 'NO_START' |
            ForEach-Object { Remove-Item "Env:JSM_$_" -ErrorAction SilentlyContinue }
        $python = Find-Python
        New-Item -ItemType Directory -Force $dir | Out-Null
        $dir = (Resolve-Path $dir).Path
        # Tokens are this user's alone.
        Invoke-Checked 'icacls' 'icacls' @($dir, '/inheritance:r', '/grant:r', "${env:USERNAME}:(OI)(CI)F", '/Q')

        Say "fetching jsm-queue from $env:JSM_API_URL"
        $place = Join-Path $dir 'place.json'
        Get-File '/v1/join' $place
        $version = (Get-Content -Raw $place | ConvertFrom-Json).version
        if ($version -notmatch '^[0-9A-Za-z.+]+$') { throw "$env:JSM_API_URL is no api of this version" }
        $wheel = Join-Path $dir "jsm_queue-$version-py3-none-any.whl"
        $constraints = Join-Path $dir 'constraints.txt'
        Get-File '/v1/join/wheel' $wheel
        Get-File '/v1/join/constraints' $constraints

        $exe = Join-Path $dir 'venv\Scripts\python.exe'
        if (-not (Test-Path $exe)) {
            $options = @($python | Select-Object -Skip 1) + @('-m', 'venv', (Join-Path $dir 'venv'))
            Invoke-Checked 'Making a virtual environment' $python[0] $options
        }
        Say "installing into $dir\venv"
        $pip = @('-m', 'pip', '--disable-pip-version-check', '--no-input', '-q', 'install')
        Invoke-Checked 'pip' $exe ($pip + @('-c', $constraints, $wheel))
        Invoke-Checked 'pip' $exe ($pip + @('--no-deps', '--force-reinstall', $wheel))
        $more = @('-I', '-m', 'workers.provision', '--constraints', $constraints)
        if (-not $llama) { $more += '--no-llama' }
        if ($index) { $more += @('--torch-index', $index) }
        Invoke-Checked 'Installing what the worker needs' $exe $more
        Remove-Item $wheel, $place

        $starter = Join-Path $dir 'start.cmd'
        Set-Content -Encoding Ascii $starter @(
            '@rem Starts this machine''s worker; once it has joined it needs neither address nor invite.',
            '@set "JSM_HOME=%~dp0."',
            '@set PYTHONSAFEPATH=1',
            '@"%~dp0venv\Scripts\python.exe" -m workers --home "%~dp0worker" %*'
        )
        Say "installed. Later: $starter; or at every logon, after"
        Say "  `$env:JSM_HOME='$dir'; & '$dir\venv\Scripts\jsm.exe' worker install-service"
        $arguments = @()
        if ($name) { $arguments = @('--name', $name) }
        if (-not $start) {
            Say "not started. To join within the hour: set JSM_INVITE, then $starter --api $env:JSM_API_URL $arguments"
            return
        }
        Invoke-Checked 'Joining' $starter (@('--join', '--api', $env:JSM_API_URL) + $arguments)
        Remove-Item Env:JSM_API_URL, Env:JSM_INVITE
        Say 'joined. What this machine has, and what it lacks:'
        $env:JSM_HOME = $dir
        & (Join-Path $dir 'venv\Scripts\jsm.exe') worker doctor
        if ($LASTEXITCODE) { Say 'the worker does what it can all the same' }
        Say 'working; Ctrl-C stops the worker'
        & $starter @arguments
    }
    catch { Write-Host "error: $($_.Exception.Message)" -ForegroundColor Red }
}
