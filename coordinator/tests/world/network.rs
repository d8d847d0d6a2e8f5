//! Networks of our own: a site is a switch with a line to the coordinator, and every UMS host hangs on its site's
//! switch. Lines can be cut, and hosts can fall silent.
//!
//! ```text
//! coordinator ──line── site1 ──┬── ums1        this process's own network namespace,
//!      └───────line── site2    └── ums3        one for each site, one for each host
//!                       └── ums2
//! ```
//!
//! The whole test program runs in namespaces of its own ([`own`]), so that whatever it makes is seen by nobody else and
//! is gone with it, however it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use umsid_testkit::wait_for_blocking;

use crate::place::{Host, SOON};

/// Set for a test program that has its own namespaces.
const INSIDE: &str = "UMSID_WORLD_INSIDE";

/// Where `ip netns` keeps its names; ours are hidden from everybody else by a file system of their own.
const NAMES: &str = "/run/netns";

/// Why there are no networks of our own; `None`: there are.
static MISSING: OnceLock<Option<String>> = OnceLock::new();

/// Starts this program again in a network and a mount namespace of its own, where that can be done.
pub(crate) fn own() {
    let arguments = ["--net", "--mount", "--propagation", "private", "--"];
    let missing = if std::env::var_os(INSIDE).is_some() {
        settle().err()
    } else {
        match run("unshare", &["--net", "--mount", "true"]) {
            Ok(()) => {
                let program = std::env::current_exe().unwrap();
                let failed = command("unshare")
                    .args(arguments)
                    .arg(program)
                    .args(std::env::args_os().skip(1))
                    .env(INSIDE, "yes")
                    .exec();
                panic!("unshare: {failed}");
            }
            Err(why) => Some(format!("needs root and network namespaces: {why}")),
        }
    };
    MISSING.set(missing).expect("it is called once");
}

/// What this program is inside its own namespaces.
fn settle() -> Result<(), String> {
    std::fs::create_dir_all(NAMES).map_err(|error| format!("{NAMES}: {error}"))?;
    run("mount", &["-t", "tmpfs", "umsid-world", NAMES])?;
    run("ip", &["link", "set", "lo", "up"])?;
    run("iptables", &["-w", "-S"])
}

/// Why there are no networks of our own here.
pub(crate) fn missing() -> Option<String> {
    MISSING.get().cloned().flatten()
}

#[expect(clippy::disallowed_methods, reason = "tests start the programs under test; exec.rs is one of them")]
pub(crate) fn command(program: impl AsRef<Path>) -> Command {
    Command::new(program.as_ref())
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = command(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}", arguments.join(" "), said.lines().next().unwrap_or_default()))
}

