//! Which server is Main, and who is in sync with it: a pure function of a survey.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use umsid_common::digest::Fingerprint;
use umsid_common::name::ServerName;
use umsid_proto::model::{EvidenceSource, UmsIds};

use super::{Report, Survey};

/// Whether a server's UMS ID is the Main one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyncState {
    /// It is the Main server.
    Main,
    /// It holds the Main UMS ID.
    InSync,
    /// It holds another.
    NotInSync,
    /// The evidence does not settle it, or there is none.
    Unknown,
}

impl fmt::Display for SyncState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Main => "main",
            Self::InSync => "in-sync",
            Self::NotInSync => "not-in-sync",
            Self::Unknown => "unknown",
        })
    }
}

/// What is said of one server, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The verdict.
    pub state: SyncState,
    /// The server's own UMS ID, where the evidence settles it.
    pub fingerprint: Option<Fingerprint>,
    /// How it was found out, one sentence.
    pub evidence: String,
}

/// The Main server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MainServer {
    /// Which.
    pub server: ServerName,
    /// The Main UMS ID; `None`: the server was named, but no output tells a fingerprint.
    pub fingerprint: Option<Fingerprint>,
    /// Whether labelled evidence settles the fingerprint; otherwise it is only the one this server shows.
    pub settled: bool,
    /// How it was found, one sentence.
    pub evidence: String,
}

/// Why there is no Main server to go by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MainTrouble {
    /// Servers call different UMS IDs Main.
    #[error("servers call different UMS IDs Main: {0}")]
    Several(String),
    /// A UMS ID is called Main, but no server that answered holds it.
    #[error("{0} is called the Main UMS ID, but no server that answered holds it")]
    NoHolder(String),
    /// No server could say which UMS ID is Main.
    #[error("no server could say which UMS ID is Main")]
    NobodyKnows,
    /// The server named as Main is not in this cluster.
    #[error("{0} was named as the Main server, but is not in this cluster")]
    NotHere(ServerName),
    /// The server named as Main did not answer.
    #[error("{0} was named as the Main server, but did not answer")]
    Silent(ServerName),
    /// Evidence against what was named.
    #[error("{0}")]
    Contradicted(String),
}

impl MainTrouble {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Several(_) => {
                "look in the UMS Console (UMS Administration > Global Configuration > UMS ID) which server reads \
                 `Main UMS ID`, and name it with its fingerprint: --main SERVER --main-fingerprint FINGERPRINT"
            }
            Self::NoHolder(_) => {
                "the Main server may be one that did not answer, or is missing in the inventory: see `umsid status`"
            }
            Self::NobodyKnows => {
                "look in the UMS Console (UMS Administration > Global Configuration > UMS ID) which server reads \
                 `Main UMS ID`, and name it: --main SERVER; then name the servers to synchronize: --only SERVER"
            }
            Self::NotHere(_) => {
                "`umsid servers` lists the servers; correct --main, or `main` in inventory.toml"
            }
            Self::Silent(_) => "nothing can be synchronized without it: see `umsid status`",
            Self::Contradicted(_) => {
                "nothing was changed; look in the UMS Console which server reads `Main UMS ID`, then correct \
                 `main` and `main_fingerprint` in inventory.toml, or --main and --main-fingerprint"
            }
        }
    }
}

/// What people or earlier runs say about Main.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The server: by `--main`, or the inventory.
    pub server: Option<ServerName>,
    /// The fingerprint: by `--main-fingerprint`, or the inventory. Wins over what servers claim.
    pub fingerprint: Option<Fingerprint>,
    /// The Main server of the last run; used only to tell Main from servers that hold the same UMS ID.
    pub remembered: Option<ServerName>,
}

/// A survey understood.
#[derive(Clone, Debug)]
pub struct Assessment {
    /// The Main server, or why there is none to go by.
    pub main: Result<MainServer, MainTrouble>,
    /// A verdict for every server of the inventory.
    pub servers: BTreeMap<ServerName, Verdict>,
}

impl Assessment {
    /// Whether every server is known to hold the Main UMS ID.
    pub fn all_in_sync(&self) -> bool {
        self.main.is_ok()
            && !self.servers.is_empty()
            && self
                .servers
                .values()
                .all(|verdict| matches!(verdict.state, SyncState::Main | SyncState::InSync))
    }
}

