//! What a set of files amounts to, checked as a peer would check it.

#[cfg(unix)]
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};
use zeroize::Zeroizing;

use super::verifier::{
    Callee, CalleeVerifier, Callers, check_server_chain, check_signature, describe, identity_of, namesake,
    parse,
};
use super::{Files, TlsError, VerifyError, client_config, provider, server_config};
use crate::digest::{Digest, Digester};
use crate::durable;
use crate::name::Identity;

/// What a set of files amounts to, checked: the key belongs to the certificate, and a peer with the same anchors would accept it.
pub struct Credentials {
    identity: Identity,
    not_before: Timestamp,
    not_after: Timestamp,
    crl_number: u64,
    chain: Vec<Vec<u8>>,
    key: EcdsaKeyPair,
    callers: Arc<dyn ClientCertVerifier>,
    callees: Arc<WebPkiServerVerifier>,
    presented: Arc<SingleCertAndKey>,
    server: Arc<ServerConfig>,
    judged: Mutex<Judged>,
    /// Of the four files, to see whether they changed.
    pub(super) content: Digest,
}

/// Who was found to be good in one second: what decides of a chain is the chain, our files and the second it is asked in, so that
/// within it the answer is the same. Whoever makes a hundred calls a second is not verified a hundred times.
#[derive(Default)]
struct Judged {
    second: i64,
    good: Vec<(Vec<Vec<u8>>, Identity)>,
}

/// Most chains that are remembered within a second.
const JUDGED: usize = 16;

impl Judged {
    fn find(&self, chain: &[impl AsRef<[u8]>], second: i64) -> Option<&Identity> {
        let same = |known: &[Vec<u8>]| {
            known.len() == chain.len() && known.iter().zip(chain).all(|(a, b)| a.as_slice() == b.as_ref())
        };
        let found = self.good.iter().filter(|_| self.second == second).find(|(known, _)| same(known));
        found.map(|(_, identity)| identity)
    }

    fn add(&mut self, chain: &[impl AsRef<[u8]>], second: i64, identity: &Identity) {
        if self.second != second {
            *self = Self { second, good: Vec::new() };
        }
        if self.good.len() < JUDGED {
            let chain = chain.iter().map(|certificate| certificate.as_ref().to_vec()).collect();
            self.good.push((chain, identity.clone()));
        }
    }
}

impl Credentials {
    /// Loads and checks.
    ///
    /// # Errors
    /// Names the file at fault: unreadable, empty or malformed; a key that is no P-256 key, is not the certificate's, or
    /// that others can read; an anchor without revocation list; our own certificate expired, revoked, issued under
    /// other anchors, or without exactly one SPIFFE ID.
    pub fn load(files: &Files) -> Result<Self, TlsError> {
        let mut content = Digester::default();
        let mut read = |path: &Path| {
            let mut bytes = Zeroizing::new(Vec::new());
            durable::open(path)
                .and_then(|mut file| file.read_to_end(&mut bytes))
                .map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
            content.update(&(bytes.len() as u64).to_be_bytes());
            content.update(&bytes);
            Ok(bytes)
        };
        let chain = certificates(&files.certificate, &read(&files.certificate)?)?;
        refuse_key_open_to_others(&files.key)?;
        let key = read(&files.key)?;
        let anchors = certificates(&files.anchors, &read(&files.anchors)?)?;
        let crls = revocation_lists(&files.crls, &read(&files.crls)?)?;
        let content = content.finish();

        let crl_number = check_lists(files, &anchors, &crls)?;
        let roots = Arc::new(root_store(&files.anchors, &anchors)?);
        let unusable_lists =
            |error: &dyn std::fmt::Display| TlsError::unusable(&files.crls, error.to_string());
        let callees = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider())
            .with_crls(crls.clone())
            .build()
            .map_err(|error| unusable_lists(&error))?;
        let callers = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .with_crls(crls)
            .build()
            .map_err(|error| unusable_lists(&error))?;

        let own = |error: &dyn std::fmt::Display| TlsError::unusable(&files.certificate, error.to_string());
        let leaf = chain[0].clone();
        let parsed = parse(&leaf).map_err(|error| own(&error))?;
        let [not_before, not_after] = [parsed.validity().not_before, parsed.validity().not_after]
            .map(|time| Timestamp::from_second(time.timestamp()).map_err(|error| own(&error)));
        let (not_before, not_after) = (not_before?, not_after?);
        let identity = identity_of(&leaf).map_err(|error| own(&error))?;