/// Several commands of `ip` at once, in a namespace or here.
fn ip(namespace: Option<&str>, lines: &[String]) {
    let mut command = command("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    let mut child =
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().expect("it is piped").write_all(lines.join("\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{lines:#?}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Sites and hosts, each with a network of its own.
pub(crate) struct Network {
    number: u8,
    hosts: BTreeMap<String, (String, String)>,
}

impl Network {
    /// One host for each of these servers, at its site: `("ums1", "site1")`.
    pub(crate) fn of(servers: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut network = Self { number, hosts: BTreeMap::new() };
        let sites: BTreeSet<&str> = servers.iter().map(|(_, site)| *site).collect();
        for (at, site) in sites.iter().enumerate() {
            let (name, line) = (network.namespace(site), format!("w{number}-{site}"));
            ip(
                None,
                &[
                    format!("netns add {name}"),
                    format!("link add {line} type veth peer name line netns {name}"),
                    format!("address add 10.{number}.{at}.1/24 dev {line}"),
                    format!("link set {line} up"),
                ],
            );
            let switch = ["link add switch type bridge", "link set switch up", "link set line master switch"];
            ip(Some(&name), &switch.map(str::to_owned));
            ip(Some(&name), &["link set line up".to_owned()]);
            for (nth, (host, _)) in servers.iter().filter(|(_, of)| of == site).enumerate() {
                let (own, address) = (network.namespace(host), format!("10.{number}.{at}.{}", 11 + nth));
                ip(None, &[format!("netns add {own}")]);
                ip(
                    Some(&name),
                    &[
                        format!("link add {host} type veth peer name eth0 netns {own}"),
                        format!("link set {host} master switch"),
                        format!("link set {host} up"),
                    ],
                );
                ip(
                    Some(&own),
                    &[
                        "link set lo up".to_owned(),
                        format!("address add {address}/24 dev eth0"),
                        "link set eth0 up".to_owned(),
                    ],
                );
                network.hosts.insert((*host).to_owned(), ((*site).to_owned(), address));
            }
        }
        network
    }

    fn namespace(&self, name: &str) -> String {
        format!("w{}-{name}", self.number)
    }

    /// The file that is a host's network namespace.
    pub(crate) fn path(&self, host: &str) -> PathBuf {
        Path::new(NAMES).join(self.namespace(host))
    }

    /// All hosts, as a place wants them.
    pub(crate) fn hosts(&self) -> BTreeMap<String, Host> {
        let host = |(name, (_, address)): (&String, &(String, String))| {
            let listen = format!("{address}:7443").parse().unwrap();
            (name.clone(), Host { listen, network: self.path(name) })
        };
        self.hosts.iter().map(host).collect()
    }

    /// A program on a host, to its end.
    pub(crate) fn on(&self, host: &str, program: &Path, arguments: &[&str]) {
        let network = format!("--net={}", self.path(host).display());
        let mut all = vec![network.as_str(), program.to_str().unwrap()];
        all.extend(arguments);
        run("nsenter", &all).unwrap();
    }

    /// From now on nothing reaches this host or comes from it, and nobody is told: no reset, no "unreachable".
    pub(crate) fn silence(&self, host: &str) {
        for chain in [["INPUT", "-i"], ["OUTPUT", "-o"]] {
            let rule = [&["-w", "-A"], &chain[..], &["eth0", "-j", "DROP"]].concat();
            self.on(host, Path::new("iptables"), &rule);
        }
    }

    /// From now on no way leads from the coordinator to this host, as behind a NAT: other hosts of its site reach it.
    pub(crate) fn hide(&self, host: &str) {
        let (_, address) = &self.hosts[host];
        let (site, _) = address.rsplit_once('.').expect("an address has dots");
        let rule = format!("-w -A INPUT -s {site}.1 -j DROP");
        self.on(host, Path::new("iptables"), &rule.split(' ').collect::<Vec<_>>());
    }

    /// From now on nobody gets a connection to this host; it gets them to others.
    pub(crate) fn close(&self, host: &str) {
        let rule = "-w -A INPUT -i eth0 -p tcp --syn -j DROP";
        self.on(host, Path::new("iptables"), &rule.split(' ').collect::<Vec<_>>());
    }

    /// The host can be heard again.
    pub(crate) fn unsilence(&self, host: &str) {
        self.on(host, Path::new("iptables"), &["-w", "-F"]);
    }

    /// Takes the line between a site and the rest of the world away.
    pub(crate) fn cut(&self, site: &str) {
        ip(Some(&self.namespace(site)), &["link set line down".to_owned()]);
    }

    /// Puts it back, and waits until the agents there can be reached again.
    pub(crate) fn mend(&self, site: &str) {
        ip(Some(&self.namespace(site)), &["link set line up".to_owned()]);
        for host in
            self.hosts().into_iter().filter(|(host, _)| self.hosts[host].0 == site).map(|(_, host)| host)
        {
            wait_for_blocking("the line to carry again", SOON, || {
                TcpStream::connect_timeout(&host.listen, Duration::from_secs(1)).ok()
            });
        }
    }
}
