use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};

const HOUR: Duration = Duration::from_secs(3600);

/// A throwaway certificate authority of one trust domain. Another one is a foreign one, whatever it is called.
pub struct Ca {
    trust_domain: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
    revoked: Mutex<Vec<SerialNumber>>,
    crl_number: AtomicU64,
}

/// A certificate with its key.
pub struct Issued {
    /// PEM.
    pub certificate_pem: String,
    /// DER.
    pub certificate: Vec<u8>,
    /// PEM (PKCS#8).
    pub key_pem: String,
    serial: SerialNumber,
}

/// What a certificate shall be like: as it should be, unless told otherwise.
pub struct Wanted {
    uris: Vec<String>,
    not_before: SystemTime,
    not_after: SystemTime,
    purposes: Vec<ExtendedKeyUsagePurpose>,
    key: Option<String>,
}

impl Wanted {
    /// A certificate for this one URI, good since an hour and for a day, for both ends of a connection.
    pub fn uri(uri: &str) -> Self {
        let now = SystemTime::now();
        Self {
            uris: vec![uri.to_owned()],
            not_before: now - HOUR,
            not_after: now + 24 * HOUR,
            purposes: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            key: None,
        }
    }

    /// With one more URI: two make it name no one.
    #[must_use]
    pub fn and_uri(mut self, uri: &str) -> Self {
        self.uris.push(uri.to_owned());
        self
    }

    /// Without alternative names.
    #[must_use]
    pub fn nameless(mut self) -> Self {
        self.uris.clear();
        self
    }

    /// Good from then until then; X.509 knows whole seconds only.
    #[must_use]
    pub fn lasting(mut self, from: SystemTime, until: SystemTime) -> Self {
        (self.not_before, self.not_after) = (from, until);
        self
    }

    /// Ended an hour ago.
    #[must_use]
    pub fn expired(self) -> Self {
        let now = SystemTime::now();
        self.lasting(now - 48 * HOUR, now - HOUR)
    }

    /// Begins in an hour.
    #[must_use]
    pub fn not_yet_valid(self) -> Self {
        let now = SystemTime::now();
        self.lasting(now + HOUR, now + 48 * HOUR)
    }

    /// For being dialled only: useless for dialling.
    #[must_use]
    pub fn for_servers_only(mut self) -> Self {
        self.purposes = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self
    }

    /// For dialling only: useless for being dialled.
    #[must_use]
    pub fn for_clients_only(mut self) -> Self {
        self.purposes = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self
    }

    /// For this key (PKCS#8 PEM) instead of a new one.
    #[must_use]
    pub fn with_key(mut self, key_pem: &str) -> Self {
        self.key = Some(key_pem.to_owned());
        self
    }
}