        let (key, certified) = key_pair(&files.key, &key, &chain)?;
        if key.public_key().as_ref() != &*parsed.public_key().subject_public_key.data {
            let why = format!("it is not the key of the certificate in {}", files.certificate.display());
            return Err(TlsError::unusable(&files.key, why));
        }

        // As a peer would, now, both as the one who calls and as the one who is called.
        let refused = |error: rustls::Error| {
            own(&format!("no peer would accept this certificate: {}", describe(&error)))
        };
        check_server_chain(&callees, &leaf, &chain[1..], UnixTime::now()).map_err(refused)?;
        callers.verify_client_cert(&leaf, &chain[1..], UnixTime::now()).map_err(refused)?;

        let presented = Arc::new(SingleCertAndKey::from(Arc::new(certified)));
        let verifier = Arc::new(Callers { chain: callers.clone(), own: identity.clone() });
        let server = server_config(verifier, presented.clone());
        let chain = chain.iter().map(|certificate| certificate.to_vec()).collect();
        Ok(Self {
            identity,
            not_before,
            not_after,
            crl_number,
            chain,
            key,
            callers,
            callees,
            presented,
            server,
            judged: Mutex::default(),
            content,
        })
    }

    /// Who we are.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The certificate's life.
    pub fn validity(&self) -> (Timestamp, Timestamp) {
        (self.not_before, self.not_after)
    }

    /// Whether a third of the certificate's life or less is left.
    pub fn wants_renewal(&self, now: Timestamp) -> bool {
        let life = self.not_before.duration_until(self.not_after);
        now.duration_until(self.not_after) <= life / 3
    }

    /// Number of the newest revocation list.
    pub fn crl_number(&self) -> u64 {
        self.crl_number
    }

    /// Our chain, DER, leaf first.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// Signs with the certificate's key (ECDSA P-256, SHA-256, ASN.1).
    ///
    /// # Panics
    /// If the operating system has no random bytes to give.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.key.sign(&SystemRandom::new(), message);
        signature.expect("the operating system gives random bytes").as_ref().to_vec()
    }

    /// Whose signature this is: the chain must lead to our anchors now and not be revoked.
    pub fn verify(
        &self,
        chain: &[Vec<u8>],
        message: &[u8],
        signature: &[u8],
    ) -> Result<Identity, VerifyError> {
        let identity = self.still_good(chain, Timestamp::now())?;
        check_signature(&chain[0], message, signature)?;
        Ok(identity)
    }

    /// Whether a peer that was accepted earlier, with this chain (DER, leaf first), would be accepted now; says who it
    /// is. To be asked at every call on a connection that may be older than a revocation.
    ///
    /// # Errors
    /// [`VerifyError::Certificate`] if it is expired, revoked or foreign; [`VerifyError::Identity`] if it names no one
    /// of our trust domain.
    pub fn still_good(&self, chain: &[impl AsRef<[u8]>], now: Timestamp) -> Result<Identity, VerifyError> {
        let second = now.as_second();
        let known = self.judged.lock().unwrap_or_else(PoisonError::into_inner).find(chain, second).cloned();
        if let Some(identity) = known {
            return Ok(identity);
        }
        let identity = self.judge(chain, second)?;
        self.judged.lock().unwrap_or_else(PoisonError::into_inner).add(chain, second, &identity);
        Ok(identity)
    }

    fn judge(&self, chain: &[impl AsRef<[u8]>], second: i64) -> Result<Identity, VerifyError> {
        let chain: Vec<_> =
            chain.iter().map(|certificate| CertificateDer::from(certificate.as_ref())).collect();
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(VerifyError::Certificate("there is none".into()));
        };
        let since_epoch = u64::try_from(second).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(since_epoch));
        self.callers
            .verify_client_cert(leaf, intermediates, now)
            .map_err(|error| VerifyError::Certificate(describe(&namesake(error))))?;
        let identity = identity_of(leaf)?;
        if identity.trust_domain != self.identity.trust_domain {
            let why = format!("{identity} is not of the trust domain {}", self.identity.trust_domain);
            return Err(VerifyError::Identity(why));
        }
        Ok(identity)
    }

    /// For accepting.
    pub(super) fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For dialling somebody who must have this identity.
    pub(super) fn client_config(&self, expected: &Identity) -> ClientConfig {
        self.client_config_for(Callee::Known(self.callees.clone(), expected.clone()))
    }

    /// For dialling an agent that waits for enrolment.
    pub(super) fn enrolment_config(&self, pin: Option<Vec<u8>>) -> ClientConfig {
        self.client_config_for(Callee::Pinned(pin))
    }

    fn client_config_for(&self, callee: Callee) -> ClientConfig {
        let verifier = CalleeVerifier { callee, provider: provider() };
        client_config(verifier, self.presented.clone())
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    pem_items(path, pem, "certificate")
}

