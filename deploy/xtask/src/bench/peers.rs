//! What people use today: Ansible, scp and an sshd of our own on loopback that both go through.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::program::{Program, free_port, root, target_dir, wait_for};
use crate::{files, system};

/// Where the peers are, and how they are called.
pub(super) struct Peers {
    dir: PathBuf,
    port: u16,
    sshd: Child,
}

impl Peers {
    pub(super) fn up(dir: &Path) -> anyhow::Result<Self> {
        let needed = [("/usr/sbin/sshd", "openssh-server"), ("/usr/bin/scp", "openssh-client")];
        system::provide(&needed, "measuring beside Ansible and scp")?;
        let venv = target_dir().join("bench-venv");
        if !venv.join("bin/ansible-playbook").exists() {
            Program::new(Path::new("python3")).args(["-m", "venv"]).args([&venv]).read_quietly()?;
            let pip = Program::new(&venv.join("bin/pip"));
            pip.args(["install", "--quiet", "--disable-pip-version-check", "ansible-core==2.19.4"])
                .read_quietly()?;
        }
        let dir = dir.join("peers");
        if dir.exists() {
            std::fs::remove_dir_all(&dir).context("cannot remove what an earlier run left")?;
        }
        files::make_room(&dir.join("x"))?;
        files::set_mode(&dir, 0o700)?;
        let remote = dir.join("remote");
        files::make_room(&remote.join("x"))?;
        // As our servers have it: what each host writes has a place of its own on the disk, where its file system knows how.
        for dir in [&dir, &remote] {
            drop(Program::new(Path::new("chattr")).args(["+T"]).args([dir]).read_quietly());
        }
        for key in ["host", "id"] {
            let keygen = Program::new(Path::new("ssh-keygen"));
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).args([dir.join(key)]).read_quietly()?;
        }
        let public = std::fs::read(dir.join("id.pub"))?;
        files::write(&dir.join("authorized_keys"), 0o600, &public)?;
        let port = free_port()?;
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized_keys\nPidFile none\n\
             UsePAM no\nStrictModes no\nMaxStartups 500\nMaxSessions 500\nPermitRootLogin yes\n\
             Subsystem sftp internal-sftp\n",
            dir.display()
        );
        files::write(&dir.join("sshd_config"), 0o600, config.as_bytes())?;
        // It separates its privileges there.
        files::make_room(Path::new("/run/sshd/x"))?;
        let sshd = Program::new(Path::new("/usr/sbin/sshd"))
            .args(["-D", "-e", "-f"])
            .args([dir.join("sshd_config")]);
        let sshd = sshd.start(&dir.join("sshd.log"))?;
        let peers = Self { dir, port, sshd };
        wait_for("sshd to answer", Duration::from_secs(20), || Ok(peers.ssh("true").is_ok().then_some(())))?;
        Ok(peers)
    }

    /// The process id of the sshd that listens.
    pub(super) fn sshd(&self) -> u32 {
        self.sshd.id()
    }

    fn options(&self) -> Vec<String> {
        let quiet =
            ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes"];
        let mut options = vec!["-i".to_owned(), self.dir.join("id").display().to_string()];
        options.extend(quiet.iter().flat_map(|option| ["-o".to_owned(), (*option).to_owned()]));
        options
    }

    /// Runs a command by ssh.
    pub(super) fn ssh(&self, command: &str) -> anyhow::Result<String> {
        let ssh = Program::new(Path::new("ssh")).args(self.options()).args(["-p", &self.port.to_string()]);
        ssh.args(["root@127.0.0.1", command]).read_quietly()
    }

    /// Copies a file from host to host by way of this machine, and takes its digest at both ends; seconds.
    pub(super) fn scp(&self, from: &Path, to: &Path) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let at = |path: &Path| format!("scp://root@127.0.0.1:{}/{}", self.port, path.display());
        Program::new(Path::new("scp"))
            .args(["-3", "-q"])
            .args(self.options())
            .args([at(from), at(to)])
            .read_quietly()?;
        let digests = [from, to].map(|path| self.ssh(&format!("sha256sum < {}", path.display())));
        let took = begun.elapsed().as_secs_f64();
        let [one, other] = digests;
        anyhow::ensure!(one? == other?, "scp copied something else");
        Ok(took)
    }

    /// An inventory of hosts that are all reached by our sshd; `variables` of each, and the groups it is in.
    pub(super) fn inventory(&self, hosts: &[(String, &[&str], String)]) -> anyhow::Result<PathBuf> {
        let mut text = String::new();
        let groups: std::collections::BTreeSet<&str> =
            hosts.iter().flat_map(|(_, groups, _)| groups.iter().copied()).collect();
        for group in groups {
            let _ = writeln!(text, "[{group}]");
            for (name, _, variables) in hosts.iter().filter(|(_, groups, _)| groups.contains(&group)) {
                let _ = writeln!(
                    text,
                    "{name} ansible_host=127.0.0.1 ansible_port={} ansible_user=root ansible_ssh_private_key_file={} \
                     ansible_remote_tmp={} {variables}",
                    self.port,
                    self.dir.join("id").display(),
                    self.dir.join("remote").join(name).display()
                );
            }
        }
        let path = self.dir.join("hosts.ini");
        files::write(&path, 0o600, text.as_bytes())?;
        Ok(path)
    }

    /// Runs one of Ansible's programs; seconds.
    pub(super) fn ansible(
        &self,
        program: &str,
        inventory: &Path,
        arguments: &[String],
    ) -> anyhow::Result<f64> {
        let home = root().join("deploy/bench/ansible");
        let begun = Instant::now();
        Program::new(&target_dir().join("bench-venv/bin").join(program))
            .env("ANSIBLE_CONFIG", &home.join("ansible.cfg").to_string_lossy())
            .env("ANSIBLE_SSH_CONTROL_PATH_DIR", &self.dir.join("cp").to_string_lossy())
            .env("ANSIBLE_HOME", &self.dir.join("home").to_string_lossy())
            .in_dir(&home)
            .args(["-i"])
            .args([inventory])
            .args(arguments)
            .read_quietly()?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// For what a peer carries.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        drop(self.sshd.kill());
        drop(self.sshd.wait());
    }
}
