//! Everything that comes in as a name, an id, a digest or a recipient.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use umsid_agent::peer::{Verb, may};
use umsid_common::digest::{Digest, Fingerprint};
use umsid_common::name::{
    ClusterName, Identity, OperationId, Role, RunId, ServerName, SiteName, TrustDomain,
};
use umsid_common::seal::Recipient;

/// One value has one text, and JSON holds nothing the parser would refuse.
fn canonical<T>(text: &str) -> Option<String>
where
    T: FromStr + Display + PartialEq + Debug + Serialize + DeserializeOwned,
{
    let value: Option<T> = text.parse().ok();
    let json = serde_json::to_string(text).expect("text");
    assert_eq!(serde_json::from_str::<T>(&json).ok(), value, "JSON and text must agree");
    let value = value?;
    let written = value.to_string();
    assert_eq!(written.parse().ok(), Some(value));
    Some(written)
}

/// Good as a file name on every system.
fn harmless(name: &str) {
    assert!(!name.is_empty() && name.len() <= 200, "{name}");
    assert!(!name.starts_with(['.', '-']) && !name.contains(".."), "{name}");
    assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')), "{name}");
}

fuzz_target!(|text: &str| {
    let names = [
        canonical::<ClusterName>(text),
        canonical::<ServerName>(text),
        canonical::<SiteName>(text),
        canonical::<TrustDomain>(text),
        canonical::<RunId>(text),
        canonical::<OperationId>(text),
        canonical::<Digest>(text),
        canonical::<Recipient>(text),
    ];
    for name in names.iter().flatten() {
        harmless(name);
    }
    let _ = canonical::<Fingerprint>(text);
    if let Ok(identity) = text.parse::<Identity>() {
        assert_eq!(identity.to_string(), text, "an identity has one text");
        let everything = may(&identity.role, Verb::StartOperation);
        assert_eq!(everything, matches!(identity.role, Role::Coordinator(_)));
    }
    let _ = Verb::of_path(text);
});
