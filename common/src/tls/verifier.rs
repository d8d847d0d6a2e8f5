//! Who a certificate names and whether it is to be trusted: rustls' own verifiers, with the SPIFFE ID checked on top.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    SignatureScheme,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::digest::Digest;
use crate::name::Identity;
use crate::tls::VerifyError;

/// The identity in a certificate (DER): exactly one URI among its alternative names, or nobody.
pub fn identity_of(certificate: &[u8]) -> Result<Identity, VerifyError> {
    let nobody = |why: String| VerifyError::Identity(why);
    let certificate = parse(certificate)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| nobody(error.to_string()))?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => uri.parse().map_err(|error| nobody(format!("{error}"))),
        (None, _) => Err(nobody("there is no URI among its alternative names".into())),
        (Some(_), Some(_)) => Err(nobody("there is more than one URI among its alternative names".into())),
    }
}

pub(super) fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, VerifyError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(VerifyError::Certificate("there is something after its end".into())),
        Err(error) => Err(VerifyError::Certificate(format!("it is malformed: {error}"))),
    }
}

/// Whether the certificate's key made this signature.
pub(super) fn check_signature(
    certificate: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), VerifyError> {
    let certificate = parse(certificate)?;
    let key = &certificate.public_key().subject_public_key.data;
    ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_ASN1, key)
        .verify(message, signature)
        .map_err(|_| VerifyError::Signature)
}

/// On the side that is called: anybody in our trust domain may finish the handshake; what they may do, each call decides.
#[derive(Debug)]
pub(super) struct Callers {
    pub(super) chain: Arc<dyn ClientCertVerifier>,
    pub(super) own: Identity,
}

impl ClientCertVerifier for Callers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now).map_err(namesake)?;
        match identity_of(end_entity) {
            Ok(identity) if identity.trust_domain == self.own.trust_domain => Ok(verified),
            // The alert for this one is `access_denied`.
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// During an enrolment the caller has no certificate of ours to show: any will do, the secret proves who it is. The
/// handshake still proves that the caller holds the key.
#[derive(Debug)]
pub(super) struct AnyCaller(pub(super) Arc<CryptoProvider>);

impl ClientCertVerifier for AnyCaller {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What a caller demands of the one it dialled.
#[derive(Debug, Clone)]
pub(super) enum Callee {
    /// A certificate under our anchors with this identity.
    Known(Arc<WebPkiServerVerifier>, Identity),
    /// The certificate whose SHA-256 begins with these bytes; with none given, any.
    Pinned(Option<Vec<u8>>),
    /// Any, and no proof of its key either.
    Anybody,
}

#[derive(Debug)]
pub(super) struct CalleeVerifier {
    pub(super) callee: Callee,
    pub(super) provider: Arc<CryptoProvider>,
}

/// A valid certificate of somebody else; travels inside rustls' error.
#[derive(Debug, Clone)]
pub(super) struct SomebodyElse {
    pub(super) expected: String,
    pub(super) found: String,
}

impl fmt::Display for SomebodyElse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this is {}, expected was {}", self.found, self.expected)
    }
}

impl std::error::Error for SomebodyElse {}

fn refuse(why: impl std::error::Error + Send + Sync + 'static) -> Error {
    CertificateError::Other(OtherError(Arc::new(why))).into()
}

/// The chain's fitness alone: in time, for servers, under our anchors, not revoked.
///
/// Our certificates carry a SPIFFE ID and no DNS name. rustls compares the name last of all, so its refusal of the name
/// says that everything else was in order; the test `nothing_but_the_name_is_forgiven` holds it to that.
pub(super) fn check_server_chain(
    verifier: &WebPkiServerVerifier,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), Error> {
    match verifier.verify_server_cert(end_entity, intermediates, &nobody(), &[], now) {
        Ok(_)
        | Err(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => Ok(()),
        Err(error) => Err(namesake(error)),
    }
}

/// An issuer that only bears the name of an anchor is a stranger like any other.
pub(super) fn namesake(error: Error) -> Error {
    match error {
        Error::InvalidCertificate(CertificateError::BadSignature) => CertificateError::UnknownIssuer.into(),
        other => other,
    }
}

/// The name rustls wants to have for every connection; it is neither sent nor believed.
pub(super) fn nobody() -> ServerName<'static> {
    ServerName::try_from("umsid.invalid").expect("this is a DNS name")
}

impl ServerCertVerifier for CalleeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.callee {
            Callee::Known(chain, expected) => {
                check_server_chain(chain, end_entity, intermediates, now)?;
                let found = identity_of(end_entity).map_err(refuse)?;
                if found != *expected {
                    return Err(refuse(SomebodyElse {
                        expected: expected.to_string(),
                        found: found.to_string(),
                    }));
                }
            }
            Callee::Pinned(Some(pin)) => {
                if !Digest::of(end_entity).as_bytes().starts_with(pin) {
                    return Err(refuse(VerifyError::Certificate(
                        "it is not the one that was announced".into(),
                    )));
                }
            }
            Callee::Pinned(None) | Callee::Anybody => {}
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.callee {
            Callee::Anybody => Ok(HandshakeSignatureValid::assertion()),
            _ => Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.callee {
            Callee::Anybody => Ok(HandshakeSignatureValid::assertion()),
            _ => {
                let algorithms = &self.provider.signature_verification_algorithms;
                verify_tls13_signature(message, certificate, signature, algorithms)
            }
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What is wrong with a certificate, in words for an operator.
pub(super) fn describe(error: &Error) -> String {
    let Error::InvalidCertificate(error) = error else {
        return match error {
            Error::InvalidCertRevocationList(why) => format!("its revocation list is unusable: {why:?}"),
            other => other.to_string(),
        };
    };
    match error {
        CertificateError::Expired => "expired".into(),
        CertificateError::ExpiredContext { time, not_after } => {
            format!("expired: it was good until {}, here it is {}", moment(*not_after), moment(*time))
        }
        CertificateError::NotValidYet => "not valid yet".into(),
        CertificateError::NotValidYetContext { time, not_before } => {
            format!("not valid yet: it is good from {} on, here it is {}", moment(*not_before), moment(*time))
        }
        CertificateError::Revoked => "revoked".into(),
        CertificateError::UnknownIssuer => "issued by somebody else".into(),
        CertificateError::UnknownRevocationStatus => "there is no revocation list of its issuer".into(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "not made for this purpose".into()
        }
        CertificateError::ApplicationVerificationFailure => "it names no one of this trust domain".into(),
        CertificateError::Other(OtherError(why)) => why.to_string(),
        other => other.to_string(),
    }
}

fn moment(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| format!("{seconds} s"), |time| time.to_string())
}
