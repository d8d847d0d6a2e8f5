//! SHA-256 of files and fingerprints of certificates.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// SHA-256 of some bytes. Text form: 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Computes a [`Digest`] piece by piece.
#[derive(Clone, Default)]
pub struct Digester(sha2::Sha256);

impl Digester {
    /// Takes in the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that was taken in.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// Text or bytes that are not a digest or fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseDigestError {
    /// Not the right number of bytes.
    #[error("{0} bytes where {1} are needed")]
    Length(usize, &'static str),
    /// Not hexadecimal.
    #[error("`{0}` is not hexadecimal")]
    NotHex(String),
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl TryFrom<&[u8]> for Digest {
    type Error = ParseDigestError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self).map_err(|_| ParseDigestError::Length(bytes.len(), "32"))
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .map_err(|_| ParseDigestError::NotHex(text.chars().take(80).collect()))?;
        Self::try_from(bytes.as_slice())
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseDigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// The hash of a certificate's DER by which people know it: SHA-256 wherever the certificate itself could be read,
/// SHA-1 where a program shows nothing else. Text form: upper-case hex without colons; colons and spaces are accepted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Fingerprint {
    /// 32 bytes.
    Sha256([u8; 32]),
    /// 20 bytes.
    Sha1([u8; 20]),
}

impl Fingerprint {
    /// The SHA-256 fingerprint of a certificate, given its DER.
    pub fn sha256_of(der: &[u8]) -> Self {
        Self::Sha256(sha2::Sha256::digest(der).into())
    }

    /// The SHA-1 fingerprint of a certificate, given its DER.
    pub fn sha1_of(der: &[u8]) -> Self {
        Self::Sha1(sha1::Sha1::digest(der).into())
    }

    /// The raw bytes: 32 or 20 of them.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha1(bytes) => bytes,
        }
    }

    /// The first and last ten characters, as the UMS Console shows a UMS ID (UMS_FACTS §2).
    pub fn short(&self) -> String {
        let text = self.to_string();
        format!("{}…{}", &text[..10], &text[text.len() - 10..])
    }
}

impl TryFrom<&[u8]> for Fingerprint {
    type Error = ParseDigestError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        if let Ok(bytes) = bytes.try_into() {
            return Ok(Self::Sha256(bytes));
        }
        bytes.try_into().map(Self::Sha1).map_err(|_| ParseDigestError::Length(bytes.len(), "32 or 20"))
    }
}

impl FromStr for Fingerprint {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain: String = text.chars().filter(|c| !matches!(c, ':' | ' ')).collect();
        let bytes = HEXLOWER_PERMISSIVE
            .decode(plain.as_bytes())
            .map_err(|_| ParseDigestError::NotHex(text.chars().take(120).collect()))?;
        Self::try_from(bytes.as_slice())
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = ParseDigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXUPPER.encode(self.as_bytes()))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({})", self.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_reads_with_and_without_colons_in_any_case() {
        let print = Fingerprint::sha256_of(b"certificate");
        let plain = print.to_string();
        let colons: Vec<_> =
            plain.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).to_lowercase()).collect();
        assert_eq!(plain.parse(), Ok(print));
        assert_eq!(colons.join(":").parse(), Ok(print));
        assert_eq!(print.short().chars().count(), 21);
    }

    #[test]
    fn what_is_not_a_fingerprint_is_refused() {
        assert!("".parse::<Fingerprint>().is_err());
        assert!("12AB".parse::<Fingerprint>().is_err());
        assert!("zz".repeat(32).parse::<Fingerprint>().is_err());
        assert!("é".repeat(32).parse::<Fingerprint>().is_err());
        assert!("00".repeat(31).parse::<Digest>().is_err());
    }

    #[test]
    fn a_digest_by_pieces_is_the_digest_of_the_whole() {
        let mut digester = Digester::default();
        digester.update(b"abc");
        digester.update(b"def");
        assert_eq!(digester.finish(), Digest::of(b"abcdef"));
        assert_eq!(
            Digest::of(b"").to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
