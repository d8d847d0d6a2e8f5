//! How two sides that know a secret prove it to each other during enrolment: by pairing code or join file.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::digest::Digest;
use crate::name::{ClusterName, ServerName, TrustDomain, random_bytes};

/// Bytes of the certificate's hash in a pairing code.
const PIN: usize = 16;
/// Bytes of its secret.
const ONE_TIME: usize = 10;
/// Bytes that tell a slip of the pen.
const CHECK: usize = 4;
/// Characters between two dashes: a code has eight such groups.
const GROUP: usize = 6;

/// Crockford's base32: upper-case, without I, L, O, U; what is easily taken for another character is taken as that.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str("0123456789ABCDEFGHJKMNPQRSTVWXYZ");
    specification.translate.from.push_str("abcdefghjkmnpqrstvwxyzOoIiLl");
    specification.translate.to.push_str("ABCDEFGHJKMNPQRSTVWXYZ001111");
    specification.encoding().expect("32 symbols, each translated once")
});

/// What both sides know.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// What an agent prints and a person carries over: the first half of the hash of the certificate it will present, and a
/// one-time secret of 80 bits, with a checksum, in groups of base32.
pub struct PairingCode {
    /// First 16 bytes of the SHA-256 of the agent's self-signed certificate.
    pub certificate: [u8; PIN],
    /// One-time.
    pub secret: Secret,
}

impl PairingCode {
    /// A new code for this certificate.
    pub fn generate(certificate: &Digest) -> Self {
        let pin = certificate.as_bytes().first_chunk().expect("a digest is longer than its first half");
        Self { certificate: *pin, secret: Secret(Zeroizing::new(random_bytes::<ONE_TIME>().to_vec())) }
    }

    /// The code as a person copies it: eight groups of six characters with dashes between them.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([self.certificate.as_slice(), &self.secret.0].concat());
        let check = checksum(&bytes);
        bytes.extend(check);
        let plain = Zeroizing::new(BASE32.encode(&bytes));
        let mut text = Zeroizing::new(String::with_capacity(plain.len() + plain.len() / GROUP));
        for (at, character) in plain.chars().enumerate() {
            if at > 0 && at % GROUP == 0 {
                text.push('-');
            }
            text.push(character);
        }
        text
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECK] {
    *Digest::of(bytes).as_bytes().first_chunk().expect("a digest is longer than a checksum")
}

/// Text that is not a pairing code or secret. Does not repeat it: most of it may be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no pairing code: {0}")]
pub struct InvalidCode(String);

/// So many bytes. Case, spaces and dashes do not matter.
fn decode(text: &str, bytes: usize) -> Result<Zeroizing<Vec<u8>>, InvalidCode> {
    let is_between = |c: char| c.is_whitespace() || matches!(c, '-' | '\u{2010}'..='\u{2015}');
    let plain = Zeroizing::new(text.chars().filter(|c| !is_between(*c)).collect::<String>());
    if let Some(stranger) = plain.chars().find(|c| !c.is_ascii_alphanumeric() || matches!(c, 'U' | 'u')) {
        return Err(InvalidCode(format!(
            "`{}` is not among the characters of a code",
            stranger.escape_debug()
        )));
    }
    let (has, needed) = (plain.len(), (bytes * 8).div_ceil(5));
    if has != needed {
        return Err(InvalidCode(format!("it has {has} characters, not dashes, where {needed} are needed")));
    }
    let decoded = BASE32.decode(plain.as_bytes()).map(Zeroizing::new);
    decoded.map_err(|_| InvalidCode("its last character is wrong".into()))
}

impl FromStr for PairingCode {
    type Err = InvalidCode;

    fn from_str(text: &str) -> Result<Self, InvalidCode> {
        let bytes = decode(text, PIN + ONE_TIME + CHECK)?;
        let (body, check) = bytes.split_at(PIN + ONE_TIME);
        if checksum(body) != check {
            return Err(InvalidCode(
                "its checksum does not fit: a character is wrong or two are swapped".into(),
            ));
        }
        let (certificate, secret) = body.split_first_chunk().expect("its length was checked");
        Ok(Self { certificate: *certificate, secret: Secret(Zeroizing::new(secret.to_vec())) })
    }
}

/// What is enrolled as what, under which anchors.
pub struct Terms<'a> {
    /// SHA-256 of the certificate the agent presents on this connection.
    pub certificate: Digest,
    /// PEM.
    pub anchors_pem: &'a str,
    /// The installation of umsid.
    pub trust_domain: &'a TrustDomain,
    /// Its cluster.
    pub cluster: &'a ClusterName,
    /// Its name.
    pub server: &'a ServerName,
}

/// What the proofs are about, so that none can be taken for another.
const TERMS: &str = "umsid enrolment, coordinator";
const REQUEST: &str = "umsid enrolment, agent";
const ISSUED: &str = "umsid enrolment, issued";

impl Secret {
    /// A new secret of 256 bits.
    pub fn generate() -> Self {
        Self(Zeroizing::new(random_bytes::<32>().to_vec()))
    }

