//! The certificate authority's key as the database has it: sealed to the administrators' own keys.
//!
//! Whom it is sealed to is written outside, for everybody to read, and inside, where only who has the key could have
//! written it: that is what counts when it is sealed anew, so that nobody adds himself in the database.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use umsid_common::name::CallerName;
use umsid_common::seal::{Recipient, SealKey, open_text, seal_text};
use zeroize::{Zeroize as _, Zeroizing};

use super::{DocumentKey, Name, Shared, SharedError};

/// The key, sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// Whom it is sealed to.
    pub administrators: BTreeMap<CallerName, Recipient>,
    /// An age file, base64.
    sealed: String,
}

/// What is in an envelope.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    administrators: BTreeMap<CallerName, Recipient>,
    key_pem: String,
}

impl Drop for Content {
    fn drop(&mut self) {
        self.key_pem.zeroize();
    }
}

/// An envelope that was opened.
#[derive(Clone)]
pub struct Opened {
    /// Who opened it.
    pub name: CallerName,
    /// All administrators, as who sealed it wrote.
    pub administrators: BTreeMap<CallerName, Recipient>,
    /// The key, PEM.
    pub key_pem: Zeroizing<String>,
}

impl Opened {
    /// What documents are authenticated with.
    pub fn document_key(&self) -> DocumentKey {
        DocumentKey::of(&self.key_pem)
    }
}

impl Envelope {
    /// Seals the key to these administrators.
    pub fn seal(
        key_pem: &Zeroizing<String>,
        administrators: BTreeMap<CallerName, Recipient>,
    ) -> Result<Self, SharedError> {
        let content = Content { administrators: administrators.clone(), key_pem: key_pem.to_string() };
        let text = serde_json::to_string(&content).map(Zeroizing::new).expect("it is plain data");
        let recipients: Vec<Recipient> = administrators.values().cloned().collect();
        let sealed = BASE64.encode(&seal_text(text.as_bytes(), &recipients)?);
        Ok(Self { administrators, sealed })
    }

    /// From what the database has.
    pub fn read(shared: &Shared, text: &str) -> Result<Self, SharedError> {
        serde_json::from_str(text).map_err(|error| shared.unusable_key(error.to_string()))
    }

    /// As the database has it.
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).expect("it is plain data")
    }

    /// Opens it with this administrator's own key.
    ///
    /// # Errors
    /// [`SharedError::NoAdministrator`] if it is not sealed to that; [`SharedError::Unusable`] if it was tampered with.
    pub fn open(&self, shared: &Shared, own: &SealKey, called: &CallerName) -> Result<Opened, SharedError> {
        let recipient = own.recipient();
        let Some((name, _)) = self.administrators.iter().find(|(_, known)| **known == recipient) else {
            let known = self.administrators.keys().map(CallerName::as_str).collect::<Vec<_>>().join(", ");
            let (url, name) = (shared.url.clone(), called.clone());
            return Err(SharedError::NoAdministrator { url, recipient, known, name });
        };
        let unusable = |why: &str| shared.unusable_key(why.to_owned());
        let sealed = BASE64.decode(self.sealed.as_bytes()).map_err(|_| unusable("it is not base64"))?;
        let text = open_text(&sealed, own).map_err(|error| shared.unusable_key(error.to_string()))?;
        let mut content: Content =
            serde_json::from_slice(&text).map_err(|_| unusable("what is sealed is not what should be"))?;
        if content.administrators != self.administrators {
            return Err(unusable(
                "it names other administrators than who sealed it wrote: somebody altered it",
            ));
        }
        let key_pem = Zeroizing::new(std::mem::take(&mut content.key_pem));
        Ok(Opened { name: name.clone(), administrators: self.administrators.clone(), key_pem })
    }
}

impl Shared {
    fn unusable_key(&self, why: String) -> SharedError {
        SharedError::Unusable { url: self.url.clone(), name: Name::Key, why }
    }
}
