use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tonic::transport::Channel;
use umsid_agent::Config;
use umsid_agent::enroll::{EnrolError, Enrolling, Options};
use umsid_agent::state::Enrolment;
use umsid_common::digest::Digest;
use umsid_common::durable::{self, Access};
use umsid_common::pairing::{JoinFile, PairingCode, Secret, Terms};
use umsid_common::tls::{Files, Patience, Tls, connect_for_enrolment};
use umsid_proto::failure::Code;
use umsid_proto::wire;
use umsid_proto::wire::enrollment_client::EnrollmentClient;
use umsid_testkit::{Ca, Wanted, scratch};

use crate::house::{Person, SOON, Server, code_of};

struct Candidate {
    dir: tempfile::TempDir,
    config: Config,
}

type Outcome = tokio::task::JoinHandle<Result<Enrolment, EnrolError>>;

impl Candidate {
    fn new() -> Self {
        let dir = scratch();
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            state_dir: dir.path().join("state"),
            ..Config::default()
        };
        Self { dir, config }
    }

    async fn wait(&self, options: &Options) -> Result<(String, Option<String>, Outcome), EnrolError> {
        let enrolling = Enrolling::begin(&self.config, options).await?;
        let address = enrolling.local_addr().to_string();
        let code = enrolling.code().map(ToOwned::to_owned);
        Ok((address, code, tokio::spawn(enrolling.complete(std::future::pending()))))
    }

    fn join_file(&self, join: &JoinFile) -> PathBuf {
        let path = self.dir.path().join("ums1.join");
        let text = toml::to_string(join).unwrap();
        durable::replace(&path, text.as_bytes(), Access::Private).unwrap();
        path
    }
}

/// What the coordinator does.
struct Enroller<'a> {
    ca: &'a Ca,
    secret: Secret,
    client: EnrollmentClient<Channel>,
    certificate: Digest,
    anchors: String,
}

impl<'a> Enroller<'a> {
    async fn dial(ca: &'a Ca, tls: &Arc<Tls>, address: &str, secret: Secret, pin: Option<[u8; 16]>) -> Self {
        let (channel, certificate) =
            connect_for_enrolment(address, tls, pin, &Patience::default()).await.unwrap();
        Self { ca, secret, client: EnrollmentClient::new(channel), certificate, anchors: ca.anchors_pem() }
    }

    async fn by_code(ca: &'a Ca, address: &str, code: &str) -> Self {
        let code: PairingCode = code.parse().unwrap();
        let anna = Person::coordinator(ca);
        Self::dial(ca, &anna.tls, address, code.secret, Some(code.certificate)).await
    }

    async fn begin(&mut self, server: &str) -> Result<wire::BeginEnrollmentResponse, tonic::Status> {
        let proof = self.secret.prove_terms(&Terms {
            certificate: self.certificate,
            anchors_pem: &self.anchors,
            trust_domain: &"test".parse().unwrap(),
            cluster: &"acme".parse().unwrap(),
            server: &server.parse().unwrap(),
        });
        let request = wire::BeginEnrollmentRequest {
            trust_domain: "test".into(),
            cluster: "acme".into(),
            server: server.into(),
            anchors_pem: self.anchors.clone(),
            proof: proof.to_vec(),
        };
        let answer = self.client.begin(request).await?.into_inner();
        assert!(self.secret.check_request(&self.certificate, &answer.csr, &answer.recipient, &answer.proof));
        Ok(answer)
    }

    async fn complete(&mut self, certificate_pem: String) -> Result<(), tonic::Status> {
        let crls_pem = self.ca.crls_pem();
        let request = wire::CompleteEnrollmentRequest {
            proof: self.secret.prove_issued(&certificate_pem, &crls_pem).to_vec(),
            certificate_pem,
            crls_pem,
            crl_number: self.ca.crl_number(),
        };
        self.client.complete(request).await.map(drop)
    }

    fn issue(&self, csr: &[u8], server: &str) -> String {
        self.ca.issue_for_request(csr, &Wanted::uri(&self.ca.uri(&format!("agent/acme/{server}"))))
    }

    async fn enroll(&mut self, server: &str) -> Result<(), tonic::Status> {
        let csr = self.begin(server).await?.csr;
        self.complete(self.issue(&csr, server)).await
    }
}

async fn end(outcome: Outcome) -> Result<Enrolment, EnrolError> {
    tokio::time::timeout(SOON, outcome).await.expect("it ends").unwrap()
}

