//! A network of our own, that nothing else on this machine is in.

use std::path::{Path, PathBuf};

use crate::program::Program;

/// A network namespace with a bridge that the hosts are plugged into. It is gone with this value.
pub(crate) struct Network(String);

impl Network {
    /// The bridge's name.
    pub(crate) const BRIDGE: &str = "br0";

    pub(crate) fn new() -> anyhow::Result<Self> {
        let name = format!("umsid-hosts-{}", std::process::id());
        ip(&["netns", "add", &name])?;
        let network = Self(name);
        let own = format!("{}/24", Self::address(1));
        for line in [
            &["link", "set", "lo", "up"][..],
            &["link", "add", Self::BRIDGE, "type", "bridge"],
            &["address", "add", &own, "dev", Self::BRIDGE],
            &["link", "set", Self::BRIDGE, "up"],
        ] {
            ip(&[&["-n", &network.0][..], line].concat())?;
        }
        Ok(network)
    }

    /// The address with this last number; 1 is the machine the coordinator runs on.
    pub(crate) fn address(number: u8) -> String {
        format!("10.77.0.{number}")
    }

    /// A program of this machine that is in the network. `ip netns exec` would hide the control groups from it.
    pub(crate) fn program(&self, program: &Path) -> Program {
        let net = format!("--net={}", PathBuf::from("/run/netns").join(&self.0).display());
        Program::new(Path::new("nsenter")).args([net, "--".to_owned()]).args([program])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = ip(&["netns", "delete", &self.0]);
    }
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    Program::new(Path::new("ip")).args(args).read_quietly().map(drop)
}