fn revocation_lists(path: &Path, pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    pem_items(path, pem, "revocation list")
}

fn pem_items<T: PemObject>(path: &Path, pem: &[u8], what: &str) -> Result<Vec<T>, TlsError> {
    let items: Result<Vec<_>, _> = T::pem_slice_iter(pem).collect();
    match items {
        Ok(items) if items.is_empty() => Err(TlsError::unusable(path, format!("there is no {what} in it"))),
        Ok(items) => Ok(items),
        Err(error) => Err(TlsError::unusable(path, format!("it is no PEM: {error}"))),
    }
}

#[cfg(unix)]
fn refuse_key_open_to_others(path: &Path) -> Result<(), TlsError> {
    use std::os::unix::fs::MetadataExt as _;
    let read = |source| TlsError::Read { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(read)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(TlsError::unusable(
            path,
            format!("its mode is {mode:04o}: others can use the key, needed is 0600"),
        ));
    }
    Ok(())
}

#[cfg(windows)]
fn refuse_key_open_to_others(path: &Path) -> Result<(), TlsError> {
    use umsid_windows::acl;
    let read = |source| TlsError::Read { path: path.to_owned(), source };
    let us = acl::me().map_err(read)?;
    let found = acl::access(path).map_err(read)?;
    let may = |who: &String| [acl::SYSTEM, acl::ADMINISTRATORS, &us, &found.owner].contains(&who.as_str());
    match found.allowed.iter().find(|who| !may(who)) {
        None => Ok(()),
        Some(other) => Err(TlsError::unusable(path, format!("{other} can use the key too"))),
    }
}

fn root_store(path: &Path, anchors: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for anchor in anchors {
        roots.add(anchor.clone()).map_err(|error| TlsError::unusable(path, describe(&error)))?;
    }
    Ok(roots)
}

/// One list for each anchor, signed by it; the highest number among them. With none, a revoked certificate would pass.
fn check_lists(
    files: &Files,
    anchors: &[CertificateDer<'_>],
    crls: &[CertificateRevocationListDer<'_>],
) -> Result<u64, TlsError> {
    let wrong = |why: String| TlsError::unusable(&files.crls, why);
    let mut lists = Vec::new();
    for crl in crls {
        let (_, list) = CertificateRevocationList::from_der(crl).map_err(|error| wrong(error.to_string()))?;
        lists.push(list);
    }
    for anchor in anchors {
        let anchor = parse(anchor).map_err(|error| TlsError::unusable(&files.anchors, error.to_string()))?;
        let mut signed = lists.iter().filter(|list| list.issuer().as_raw() == anchor.subject().as_raw());
        let (Some(list), None) = (signed.next(), signed.next()) else {
            return Err(wrong(format!(
                "there must be one revocation list of the anchor {}",
                anchor.subject()
            )));
        };
        if list.verify_signature(anchor.public_key()).is_err() {
            return Err(wrong(format!("the revocation list of {} is not signed by it", anchor.subject())));
        }
    }
    let number = |list: &CertificateRevocationList<'_>| {
        let number =
            list.crl_number().ok_or_else(|| wrong(format!("the list of {} has no number", list.issuer())))?;
        u64::try_from(number).map_err(|_| wrong(format!("number {number} is too large")))
    };
    lists.iter().map(number).try_fold(0, |newest, number| number.map(|number| newest.max(number)))
}

fn key_pair(
    path: &Path,
    pem: &[u8],
    chain: &[CertificateDer<'static>],
) -> Result<(EcdsaKeyPair, CertifiedKey), TlsError> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem)
        .map_err(|error| TlsError::unusable(path, format!("there is no PKCS#8 key in it: {error}")))?;
    let pair = EcdsaKeyPair::from_pkcs8(
        &ECDSA_P256_SHA256_ASN1_SIGNING,
        key.secret_pkcs8_der(),
        &SystemRandom::new(),
    )
    .map_err(|error| TlsError::unusable(path, format!("it is no P-256 key: {error}")))?;
    let signing = provider()
        .key_provider
        .load_private_key(key.into())
        .map_err(|error| TlsError::unusable(path, error.to_string()))?;
    Ok((pair, CertifiedKey::new(chain.to_vec(), signing)))
}
