//! That a document was written by an administrator: the database alone is not believed.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{Document, Name};

/// What documents are authenticated with: made of the authority's key, which administrators have and the database has not.
#[derive(Clone)]
pub struct DocumentKey(Zeroizing<[u8; 32]>);

impl DocumentKey {
    /// The one that belongs to this key of the authority, PEM, whatever system's ends of lines it has.
    pub fn of(key_pem: &str) -> Self {
        let mut digest = Sha256::new_with_prefix(b"umsid documents\n");
        key_pem.trim().split('\r').for_each(|part| digest.update(part.as_bytes()));
        Self(Zeroizing::new(digest.finalize().into()))
    }

    fn over(&self, name: Name, document: &Document) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&*self.0).expect("any length does");
        let Document { version, by, at, body, mac: _ } = document;
        mac.update(format!("{name}\n{version}\n{by}\n{at}\n{body}").as_bytes());
        mac
    }

    /// HMAC-SHA256 over name, version, writer, time and text; hexadecimal.
    pub fn mac(&self, name: Name, document: &Document) -> String {
        data_encoding::HEXLOWER.encode(&self.over(name, document).finalize().into_bytes())
    }

    /// Whether an administrator wrote it, as this document and this version of it.
    pub(super) fn is_of(&self, name: Name, document: &Document) -> bool {
        let mac = data_encoding::HEXLOWER.decode(document.mac.as_bytes()).unwrap_or_default();
        self.over(name, document).verify_slice(&mac).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_altered_is_not_believed() {
        let key = DocumentKey::of("a key\n");
        let mut good = Document {
            version: 7,
            by: "anna".into(),
            at: "2026-11-22T10:00:00Z".into(),
            body: "all".into(),
            mac: String::new(),
        };
        good.mac = key.mac(Name::Inventory, &good);
        assert!(key.is_of(Name::Inventory, &good) && DocumentKey::of("a key").is_of(Name::Inventory, &good));
        let altered = [
            Document { version: 8, ..good.clone() },
            Document { by: "bert".into(), ..good.clone() },
            Document { at: "2026-11-22T10:00:01Z".into(), ..good.clone() },
            Document { body: "al".into(), ..good.clone() },
            Document { mac: String::new(), ..good.clone() },
        ];
        for document in altered {
            assert!(!key.is_of(Name::Inventory, &document), "{document:?}");
        }
        assert!(!key.is_of(Name::Register, &good), "one document for another");
        assert!(!DocumentKey::of("another key").is_of(Name::Inventory, &good));
    }

    #[test]
    fn a_key_is_the_same_on_every_system() {
        let document = Document {
            version: 1,
            by: String::new(),
            at: String::new(),
            body: String::new(),
            mac: String::new(),
        };
        let mac = |pem: &str| DocumentKey::of(pem).mac(Name::Key, &document);
        assert_eq!(mac("one\r\ntwo\r\n"), mac("one\ntwo\n"));
        assert_ne!(mac("one\ntwo\n"), mac("onetwo\n"));
    }
}
