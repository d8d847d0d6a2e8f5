//! Names of clusters, servers, sites and callers; ids of runs and operations; the roles certificates carry.
//!
//! Everything here is checked where it comes in, so that what is inside can be used as a file name or a certificate's
//! subject without another look.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name, in bytes.
const LONGEST: usize = 120;

/// Text that is not a name, an id or a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}: {why}")]
pub struct InvalidName {
    what: &'static str,
    text: String,
    why: &'static str,
}

impl InvalidName {
    fn new(what: &'static str, text: &str, why: &'static str) -> Self {
        // What was refused goes into logs and onto terminals: bounded, and without control characters.
        let text = text.chars().take(80).flat_map(char::escape_debug).collect();
        Self { what, text, why }
    }
}

fn check(what: &'static str, text: &str) -> Result<(), InvalidName> {
    let refuse = |why| Err(InvalidName::new(what, text, why));
    if text.is_empty() {
        return refuse("it is empty");
    }
    if text.len() > LONGEST {
        return refuse("it is longer than 120 characters");
    }
    if !text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.')) {
        return refuse("only lower-case letters a-z, digits, `-`, `_` and `.` are allowed");
    }
    let ends_well = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    if !ends_well(text.as_bytes().first()) || !ends_well(text.as_bytes().last()) {
        return refuse("it must begin and end with a letter or digit");
    }
    if text.contains("..") {
        return refuse("two dots in a row are not allowed");
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                check($what, text).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                check($what, &text).map(|()| Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// One UMS installation.
    ClusterName, "cluster name"
}
name! {
    /// A UMS server, within its cluster.
    ServerName, "server name"
}
name! {
    /// Where a server stands.
    SiteName, "site name"
}
name! {
    /// Who calls agents: a coordinator or an observer.
    CallerName, "caller name"
}
name! {
    /// What all certificates of one installation of umsid have in common (SPIFFE's trust domain).
    TrustDomain, "trust domain"
}

/// One execution of a plan: UTC time and six random hex digits, as `20261122t204512-7f3a9c`. Sorts by time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

impl RunId {
    /// A new id for a run that begins at this moment.
    pub fn new(now: jiff::Timestamp) -> Self {
        let random: [u8; 3] = random_bytes();
        Self(format!("{}-{}", now.strftime("%Y%m%dt%H%M%S"), data_encoding::HEXLOWER.encode(&random)))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When it began, to the second, as its id says: texts of this kind sort by time.
    pub fn second(&self) -> &str {
        self.0.split('-').next().unwrap_or_default()
    }
}

impl FromStr for RunId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let shape = "dddddddd\u{74}dddddd-hhhhhh";
        let fits = text.len() == shape.len()
            && text.bytes().zip(shape.bytes()).all(|(b, shape)| match shape {
                b'd' => b.is_ascii_digit(),
                b'h' => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
                literal => b == literal,
            });
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new("run id", text, "a run id looks like 20261122t204512-7f3a9c"))
        }
    }
}

