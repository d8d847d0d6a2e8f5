//! Many clusters to try things on.
//!
//! Agents and coordinator are the real ones: certificates, TLS, records on disk. Only the UMS of each server is a few numbers in
//! memory ([`ums`]), so that thousands of servers stand in one process, and what they cost is ours. What meets a UMS is tried
//! on the lab (`umsid-lab`) instead.
//!
//! ```no_run
//! use umsid_fleet::{Fleet, Wanted};
//!
//! let fleet = Fleet::up(&Wanted { clusters: 50, servers: 4, out_of_sync: 1, ..Wanted::default() })?;
//! // UMSID_STATE_DIR=fleet.state() umsid status --all
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! Clusters are called `c001` on, their servers `s0001` on; the first server of each is Main, the last ones are out of sync.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use tempfile::TempDir;
use tokio::sync::oneshot;
use umsid::authority::Authority;
use umsid::home::Home;
use umsid::inventory::{Inventory, Server};
use umsid_agent::server::{Deadlines, StartError};
use umsid_agent::state::{Change, Enrolment, StateDir, StateError};
use umsid_agent::ums::Ums;
use umsid_agent::{Agent, Config};
use umsid_common::durable::{self, Access};
use umsid_common::name::{ClusterName, Identity, Role, ServerName, TrustDomain};
use umsid_common::seal::SealKey;
use umsid_common::tls::{self, Flow};

mod line;
mod program;
pub mod ums;

pub use line::transfer;
use program::Called;
pub use ums::{Delays, Paper};

/// The largest backup an agent takes here, bytes.
const LARGEST: u64 = 4 << 30;

/// How long an agent that is killed is waited for: for a file it is just writing.
const LAST_WRITES: Duration = Duration::from_secs(10);

/// How a fleet is to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// How many clusters.
    pub clusters: usize,
    /// How many servers each has.
    pub servers: usize,
    /// How many of them are out of sync.
    pub out_of_sync: usize,
    /// How long every UMS takes.
    pub delays: Delays,
    /// Bytes a backup has at least.
    pub payload: usize,
    /// Each UMS is this program, `umsid-fleet-ums`, in a directory of its own below `ums/` instead of numbers in memory.
    pub program: Option<PathBuf>,
    /// What may be in flight to an agent.
    pub flow: Flow,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            clusters: 1,
            servers: 3,
            out_of_sync: 0,
            delays: Delays::default(),
            payload: 0,
            program: None,
            flow: Flow::default(),
        }
    }
}

/// Agents that run, and the state directory of a coordinator that knows them; all of it is gone when this is dropped.
pub struct Fleet {
    servers: BTreeMap<Place, One>,
    // Dropped after the agents.
    dir: TempDir,
}

/// Which server of which cluster.
pub type Place = (ClusterName, ServerName);

/// One server.
struct One {
    ums: Arc<Paper>,
    config: Config,
    flow: Flow,
    agent: Option<Running>,
}

impl Fleet {
    /// Makes it all and starts every agent.
    ///
    /// # Errors
    /// If files cannot be written or ports not be had.
    pub fn up(wanted: &Wanted) -> anyhow::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("umsid-fleet-");
        let dir = builder.tempdir().context("cannot make a directory")?;
        spread(dir.path());
        let home = Home { dir: dir.path().join("state") };
        home.create()?;
        durable::private_dir(&dir.path().join("ums"))?;
        spread(&dir.path().join("ums"));
        let trust_domain: TrustDomain = "fleet".parse()?;
        let authority = Authority::create(&home.authority_dir(), &trust_domain, None)?;
        let role = Role::Coordinator("fleet".parse()?);
        authority.equip(&home.tls_files(), &Identity { trust_domain: trust_domain.clone(), role })?;