impl Ca {
    /// A new authority with a new key.
    pub fn new(trust_domain: &str) -> Self {
        let key = KeyPair::generate().expect("random bytes");
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("umsid test CA {trust_domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = SystemTime::now();
        (params.not_before, params.not_after) = ((now - 1000 * HOUR).into(), (now + 1000 * HOUR).into());
        Self {
            trust_domain: trust_domain.to_owned(),
            issuer: CertifiedIssuer::self_signed(params, key).expect("a CA certificate"),
            revoked: Mutex::default(),
            crl_number: AtomicU64::new(1),
        }
    }

    /// `spiffe://…/agent/CLUSTER/SERVER`
    pub fn agent(&self, cluster: &str, server: &str) -> Issued {
        self.issue(&Wanted::uri(&self.uri(&format!("agent/{cluster}/{server}"))))
    }

    /// `spiffe://…/coordinator/NAME`
    pub fn coordinator(&self, name: &str) -> Issued {
        self.issue(&Wanted::uri(&self.uri(&format!("coordinator/{name}"))))
    }

    /// `spiffe://…/observer/NAME`
    pub fn observer(&self, name: &str) -> Issued {
        self.issue(&Wanted::uri(&self.uri(&format!("observer/{name}"))))
    }

    /// A SPIFFE ID of this trust domain.
    pub fn uri(&self, path: &str) -> String {
        format!("spiffe://{}/{path}", self.trust_domain)
    }

    /// Whatever is wanted, fit or not.
    pub fn issue(&self, wanted: &Wanted) -> Issued {
        let key = match &wanted.key {
            Some(pem) => KeyPair::from_pem(pem).expect("a key in PEM"),
            None => KeyPair::generate().expect("random bytes"),
        };
        let serial = new_serial();
        let params = parameters(wanted, serial.clone());
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued {
            certificate_pem: certificate.pem(),
            certificate: certificate.der().to_vec(),
            key_pem: key.serialize_pem(),
            serial,
        }
    }

    /// A certificate (PEM) for the key in a signing request (PKCS#10 DER), naming what is wanted, whatever the request
    /// asks for.
    pub fn issue_for_request(&self, csr: &[u8], wanted: &Wanted) -> String {
        let mut request = CertificateSigningRequestParams::from_der(&csr.into()).expect("a signing request");
        request.params = parameters(wanted, new_serial());
        request.signed_by(&self.issuer).expect("a certificate").pem()
    }

    /// From the next revocation list on, this certificate is revoked.
    pub fn revoke(&self, issued: &Issued) {
        self.revoked.lock().unwrap_or_else(PoisonError::into_inner).push(issued.serial.clone());
        self.crl_number.fetch_add(1, Ordering::SeqCst);
    }

    /// Number of the newest revocation list; the first is 1.
    pub fn crl_number(&self) -> u64 {
        self.crl_number.load(Ordering::SeqCst)
    }

    /// The newest revocation list, PEM.
    pub fn crls_pem(&self) -> String {
        let now = SystemTime::now();
        let revoked = |serial: &SerialNumber| RevokedCertParams {
            serial_number: serial.clone(),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: (now - HOUR).into(),
            next_update: (now + 1000 * HOUR).into(),
            crl_number: self.crl_number().into(),
            issuing_distribution_point: None,
            revoked_certs: self
                .revoked
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .map(revoked)
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).and_then(|list| list.pem()).expect("a revocation list")
    }

    /// The trust anchor, PEM.
    pub fn anchors_pem(&self) -> String {
        self.issuer.pem()
    }

    /// Writes `certificate.pem`, `key.pem` (0600), `anchors.pem` and `crls.pem` into a directory.
    pub fn write(&self, issued: &Issued, dir: &Path) {
        put(&dir.join("certificate.pem"), &issued.certificate_pem);
        put(&dir.join("key.pem"), &issued.key_pem);
        self.write_trust(dir);
    }

    /// Writes `anchors.pem` and `crls.pem` into a directory.
    pub fn write_trust(&self, dir: &Path) {
        put(&dir.join("anchors.pem"), &self.anchors_pem());
        put(&dir.join("crls.pem"), &self.crls_pem());
    }
}

fn parameters(wanted: &Wanted, serial: SerialNumber) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("umsid test");
    params.serial_number = Some(serial);
    (params.not_before, params.not_after) = (wanted.not_before.into(), wanted.not_after.into());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages.clone_from(&wanted.purposes);
    let uri = |uri: &String| SanType::URI(uri.as_str().try_into().expect("a URI is ASCII"));
    params.subject_alt_names = wanted.uris.iter().map(uri).collect();
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Unique within a process, and that is as far as a throwaway authority goes.
fn new_serial() -> SerialNumber {
    static LAST: AtomicU64 = AtomicU64::new(0);
    SerialNumber::from(LAST.fetch_add(1, Ordering::SeqCst) + 1)
}

/// Private at once, as a key must be; the others do not mind.
fn put(path: &Path, text: &str) {
    #[cfg(unix)]
    let file = {
        let mut options = fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.write(true).create(true).truncate(true).open(path)
    };
    #[cfg(windows)]
    let file = match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => umsid_windows::acl::create_private_file(path),
    };
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a file in a scratch directory");
}
