//! Who listens between the agents and `umsadmin-cli`, and so knows which secrets were in play: the passwords of all
//! backups, and the private keys of all UMS IDs. With that everything else can be searched for them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use data_encoding::{BASE64, HEXLOWER, HEXUPPER};
use umsid_common::durable::{self, Access};

use crate::place::Place;

/// Stands before `umsadmin-cli` and notes what is in the password files it is given; and how it and the agent that started it
/// look to everybody who asks the kernel.
const SCRIPT: &str = r#"notes=$1; shift
before=
for argument; do
  # In one write: several are at it at once.
  case $before in --password:file) printf '%s\n' "$(cat "$argument")" >> "$notes";; esac
  before=$argument
done
for process in $$ $PPID; do
  cat /proc/$process/cmdline /proc/$process/environ
done > "$notes.shown.$$" 2>/dev/null
exec "$@"
"#;

/// Puts the eavesdropper before every `umsadmin-cli`, and lets the agents, which it starts again, log everything. `environment`:
/// of the agents.
pub(crate) fn overhear(place: &Place, notes: &Path, environment: &[(&str, &str)]) {
    let script = notes.with_extension("sh");
    durable::replace(&script, SCRIPT.as_bytes(), Access::Private).unwrap();
    for server in place.lab.servers() {
        let path = place.agent_dir(&server.name).join("agent.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let cli = format!("umsadmin_cli = {:?}", server.umsadmin_cli);
        assert!(text.contains(&cli), "{text}");
        let wrapped =
            format!("umsadmin_cli = [\"/bin/sh\", {script:?}, {notes:?}, {:?}]", server.umsadmin_cli);
        let text = text.replace(&cli, &wrapped) + "[log]\nfilter = \"trace\"\n";
        durable::replace(&path, text.as_bytes(), Access::Private).unwrap();
        place.kill_agent(&server.name);
        place.start_agent_with(&server.name, environment);
    }
}

/// What the kernel showed of every call, and of the agent behind it.
pub(crate) fn shown(notes: &Path) -> Vec<Vec<u8>> {
    let directory = notes.parent().expect("the notes are in a directory");
    let of_calls = files(directory).into_iter().filter(|path| path.to_string_lossy().contains(".shown."));
    of_calls.map(|path| std::fs::read(path).unwrap()).collect()
}

/// The secrets that were in play so far.
pub(crate) struct Secrets {
    /// Of backups.
    pub(crate) passwords: BTreeSet<String>,
    /// The middle of every private key of a UMS ID: as in PEM, and as in DER.
    pub(crate) keys: Vec<String>,
    /// What else is one.
    more: Vec<(&'static str, String)>,
    /// The passwords in whatever form.
    forms: Vec<String>,
}

impl Secrets {
    pub(crate) fn gather(place: &Place, notes: &Path) -> Self {
        let passwords: BTreeSet<String> =
            std::fs::read_to_string(notes).unwrap_or_default().lines().map(ToOwned::to_owned).collect();
        let mut keys = Vec::new();
        let homes = place.lab.servers().iter().filter_map(|server| server.install_dir.ancestors().nth(3));
        for file in homes.flat_map(files) {
            let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default()).into_owned();
            for block in text.split("PRIVATE KEY-----\n").skip(1).step_by(2) {
                let body: String = block.lines().take_while(|line| !line.starts_with("-----")).collect();
                let der = BASE64.decode(body.as_bytes()).unwrap();
                // Both begin with 36 bytes that every such key has.
                keys.push(body[48..64].to_owned());
                keys.push(searchable(&der[36..60]));
            }
        }
        let forms = passwords.iter().flat_map(|password| forms(password)).collect();
        Self { passwords, keys, more: Vec::new(), forms }
    }

    /// These bytes are a secret too.
    pub(crate) fn with(mut self, what: &'static str, bytes: &[u8]) -> Self {
        self.more.push((what, searchable(bytes)));
        self
    }

    /// Which of them is in these bytes.
    pub(crate) fn found_in(&self, bytes: &[u8]) -> Option<&'static str> {
        let text = searchable(bytes);
        if self.forms.iter().any(|form| text.contains(form)) {
            return Some("a password");
        }
        if self.keys.iter().any(|key| text.contains(key)) {
            return Some("a private key of a UMS ID");
        }
        self.more.iter().find(|(_, secret)| text.contains(secret)).map(|(what, _)| *what)
    }
}

/// A password as it is, in hex, and in Base64 behind whatever stands before it.
fn forms(password: &str) -> Vec<String> {
    let bytes = password.as_bytes();
    let mut forms = vec![password.to_owned(), HEXLOWER.encode(bytes), HEXUPPER.encode(bytes)];
    for before in 0..3 {
        let all = [&b"--"[..before], bytes].concat();
        let text = BASE64.encode(&all[..all.len() / 3 * 3]);
        // The first characters are of what stands before it too.
        forms.push(text[before.min(1) * 4..].to_owned());
    }
    forms
}

/// A character for every byte: text is searched much faster than bytes.
pub(crate) fn searchable(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// All files below a directory.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}