    /// SHA-256 of the secret, to recognise it by.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0)
    }

    /// The coordinator's proof that it knows the secret and means these terms.
    pub fn prove_terms(&self, terms: &Terms<'_>) -> [u8; 32] {
        self.mac_terms(terms).finalize().into_bytes().into()
    }

    /// Whether this is the coordinator's proof; in constant time.
    pub fn check_terms(&self, terms: &Terms<'_>, proof: &[u8]) -> bool {
        self.mac_terms(terms).verify_slice(proof).is_ok()
    }

    /// The agent's proof that it knows the secret and made this request.
    pub fn prove_request(&self, certificate: &Digest, csr: &[u8], recipient: &str) -> [u8; 32] {
        self.mac_request(certificate, csr, recipient).finalize().into_bytes().into()
    }

    /// Whether this is the agent's proof; in constant time.
    pub fn check_request(&self, certificate: &Digest, csr: &[u8], recipient: &str, proof: &[u8]) -> bool {
        self.mac_request(certificate, csr, recipient).verify_slice(proof).is_ok()
    }

    /// The coordinator's proof over the certificate it issued.
    pub fn prove_issued(&self, certificate_pem: &str, crls_pem: &str) -> [u8; 32] {
        self.mac_issued(certificate_pem, crls_pem).finalize().into_bytes().into()
    }

    /// Whether this is the coordinator's proof; in constant time.
    pub fn check_issued(&self, certificate_pem: &str, crls_pem: &str, proof: &[u8]) -> bool {
        self.mac_issued(certificate_pem, crls_pem).verify_slice(proof).is_ok()
    }

    fn mac_terms(&self, terms: &Terms<'_>) -> Hmac<Sha256> {
        self.mac(&[
            TERMS.as_bytes(),
            terms.certificate.as_bytes(),
            Digest::of(terms.anchors_pem.as_bytes()).as_bytes(),
            terms.trust_domain.as_str().as_bytes(),
            terms.cluster.as_str().as_bytes(),
            terms.server.as_str().as_bytes(),
        ])
    }

    fn mac_request(&self, certificate: &Digest, csr: &[u8], recipient: &str) -> Hmac<Sha256> {
        let csr = Digest::of(csr);
        self.mac(&[REQUEST.as_bytes(), certificate.as_bytes(), csr.as_bytes(), recipient.as_bytes()])
    }

    fn mac_issued(&self, certificate_pem: &str, crls_pem: &str) -> Hmac<Sha256> {
        let [certificate, crls] = [certificate_pem, crls_pem].map(|pem| Digest::of(pem.as_bytes()));
        self.mac(&[ISSUED.as_bytes(), certificate.as_bytes(), crls.as_bytes()])
    }

    /// Over the fields, each behind its length: nothing can slip from one into the next.
    fn mac(&self, fields: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of every length");
        for field in fields {
            mac.update(&(field.len() as u64).to_be_bytes());
            mac.update(field);
        }
        mac
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The file that lets one server join without anybody at its console. TOML.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinFile {
    /// The installation of umsid.
    pub trust_domain: TrustDomain,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name: this file is good for no other.
    pub server: ServerName,
    /// End of its use.
    pub expires: Timestamp,
    /// Base32, 32 bytes.
    #[serde(with = "secret_as_text")]
    secret: Secret,
}

impl JoinFile {
    /// A new file for one server.
    pub fn new(
        trust_domain: TrustDomain,
        cluster: ClusterName,
        server: ServerName,
        expires: Timestamp,
    ) -> Self {
        Self { trust_domain, cluster, server, expires, secret: Secret::generate() }
    }

    /// The secret in it.
    ///
    /// # Errors
    /// None: what is no secret is refused when the file is read.
    pub fn secret(&self) -> Result<Secret, InvalidCode> {
        Ok(self.secret.clone())
    }
}

mod secret_as_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use zeroize::Zeroizing;

    use super::{BASE32, Secret, decode};

    pub(super) fn serialize<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(BASE32.encode(&secret.0)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let secret = decode(&text, 32).map(Secret);
        secret.map_err(|_| D::Error::custom("the secret is not 52 characters of base32"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn terms<'a>(
        certificate: &[u8],
        anchors_pem: &'a str,
        names: &'a (TrustDomain, ClusterName, ServerName),
    ) -> Terms<'a> {
        let certificate = Digest::of(certificate);
        Terms { certificate, anchors_pem, trust_domain: &names.0, cluster: &names.1, server: &names.2 }
    }

    fn names(trust_domain: &str, cluster: &str, server: &str) -> (TrustDomain, ClusterName, ServerName) {
        (trust_domain.parse().unwrap(), cluster.parse().unwrap(), server.parse().unwrap())
    }

    #[test]
    fn a_code_comes_back_as_it_went_however_it_is_typed() {
        let certificate = Digest::of(b"certificate");
        let code = PairingCode::generate(&certificate);
        let text = code.to_text();
        assert_eq!((text.len(), text.matches('-').count()), (55, 7));
        for typed in [
            text.to_string(),
            text.to_lowercase(),
            text.replace('-', ""),
            text.replace('-', " "),
            text.replace('-', "–"),
            text.replace('0', "O").replace('1', "l"),
            format!("  {} \n", *text),
        ] {
            let read = typed.parse::<PairingCode>().ok().unwrap_or_else(|| panic!("{typed}"));
            assert_eq!(read.certificate, certificate.as_bytes()[..16]);
            assert_eq!(*read.secret.0, *code.secret.0);
        }
        assert_ne!(*PairingCode::generate(&certificate).to_text(), *text, "the secret is a new one");
    }

    #[test]
    fn a_slip_of_the_pen_is_told_and_the_code_not_repeated() {
        let text = PairingCode::generate(&Digest::of(b"certificate")).to_text();
        let refusal =
            |typed: &str| typed.parse::<PairingCode>().err().unwrap_or_else(|| panic!("{typed}")).to_string();
        for at in (0..text.len()).filter(|at| text.as_bytes()[*at] != b'-') {
            let mut typed = text.to_string();
            let other = if text.as_bytes()[at] == b'7' { "8" } else { "7" };
            typed.replace_range(at..=at, other);
            let refusal = refusal(&typed);
            assert!(refusal.contains("checksum does not fit"), "{refusal}");
            assert!(!refusal.contains(&text[..6]));
        }
        assert!(refusal(&text[1..]).contains("it has 47 characters, not dashes, where 48 are needed"));
        assert!(refusal("").contains("where 48 are needed"));
        assert!(refusal("abc!").contains("`!`"));
        assert!(refusal("U").contains("`U`"));
    }

    #[test]
    fn a_proof_is_good_only_with_the_same_secret_and_the_same_terms() {
        let secret = Secret::generate();
        let names_of = names("t", "cluster", "server");
        let proof = secret.prove_terms(&terms(b"cert", "anchors", &names_of));
        assert!(secret.check_terms(&terms(b"cert", "anchors", &names_of), &proof));

        let check = |certificate: &[u8], anchors, names: &_, proof: &[u8]| {
            secret.check_terms(&terms(certificate, anchors, names), proof)
        };
        assert!(
            !Secret::generate().check_terms(&terms(b"cert", "anchors", &names_of), &proof),
            "another secret"
        );
        assert!(!check(b"mitm", "anchors", &names_of, &proof), "another certificate on the line");
        assert!(!check(b"cert", "others", &names_of, &proof));
        for other in [
            names("u", "cluster", "server"),
            names("t", "clusters", "erver"),
            names("t", "cluster", "server2"),
        ] {
            assert!(!check(b"cert", "anchors", &other, &proof), "{other:?}");
        }
        assert!(!check(b"cert", "anchors", &names_of, &proof[..31]));
        assert!(!check(b"cert", "anchors", &names_of, &[]));
    }

    #[test]
    fn proofs_of_one_kind_are_none_of_another() {
        let (secret, certificate) = (Secret::generate(), Digest::of(b"cert"));
        let request = secret.prove_request(&certificate, b"csr", "age1");
        assert!(secret.check_request(&certificate, b"csr", "age1", &request));
        assert!(!secret.check_request(&Digest::of(b"mitm"), b"csr", "age1", &request));
        assert!(!secret.check_request(&certificate, b"csR", "age1", &request));
        assert!(!secret.check_request(&certificate, b"csr", "age2", &request));
        let issued = secret.prove_issued("certificate", "crls");
        assert!(secret.check_issued("certificate", "crls", &issued));
        assert!(!secret.check_issued("certificatecrls", "", &issued));
        assert!(!secret.check_issued("certificate", "crls", &request));
    }

    #[test]
    fn a_join_file_comes_back_as_it_went_and_a_spoilt_one_is_refused() {
        let (trust_domain, cluster, server) = names("t", "c", "s");
        let file = JoinFile::new(trust_domain, cluster, server, Timestamp::UNIX_EPOCH);
        let text = toml::to_string(&file).unwrap();
        let read: JoinFile = toml::from_str(&text).unwrap();
        assert_eq!(read.secret().unwrap().digest(), file.secret().unwrap().digest());
        assert_eq!((read.server.as_str(), read.expires), ("s", Timestamp::UNIX_EPOCH));
        let spoilt: String = text.chars().filter(|c| *c != '"').collect();
        for bad in
            [text.replace("secret = \"", "secret = \"0"), text.clone() + "more = 1\n", spoilt, String::new()]
        {
            assert!(toml::from_str::<JoinFile>(&bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,70}|[0-9A-Z-]{50,60}") {
            let _ = text.parse::<PairingCode>();
        }

        #[test]
        fn every_code_comes_back(certificate: [u8; 32]) {
            let code = PairingCode::generate(&Digest::from(certificate));
            let read = code.to_text().parse::<PairingCode>().unwrap();
            prop_assert_eq!((read.certificate, read.secret.digest()), (code.certificate, code.secret.digest()));
        }
    }
}