/// What one server says, by the fingerprints its certificates are known by in this survey.
struct Claims {
    local: Option<Fingerprint>,
    main: Option<Fingerprint>,
    shown: BTreeSet<Fingerprint>,
    reason: String,
    restart_due: bool,
}

/// The fingerprints a server shows of itself, labelled or not, by the name they are known by in this survey.
pub(super) fn shown(survey: &Survey, ids: &UmsIds) -> BTreeSet<Fingerprint> {
    ids.evidence
        .iter()
        .filter(|evidence| evidence.subject.is_empty() || evidence.source == EvidenceSource::Export)
        .map(|evidence| survey.canonical(evidence.fingerprint))
        .collect()
}

fn claims(survey: &Survey, report: &Report) -> Claims {
    let ids = &report.inspection.ums_ids;
    Claims {
        local: ids.local.map(|print| survey.canonical(print)),
        main: ids.main.map(|print| survey.canonical(print)),
        shown: shown(survey, ids),
        reason: ids.reason.clone(),
        restart_due: report.inspection.restart_due,
    }
}

/// Two fingerprints of the same algorithm can differ; a SHA-1 and a SHA-256 can only be told apart by the certificate.
fn differ(one: Fingerprint, other: Fingerprint) -> bool {
    one != other && one.as_bytes().len() == other.as_bytes().len()
}

/// Finds the Main server and gives a verdict for every server.
pub fn assess(survey: &Survey, named: &Named) -> Assessment {
    let claims: BTreeMap<&ServerName, Claims> = survey
        .servers
        .iter()
        .filter_map(|(server, answer)| Some((server, claims(survey, answer.report.as_ref().ok()?))))
        .collect();
    let main = find_main(survey, &claims, named);
    let servers = survey
        .servers
        .iter()
        .map(|(server, answer)| {
            let verdict = match (&answer.report, claims.get(server)) {
                (Ok(_), Some(claims)) => judge(server, claims, &main),
                (Err(silence), _) => unknown(None, format!("no answer: {}", silence.causes.join(": "))),
                (Ok(_), None) => unknown(None, "no claims".to_owned()),
            };
            (server.clone(), verdict)
        })
        .collect();
    Assessment { main, servers }
}

fn unknown(fingerprint: Option<Fingerprint>, evidence: String) -> Verdict {
    Verdict { state: SyncState::Unknown, fingerprint, evidence }
}

fn judge(server: &ServerName, claims: &Claims, main: &Result<MainServer, MainTrouble>) -> Verdict {
    let fingerprint = claims.local;
    let main = match main {
        Ok(main) => main,
        Err(_) if claims.local.is_none() => return unknown(None, claims.reason.clone()),
        Err(trouble) => return unknown(fingerprint, trouble.to_string()),
    };
    if main.server == *server {
        return Verdict {
            state: SyncState::Main,
            fingerprint: fingerprint.or(main.fingerprint),
            evidence: main.evidence.clone(),
        };
    }
    let (Some(local), Some(wanted)) = (claims.local, main.fingerprint) else {
        return unknown(fingerprint, claims.reason.clone());
    };
    if differ(local, wanted) {
        let evidence = format!("its own UMS ID is {}, Main is {}", local.short(), wanted.short());
        return Verdict { state: SyncState::NotInSync, fingerprint, evidence };
    }
    if local != wanted {
        let evidence = "it shows a SHA-1 and Main a SHA-256 fingerprint: they cannot be compared".to_owned();
        return unknown(fingerprint, evidence);
    }
    if !main.settled {
        return unknown(fingerprint, format!("it shows the same UMS ID as {}, by no label", main.server));
    }
    match claims.main {
        Some(other) if differ(other, wanted) => Verdict {
            state: SyncState::NotInSync,
            fingerprint,
            evidence: format!("it holds the Main UMS ID, but takes {} for Main", other.short()),
        },
        // The UMS reads its ID at start (UMS_FACTS §1, step 6).
        _ if claims.restart_due => Verdict {
            state: SyncState::NotInSync,
            fingerprint,
            evidence: "the Main UMS ID was restored, but its UMS Server has not been restarted since"
                .to_owned(),
        },
        _ => Verdict {
            state: SyncState::InSync,
            fingerprint,
            evidence: format!("its own UMS ID is the Main one ({})", claims.reason),
        },
    }
}