impl TryFrom<String> for RunId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> String {
        id.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One attempt at one step of one run: the same id never has a second effect. As `20261122t204512-7f3a9c.7.1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OperationId {
    /// The run.
    pub run: RunId,
    /// The step's number in the run's plan.
    pub step: u32,
    /// From 1.
    pub attempt: u32,
}

impl FromStr for OperationId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let refuse = || InvalidName::new("operation id", text, "an operation id looks like RUN.STEP.ATTEMPT");
        let number = |text: &str| {
            let canonical = !text.is_empty() && (text == "0" || !text.starts_with('0'));
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            if canonical && digits { text.parse::<u32>().map_err(|_| refuse()) } else { Err(refuse()) }
        };
        let mut parts = text.split('.');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(run), Some(step), Some(attempt), None) => Ok(Self {
                run: run.parse().map_err(|_| refuse())?,
                step: number(step)?,
                attempt: number(attempt)?,
            }),
            _ => Err(refuse()),
        }
    }
}

impl TryFrom<String> for OperationId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<OperationId> for String {
    fn from(id: OperationId) -> String {
        id.to_string()
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.run, self.step, self.attempt)
    }
}

/// Who a certificate says its holder is: a SPIFFE ID, the one URI among its subject alternative names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The installation of umsid.
    pub trust_domain: TrustDomain,
    /// What its holder may be.
    pub role: Role,
}

/// What the holder of a certificate may be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The agent on one server of one cluster.
    Agent {
        /// Its cluster.
        cluster: ClusterName,
        /// Its server.
        server: ServerName,
    },
    /// May change servers.
    Coordinator(CallerName),
    /// May only look.
    Observer(CallerName),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/", self.trust_domain)?;
        match &self.role {
            Role::Agent { cluster, server } => write!(f, "agent/{cluster}/{server}"),
            Role::Coordinator(name) => write!(f, "coordinator/{name}"),
            Role::Observer(name) => write!(f, "observer/{name}"),
        }
    }
}

impl FromStr for Identity {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let refuse = |why| InvalidName::new("identity", text, why);
        let rest =
            text.strip_prefix("spiffe://").ok_or_else(|| refuse("it does not begin with spiffe://"))?;
        let mut parts = rest.split('/');
        let trust_domain = parts.next().unwrap_or_default().parse()?;
        let role = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("agent"), Some(cluster), Some(server), None) => {
                Role::Agent { cluster: cluster.parse()?, server: server.parse()? }
            }
            (Some("coordinator"), Some(name), None, None) => Role::Coordinator(name.parse()?),
            (Some("observer"), Some(name), None, None) => Role::Observer(name.parse()?),
            _ => {
                return Err(refuse(
                    "its path is none of agent/CLUSTER/SERVER, coordinator/NAME, observer/NAME",
                ));
            }
        };
        Ok(Self { trust_domain, role })
    }
}

/// Bytes from the operating system's generator.
///
/// # Panics
/// If the operating system has none to give: nothing secure could follow.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .expect("the operating system gives random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_could_be_paths_or_look_alikes_are_refused() {
        for bad in
            ["", ".", "..", "a..b", "a/b", "a\\b", "-a", "a-", ".a", "a.", "A", "ä", "а", "a\0", "a b", "a\n"]
        {
            assert!(bad.parse::<ServerName>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(121).parse::<ServerName>().is_err());
        for good in ["a", "ums1", "ums-1.example.com", "127.0.0.1", "x_1"] {
            assert!(good.parse::<ServerName>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_and_why_without_control_characters() {
        let error = "a\u{1b}[2J".parse::<ClusterName>().unwrap_err().to_string();
        assert_eq!(
            error,
            "`a\\u{1b}[2J` is no cluster name: only lower-case letters a-z, digits, `-`, `_` and `.` are allowed"
        );
    }

    #[test]
    fn ids_come_back_as_they_went() {
        let run = RunId::new(jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(run.as_str().parse(), Ok(run.clone()));
        let id = OperationId { run, step: 7, attempt: 1 };
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        for bad in [format!("{}.07.1", id.run), format!("{}.7", id.run), format!("{}.7.1.", id.run)] {
            assert!(bad.parse::<OperationId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn roles_come_back_as_they_went_and_nothing_else_is_a_role() {
        for text in ["spiffe://t/agent/c/s", "spiffe://t/coordinator/anna", "spiffe://t/observer/nagios"] {
            assert_eq!(text.parse::<Identity>().map(|identity| identity.to_string()), Ok(text.to_owned()));
        }
        for bad in [
            "http://t/agent/c/s",
            "spiffe://t/agent/c",
            "spiffe://t/agent/c/s/x",
            "spiffe://t/agent/c/",
            "spiffe:///agent/c/s",
            "spiffe://t/root/x",
            "spiffe://t/coordinator/a/b",
            "spiffe://t/coordinator/%61",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic_or_a_name_unsafe(text in "\\PC{0,40}|[a-z./\\\\\0-]{0,12}") {
            if let Ok(name) = text.parse::<ServerName>() {
                prop_assert!(!name.as_str().contains(['/', '\\', '\0']) && !name.as_str().contains(".."));
            }
            let _ = text.parse::<OperationId>();
            if let Ok(identity) = text.parse::<Identity>() {
                prop_assert_eq!(identity.to_string(), text);
            }
        }
    }
}
