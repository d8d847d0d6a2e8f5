//! Records each of which carries the hash of the one before, so that nothing can be taken out or changed unseen.

use crate::digest::{Digest, Digester};
use crate::name::RunId;

/// The link before the first record.
pub fn genesis() -> Digest {
    Digest::from([0; 32])
}

/// The link of a record: SHA-256 over the previous link, the record's number (eight bytes, big-endian) and its body.
pub fn link(previous: &Digest, number: u64, body: &[u8]) -> Digest {
    let mut digester = Digester::default();
    digester.update(previous.as_bytes());
    digester.update(&number.to_be_bytes());
    digester.update(body);
    digester.finish()
}

/// What is signed to vouch for a record of a run's journal, and with it for all before.
pub fn vouched(run: &RunId, number: u64, link: &Digest) -> Vec<u8> {
    format!("umsid journal\n{run}\n{number}\n{link}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_body_number_or_predecessor_gives_another_link() {
        let link_of = |previous, number, body: &str| link(&previous, number, body.as_bytes());
        let first = link_of(genesis(), 1, "one");
        assert_ne!(first, link_of(genesis(), 2, "one"));
        assert_ne!(first, link_of(genesis(), 1, "two"));
        assert_ne!(first, link_of(first, 1, "one"));
    }
}
