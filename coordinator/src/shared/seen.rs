//! What a directory has seen of shared state: that it does not go back, and which copy is ours.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use umsid_common::durable::{self, Access};

use super::{Document, Name, Shared, SharedError};

/// `documents.seen` of the state directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Seen {
    /// The newest version of each document.
    versions: BTreeMap<String, u64>,
    /// SHA-256 of the copy of the inventory, hexadecimal.
    inventory: String,
}

impl Seen {
    /// One that cannot be read is none: it protects, and must not stand in the way.
    pub(super) fn load(shared: &Shared) -> Result<Self, SharedError> {
        let bytes = durable::read_optional(&shared.home.documents_seen_path())?.unwrap_or_default();
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
    }

    pub(super) fn save(&self, shared: &Shared) -> Result<(), SharedError> {
        let text = serde_json::to_string(self).expect("it is plain data");
        Ok(durable::replace(&shared.home.documents_seen_path(), text.as_bytes(), Access::Private)?)
    }

    /// Remembers what was written from here.
    pub(super) fn written(shared: &Shared, name: Name, document: &Document) -> Result<(), SharedError> {
        let mut seen = Self::load(shared)?;
        seen.takes(name, document);
        if name == Name::Inventory {
            seen.note(document.body.as_bytes());
        }
        seen.save(shared)
    }

    /// What both have seen; the copy of the inventory is that of the other.
    pub(super) fn and(mut self, other: Self) -> Self {
        for (name, version) in other.versions {
            let seen = self.versions.entry(name).or_default();
            *seen = version.max(*seen);
        }
        Self { inventory: other.inventory, ..self }
    }

    /// Takes in a version; `false`: a newer one was seen before.
    pub(super) fn takes(&mut self, name: Name, document: &Document) -> bool {
        let seen = self.versions.entry(name.to_string()).or_default();
        if *seen > document.version {
            return false;
        }
        *seen = document.version;
        true
    }

    /// Whether this copy of the inventory was written by us; before there was any, that is not known.
    pub(super) fn is_ours(&self, copy: &[u8]) -> bool {
        self.inventory.is_empty() || self.inventory == digest(copy)
    }

    /// From now on this one is.
    pub(super) fn note(&mut self, copy: &[u8]) {
        self.inventory = digest(copy);
    }
}

fn digest(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}