#[tokio::test]
async fn a_server_is_enrolled_by_code_and_serves() {
    let ca = Ca::new("test");
    let candidate = Candidate::new();
    let (address, code, outcome) = candidate.wait(&Options::default()).await.unwrap();
    let mut enroller = Enroller::by_code(&ca, &address, &code.unwrap()).await;
    enroller.enroll("ums1").await.unwrap();
    let me = end(outcome).await.unwrap();
    assert_eq!(me.identity().to_string(), "spiffe://test/agent/acme/ums1");

    let state = candidate.config.state_dir.clone();
    let credentials = Tls::load(Files::in_dir(&state)).unwrap();
    assert_eq!(*credentials.current().identity(), me.identity());
    let seal_key = std::fs::read(state.join("seal.key")).unwrap();

    // It is not enrolled a second time by accident; again, it keeps what opens its backups.
    match candidate.wait(&Options::default()).await {
        Err(EnrolError::AlreadyEnrolled(who)) => assert!(who.ends_with("/ums1")),
        other => panic!("{:?}", other.map(|_| ())),
    }
    let again = Options { again: true, ..Options::default() };
    let (address, code, outcome) = candidate.wait(&again).await.unwrap();
    Enroller::by_code(&ca, &address, &code.unwrap()).await.enroll("ums1").await.unwrap();
    end(outcome).await.unwrap();
    assert_eq!(std::fs::read(state.join("seal.key")).unwrap(), seal_key);

    let issued = ca.agent("acme", "ums1");
    let server = Server {
        dir: candidate.dir,
        ums: crate::fake_ums::FakeUms::new("own-id", "main-id"),
        issued,
        config: candidate.config,
        deadlines: umsid_agent::server::Deadlines::default(),
    };
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    line.agent.hello(wire::HelloRequest { protocol_min: 1, protocol_max: 1 }).await.unwrap();
    running.kill().await;
}

#[tokio::test]
async fn wrong_proofs_are_counted_and_five_are_enough() {
    let ca = Ca::new("test");
    let candidate = Candidate::new();
    let (address, code, outcome) = candidate.wait(&Options::default()).await.unwrap();
    let mut right = Enroller::by_code(&ca, &address, code.as_ref().unwrap()).await;
    let anna = Person::coordinator(&ca);
    let mut wrong = Enroller::dial(&ca, &anna.tls, &address, Secret::generate(), None).await;
    for _ in 0..4 {
        assert_eq!(code_of(wrong.begin("ums1").await), Code::EnrolmentRefused);
    }
    // Four are not: whoever has the right code may still come.
    let csr = right.begin("ums1").await.unwrap().csr;
    let certificate = right.issue(&csr, "ums1");
    assert_eq!(code_of(wrong.complete(certificate.clone()).await), Code::EnrolmentRefused);
    assert!(matches!(end(outcome).await, Err(EnrolError::TooManyTries)));
    assert!(right.complete(certificate).await.is_err());
    assert!(!candidate.config.state_dir.join("enrolment.json").exists());
    assert!(!candidate.config.state_dir.join("key.pem").exists());
}

#[tokio::test]
async fn terms_changed_on_the_way_are_refused() {
    let ca = Ca::new("test");
    let candidate = Candidate::new();
    let (address, code, outcome) = candidate.wait(&Options::default()).await.unwrap();
    let mut enroller = Enroller::by_code(&ca, &address, &code.unwrap()).await;
    // What the agent hears is not what was proved: other anchors.
    let mut request = wire::BeginEnrollmentRequest {
        trust_domain: "test".into(),
        cluster: "acme".into(),
        server: "ums1".into(),
        anchors_pem: Ca::new("test").anchors_pem(),
        proof: Vec::new(),
    };
    request.proof = enroller
        .secret
        .prove_terms(&Terms {
            certificate: enroller.certificate,
            anchors_pem: &enroller.anchors,
            trust_domain: &"test".parse().unwrap(),
            cluster: &"acme".parse().unwrap(),
            server: &"ums1".parse().unwrap(),
        })
        .to_vec();
    assert_eq!(code_of(enroller.client.begin(request).await), Code::EnrolmentRefused);
    outcome.abort();
}

#[tokio::test]
async fn a_certificate_that_will_not_do_changes_nothing() {
    let ca = Ca::new("test");
    let candidate = Candidate::new();
    let (address, code, outcome) = candidate.wait(&Options::default()).await.unwrap();
    let mut enroller = Enroller::by_code(&ca, &address, &code.unwrap()).await;
    let early = ca.agent("acme", "ums1").certificate_pem;
    assert_eq!(code_of(enroller.complete(early.clone()).await), Code::EnrolmentRefused, "nothing was begun");
    let csr = enroller.begin("ums1").await.unwrap().csr;
    assert_eq!(code_of(enroller.complete(early).await), Code::Certificate, "another key");
    let other = enroller.issue(&csr, "ums2");
    assert_eq!(code_of(enroller.complete(other).await), Code::Certificate, "another name");
    let foreign = Ca::new("test").issue_for_request(&csr, &Wanted::uri("spiffe://test/agent/acme/ums1"));
    assert_eq!(code_of(enroller.complete(foreign).await), Code::Certificate, "another authority");
    assert!(!candidate.config.state_dir.join("certificate.pem").exists());
    // And then it does.
    enroller.complete(enroller.issue(&csr, "ums1")).await.unwrap();
    end(outcome).await.unwrap();
}