        let mut fleet = Self { servers: BTreeMap::new(), dir };
        let mut inventory = Inventory { trust_domain, clusters: BTreeMap::new() };
        for cluster in 1..=wanted.clusters {
            for server in 1..=wanted.servers {
                let place = place(cluster, server);
                let lost = server + wanted.out_of_sync > wanted.servers;
                let entry = fleet.add(&authority, &inventory.trust_domain, &place, lost, wanted)?;
                let (cluster, server) = place;
                inventory.clusters.entry(cluster).or_default().servers.insert(server, entry);
            }
        }
        let text = toml::to_string(&inventory).context("cannot write the inventory")?;
        durable::replace(&home.inventory_path(), text.as_bytes(), Access::Private)?;
        Ok(fleet)
    }

    fn add(
        &mut self,
        authority: &Authority,
        trust_domain: &TrustDomain,
        place: &Place,
        lost: bool,
        wanted: &Wanted,
    ) -> anyhow::Result<Server> {
        let (cluster, server) = place;
        let state_dir = self.dir.path().join(format!("{cluster}-{server}"));
        let mut entry = enrol(authority, trust_domain, place, &state_dir)?;
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let mut config = Config { listen, state_dir, max_backup_bytes: LARGEST, ..Config::default() };
        let main = format!("{cluster}-main");
        let local = if lost { own(place) } else { main.clone() };
        let ums = Paper::new(&local, &main, wanted.delays, wanted.payload);
        let agent = match &wanted.program {
            None => Running::start(config.clone(), ums.clone(), wanted.flow)?,
            Some(program) => {
                let dir = self.dir.path().join("ums").join(format!("{cluster}-{server}"));
                let called = Called::new(program, &dir, &local, &main, wanted.delays, wanted.payload)?;
                Running::start(config.clone(), Arc::new(called), wanted.flow)?
            }
        };
        entry.address = agent.address.to_string();
        // It is there again when it is started again.
        config.listen = agent.address;
        self.servers.insert(place.clone(), One { ums, config, flow: wanted.flow, agent: Some(agent) });
        Ok(entry)
    }

    /// The state directory of its coordinator.
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Starts the agent of a server again.
    ///
    /// # Errors
    /// If there is no such server, or its agent does not start.
    pub fn start(&mut self, place: &Place) -> anyhow::Result<()> {
        let one = self.servers.get_mut(place).context("there is no such server")?;
        one.agent = Some(Running::start(one.config.clone(), one.ums.clone(), one.flow)?);
        Ok(())
    }

    /// Ends the agent of a server, as a crash would; it is gone when this returns.
    pub fn kill(&mut self, place: &Place) {
        if let Some(one) = self.servers.get_mut(place) {
            one.agent = None;
        }
    }

    /// The UMS of a server.
    ///
    /// # Panics
    /// If there is no such server.
    pub fn ums(&self, place: &Place) -> &Paper {
        &self.servers.get(place).expect("there is such a server").ums
    }

    /// Whether every server of a cluster holds its Main UMS ID.
    pub fn is_in_sync(&self, cluster: &ClusterName) -> bool {
        self.of(cluster).all(|(_, one)| one.ums.is_in_sync())
    }

    /// How often the UMS Servers of a cluster were restarted, all together.
    pub fn restarts(&self, cluster: &ClusterName) -> usize {
        self.of(cluster).map(|(_, one)| one.ums.restarts()).sum()
    }

    /// Puts these servers out of sync again.
    pub fn lose(&self, places: &[Place]) {
        places.iter().for_each(|place| self.ums(place).lose(&own(place)));
    }

    fn of(&self, cluster: &ClusterName) -> impl Iterator<Item = (&Place, &One)> {
        self.servers.iter().filter(move |((of, _), _)| of == cluster)
    }
}

/// Every directory that is made in this one gets a place of its own on the disk, where its file system knows how: a server would
/// have a disk of its own. ext4 looks, for every new file, at all that were removed nearby within the last minute.
#[cfg(target_os = "linux")]
fn spread(dir: &Path) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let spread = std::fs::File::open(dir).map_err(drop).and_then(|dir| {
        let flags = ioctl_getflags(&dir).map_err(drop)?;
        ioctl_setflags(&dir, flags | IFlags::TOPDIR).map_err(drop)
    });
    // Other file systems have nothing of that kind, and no need.
    let _ = spread;
}

#[cfg(not(target_os = "linux"))]
fn spread(_: &Path) {}

/// The server of this number in the cluster of this number, both from 1.
///
/// # Panics
/// Never: these are names.
pub fn place(cluster: usize, server: usize) -> Place {
    let (cluster, server) = (format!("c{cluster:03}"), format!("s{server:04}"));
    (cluster.parse().expect("this is a name"), server.parse().expect("this is a name"))
}

/// What a server out of sync has for a UMS ID.
fn own((cluster, server): &Place) -> String {
    format!("{cluster}-{server}")
}

/// Everything an enrolment leaves behind, without its two calls.
fn enrol(
    authority: &Authority,
    trust_domain: &TrustDomain,
    (cluster, server): &Place,
    state_dir: &Path,
) -> anyhow::Result<Server> {
    let enrolment =
        Enrolment { trust_domain: trust_domain.clone(), cluster: cluster.clone(), server: server.clone() };
    let state = StateDir::open(state_dir)?;
    let recipient = SealKey::load_or_generate(&state.seal_key())?.recipient();
    let key = tls::generate_key();
    let issued = authority.issue(&tls::request(&key, &enrolment.identity())?, &enrolment.identity())?;
    state.change(&Change {
        certificate: Some(issued.certificate_pem.clone()),
        key: Some(key.expose_secret().to_owned()),
        anchors: Some(authority.anchors_pem().to_owned()),
        crls: Some(authority.crl().0),
        enrolment: Some(enrolment),
    })?;
    let (site, enrolled) = (Some("site1".parse()?), Timestamp::now());
    Ok(Server { address: String::new(), via: None, site, recipient, serial: issued.serial, enrolled })
}

/// An agent in a thread and a runtime of its own, so that it ends like a process that is killed: every task where it stands.
struct Running {
    address: SocketAddr,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(config: Config, ums: Arc<dyn Ums>, flow: Flow) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (kill, killed) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let deadlines = Deadlines { flow, ..Deadlines::default() };
        let life = async move {
            let begun = Instant::now();
            let agent = loop {
                match Agent::bind_with(&config, ums.clone(), deadlines.clone()).await {
                    Ok(agent) => break agent,
                    // A program this process is just starting in another thread has the lock too until it is that program.
                    Err(StartError::State(StateError::InUse { .. })) if begun.elapsed() < LAST_WRITES => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Err(error) => return drop(tell.send(Err(error))),
                }
            };
            drop(tell.send(Ok(agent.local_addr())));
            tokio::select! {
                ended = agent.serve(std::future::pending()) => drop(ended),
                _ = killed => {}
            }
        };
        let thread = std::thread::Builder::new().name("agent".to_owned()).spawn(move || {
            runtime.block_on(life);
            runtime.shutdown_timeout(LAST_WRITES);
        })?;
        let address = told.recv().context("its thread has ended")?.context("the agent does not start")?;
        Ok(Self { address, kill: Some(kill), thread: Some(thread) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.kill.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