fn find_main(
    survey: &Survey,
    claims: &BTreeMap<&ServerName, Claims>,
    named: &Named,
) -> Result<MainServer, MainTrouble> {
    let pinned = named.fingerprint.map(|print| survey.canonical(print));
    if let Some(server) = &named.server {
        return named_main(survey, claims, server, pinned);
    }
    let called: BTreeSet<Fingerprint> = claims.values().filter_map(|claims| claims.main).collect();
    let fingerprint = match (pinned, called.len()) {
        (Some(pinned), _) => pinned,
        (None, 0) => return Err(MainTrouble::NobodyKnows),
        (None, 1) => called.first().copied().ok_or(MainTrouble::NobodyKnows)?,
        (None, _) => return Err(MainTrouble::Several(who_says_what(claims))),
    };
    let holders: Vec<&ServerName> = claims
        .iter()
        .filter(|(_, claims)| claims.local == Some(fingerprint))
        .map(|(server, _)| *server)
        .collect();
    let server = match named.remembered.as_ref().filter(|server| holders.contains(server)) {
        Some(remembered) => remembered,
        None => *holders.first().ok_or_else(|| MainTrouble::NoHolder(fingerprint.to_string()))?,
    };
    let others: Vec<String> =
        holders.iter().filter(|holder| **holder != server).map(ToString::to_string).collect();
    let evidence = match (others.is_empty(), pinned.is_some()) {
        (true, false) => "its own UMS ID is what every server that can tell calls Main".to_owned(),
        (true, true) => "it alone holds the UMS ID that was named as Main".to_owned(),
        (false, _) => format!("it holds the Main UMS ID, as do {}", others.join(", ")),
    };
    Ok(MainServer { server: server.clone(), fingerprint: Some(fingerprint), settled: true, evidence })
}

fn named_main(
    survey: &Survey,
    claims: &BTreeMap<&ServerName, Claims>,
    server: &ServerName,
    pinned: Option<Fingerprint>,
) -> Result<MainServer, MainTrouble> {
    if !survey.servers.contains_key(server) {
        return Err(MainTrouble::NotHere(server.clone()));
    }
    let own = claims.get(server).ok_or_else(|| MainTrouble::Silent(server.clone()))?;
    let single = || own.shown.first().copied().filter(|_| own.shown.len() == 1);
    let (fingerprint, settled) = match (own.local, pinned) {
        (Some(local), Some(pinned)) if differ(local, pinned) => {
            return Err(MainTrouble::Contradicted(format!(
                "{server} was named as the Main server with UMS ID {}, but its own UMS ID is {}",
                pinned.short(),
                local.short()
            )));
        }
        (Some(local), _) => (Some(local), true),
        (None, Some(pinned)) if own.shown.contains(&pinned) => (Some(pinned), false),
        (None, Some(pinned))
            if own.shown.iter().all(|print| differ(*print, pinned)) && !own.shown.is_empty() =>
        {
            return Err(MainTrouble::Contradicted(format!(
                "{server} was named as the Main server with UMS ID {}, but shows none such",
                pinned.short()
            )));
        }
        (None, Some(pinned)) => (Some(pinned), false),
        (None, None) => (single(), false),
    };
    // Whoever gave the fingerprint has settled what servers may disagree about.
    if let (Some(fingerprint), None) = (fingerprint, pinned) {
        let against: Vec<String> = claims
            .iter()
            .filter_map(|(who, claims)| {
                let other = claims.main.filter(|main| differ(*main, fingerprint))?;
                Some(format!("{who} takes {} for Main", other.short()))
            })
            .collect();
        if !against.is_empty() {
            return Err(MainTrouble::Contradicted(format!(
                "{server} was named as the Main server, its own UMS ID is {}, but {}",
                fingerprint.short(),
                against.join(", ")
            )));
        }
    }
    let evidence = match (settled, fingerprint) {
        (true, _) => "named as the Main server".to_owned(),
        (false, Some(_)) => format!("named as the Main server; its UMS ID carries no label ({})", own.reason),
        (false, None) => format!("named as the Main server; its UMS ID is not known ({})", own.reason),
    };
    Ok(MainServer { server: server.clone(), fingerprint, settled, evidence })
}

fn who_says_what(claims: &BTreeMap<&ServerName, Claims>) -> String {
    let says: Vec<String> = claims
        .iter()
        .filter_map(|(server, claims)| Some(format!("{server} says {}", claims.main?.short())))
        .collect();
    says.join(", ")
}
