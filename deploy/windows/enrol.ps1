#Requires -RunAsAdministrator
<#
.SYNOPSIS
Installs the umsid agent on this UMS server and enrols it by a join file.

.DESCRIPTION
Installs the package if one is named, opens the agent's port to the machines that are named, waits for the holder of the join
file's twin (`umsid enroll --join-files ... --wait`), and starts the service. It can be run again: what is done is not done twice.

.PARAMETER JoinFile
The file `umsid enroll --join-files` has made for this server. It is good once.

.PARAMETER Package
The .msi to install before; without it the agent must be installed.

.PARAMETER Coordinator
Addresses from which umsid is typed: only they reach the port. Without any the firewall is left as it is.

.PARAMETER Port
The agent's port, if it is not 8643.

.EXAMPLE
.\enrol.ps1 -Package .\umsid-agent-0.1.0-x64.msi -JoinFile .\ums1.example.com.join -Coordinator 192.0.2.10
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $JoinFile,
    [string] $Package,
    [string[]] $Coordinator = @(),
    [ValidateRange(1, 65535)] [int] $Port = 8643
)

$ErrorActionPreference = 'Stop'
Set-StrictMode -Version 3

function Invoke-Program([string] $Program, [string[]] $Arguments) {
    & $Program @Arguments
    if ($LASTEXITCODE -ne 0) { throw "$Program $Arguments ended with $LASTEXITCODE" }
}

if (-not (Test-Path -LiteralPath $JoinFile -PathType Leaf)) { throw "there is no join file $JoinFile" }
if ($Package) {
    $msi = (Resolve-Path -LiteralPath $Package).ProviderPath
    $log = Join-Path ([IO.Path]::GetTempPath()) 'umsid-agent-install.log'
    $setup = Start-Process msiexec.exe -Wait -PassThru -ArgumentList '/i', "`"$msi`"", '/qn', '/norestart', '/l*v', "`"$log`""
    # 3010: done, and Windows wants to be started again some time.
    if ($setup.ExitCode -notin 0, 3010) { throw "msiexec ended with $($setup.ExitCode): see $log" }
}

$agent = Join-Path $env:ProgramFiles 'umsid\umsid-agent.exe'
if (-not (Test-Path -LiteralPath $agent)) { throw "the agent is not installed: there is no $agent" }

if ($Coordinator) {
    $rule = @{ LocalPort = $Port; Protocol = 'TCP'; RemoteAddress = $Coordinator; Program = $agent; Action = 'Allow' }
    if (Get-NetFirewallRule -Name 'umsid-agent' -ErrorAction SilentlyContinue) {
        Set-NetFirewallRule -Name 'umsid-agent' -Direction Inbound @rule
    } else {
        New-NetFirewallRule -Name 'umsid-agent' -DisplayName 'umsid agent' -Direction Inbound @rule | Out-Null
    }
}

$state = Join-Path ([Environment]::GetFolderPath('CommonApplicationData')) 'umsid-agent'
if (-not (Test-Path -LiteralPath (Join-Path $state 'enrolment.json'))) {
    Invoke-Program $agent @('enroll', '--join', $JoinFile)
}
# It holds a secret, and it is used.
Remove-Item -LiteralPath $JoinFile
Invoke-Program $agent @('service', 'start')