#[tokio::test]
async fn a_code_is_good_once_and_not_for_ever() {
    let ca = Ca::new("test");
    let candidate = Candidate::new();
    let brief = Options { patience: Duration::from_millis(50), ..Options::default() };
    let (.., outcome) = candidate.wait(&brief).await.unwrap();
    assert!(matches!(end(outcome).await, Err(EnrolError::TimeOut(_))));

    let (address, code, outcome) = candidate.wait(&Options::default()).await.unwrap();
    let mut enroller = Enroller::by_code(&ca, &address, &code.unwrap()).await;
    let csr = enroller.begin("ums1").await.unwrap().csr;
    let certificate = enroller.issue(&csr, "ums1");
    enroller.complete(certificate.clone()).await.unwrap();
    assert!(enroller.complete(certificate).await.is_err(), "it is used up");
    assert!(enroller.begin("ums1").await.is_err());
    end(outcome).await.unwrap();
}

#[tokio::test]
async fn a_join_file_is_good_for_one_name_and_one_key() {
    let ca = Ca::new("test");
    let anna = Person::coordinator(&ca);
    let candidate = Candidate::new();
    let name = |text: &str| text.to_owned();
    let in_one_hour = Timestamp::now() + SignedDuration::from_hours(1);
    let join = |expires| {
        JoinFile::new(
            "test".parse().unwrap(),
            "acme".parse().unwrap(),
            name("ums1").parse().unwrap(),
            expires,
        )
    };
    let stale = candidate.join_file(&join(Timestamp::now() - SignedDuration::from_secs(1)));
    let stale = Options { join: Some(stale), ..Options::default() };
    assert!(matches!(candidate.wait(&stale).await, Err(EnrolError::JoinFileExpired { .. })));

    let join = join(in_one_hour);
    let options = Options { join: Some(candidate.join_file(&join)), ..Options::default() };
    let (address, code, outcome) = candidate.wait(&options).await.unwrap();
    assert!(code.is_none());
    let mut enroller = Enroller::dial(&ca, &anna.tls, &address, join.secret().unwrap(), None).await;
    assert_eq!(code_of(enroller.begin("ums2").await), Code::EnrolmentRefused);
    let first = enroller.begin("ums1").await.unwrap();
    // The agent is stopped in the middle: begun again, it asks for the same key.
    outcome.abort();
    let _ = outcome.await;
    drop(enroller);
    let (address, _, outcome) = umsid_testkit::wait_for("the state directory to be free", SOON, || async {
        candidate.wait(&options).await.ok()
    })
    .await;
    let mut enroller = Enroller::dial(&ca, &anna.tls, &address, join.secret().unwrap(), None).await;
    let second = enroller.begin("ums1").await.unwrap();
    assert_eq!(public_key(&first.csr), public_key(&second.csr));
    assert_eq!(first.recipient, second.recipient);
    enroller.complete(enroller.issue(&first.csr, "ums1")).await.unwrap();
    end(outcome).await.unwrap();
    assert!(!candidate.config.state_dir.join("pending-key.pem").exists());
}

#[tokio::test]
async fn of_a_damaged_join_file_the_secret_is_not_told() {
    let candidate = Candidate::new();
    let in_one_hour = Timestamp::now() + SignedDuration::from_hours(1);
    let join =
        JoinFile::new("test".parse().unwrap(), "acme".parse().unwrap(), "ums1".parse().unwrap(), in_one_hour);
    let path = candidate.join_file(&join);
    let whole = std::fs::read_to_string(&path).unwrap();
    let line = whole.lines().find(|line| line.starts_with("secret")).unwrap();
    let secret = line.split('"').nth(1).unwrap();
    let damages = [
        whole.replace(line, line.trim_end_matches('"')),
        whole.replace(line, &format!("{line}x")),
        whole.replace(secret, &secret[..40]),
        whole.replace(&format!("\"{secret}\""), secret),
        format!("{whole}{line}\n"),
    ];
    for damaged in damages {
        assert_ne!(damaged, whole);
        durable::replace(&path, damaged.as_bytes(), Access::Private).unwrap();
        let options = Options { join: Some(path.clone()), ..Options::default() };
        let refused = anyhow::Error::new(candidate.wait(&options).await.unwrap_err());
        let told = format!("{refused:#} {refused:?}");
        assert!(told.contains("is no join file"), "{told}");
        let part = |start: usize| secret.get(start..start + 8);
        let leaks = (0..secret.len()).filter_map(part).find(|part| told.contains(part));
        assert_eq!(leaks, None, "{told}");
    }
}

fn public_key(csr: &[u8]) -> Vec<u8> {
    use x509_parser::prelude::{FromDer as _, X509CertificationRequest};
    let (_, csr) = X509CertificationRequest::from_der(csr).unwrap();
    csr.certification_request_info.subject_pki.raw.to_vec()
}
