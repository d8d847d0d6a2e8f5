//! What answers is not the agent that was meant, or fails half-way: nothing is written, and no certificate is left good.

use tokio::runtime::Runtime;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use umsid_common::name::Identity;
use umsid_common::pairing::PairingCode;
use umsid_common::seal::SealKey;
use umsid_common::tls::{self, Limits, Listener, SelfSigned};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::wire;
use umsid_proto::wire::enrollment_server::{Enrollment, EnrollmentServer};

use crate::house::House;

/// Plays an agent's part in an enrolment, badly.
struct Impostor {
    code: PairingCode,
    certificate: umsid_common::digest::Digest,
    recipient: String,
    /// Does not know the secret.
    guesses: bool,
    /// Asks for this identity instead of the one it was told.
    greedy: Option<&'static str>,
}

#[tonic::async_trait]
impl Enrollment for Impostor {
    async fn begin(
        &self,
        request: Request<wire::BeginEnrollmentRequest>,
    ) -> Result<Response<wire::BeginEnrollmentResponse>, Status> {
        let asked = request.into_inner();
        let told = format!("spiffe://{}/agent/{}/{}", asked.trust_domain, asked.cluster, asked.server);
        let identity: Identity = self.greedy.unwrap_or(&told).parse().unwrap();
        let csr = tls::request(&tls::generate_key(), &identity).unwrap();
        let mut proof = self.code.secret.prove_request(&self.certificate, &csr, &self.recipient).to_vec();
        if self.guesses {
            proof[0] ^= 1;
        }
        let recipient = self.recipient.clone();
        Ok(Response::new(wire::BeginEnrollmentResponse {
            csr,
            recipient,
            agent_version: "0.1.0".into(),
            proof,
        }))
    }

    async fn complete(
        &self,
        _request: Request<wire::CompleteEnrollmentRequest>,
    ) -> Result<Response<wire::CompleteEnrollmentResponse>, Status> {
        Err(Failure::new(Code::DiskFull, "no room for the certificate").remedy("make room").into())
    }
}

impl Impostor {
    /// Listens on a free port: the address, the code to give, and what keeps it alive.
    fn listen(guesses: bool, greedy: Option<&'static str>) -> (String, String, Runtime) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let own = SelfSigned::generate();
        let listener = runtime
            .block_on(Listener::bind_enrolment(([127, 0, 0, 1], 0).into(), &own, Limits::default()))
            .unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let code = PairingCode::generate(&own.digest());
        let text = code.to_text().to_string();
        let key = umsid_testkit::scratch();
        let recipient =
            SealKey::load_or_generate(&key.path().join("seal.key")).unwrap().recipient().to_string();
        let service =
            EnrollmentServer::new(Self { code, certificate: own.digest(), recipient, guesses, greedy });
        let within = runtime.enter();
        runtime.spawn(Server::builder().add_service(service).serve_with_incoming(listener.incoming()));
        drop(within);
        (address, text, runtime)
    }
}

/// The certificates issued for hamburg/ums1, and how many of them are revoked.
fn issued(house: &House) -> (usize, usize) {
    let text = std::fs::read_to_string(house.state().join("authority/register.json")).unwrap();
    let register: serde_json::Value = serde_json::from_str(&text).unwrap();
    let of_agent = |entry: &&serde_json::Value| entry["identity"] == "spiffe://lab/agent/hamburg/ums1";
    let entries: Vec<_> = register["issued"].as_array().unwrap().iter().filter(of_agent).collect();
    (entries.len(), entries.iter().filter(|entry| entry["revoked"].is_string()).count())
}

#[test]
fn who_does_not_know_the_secret_gets_no_certificate() {
    let house = House::new();
    let (address, code, _alive) = Impostor::listen(true, None);
    let before = house.inventory();
    house
        .umsid(&["enroll", &address, "--name", "ums1", "--cluster", "hamburg", "--code", &code])
        .exits(6)
        .says("does not know the code or join file");
    assert_eq!((house.inventory(), issued(&house)), (before, (0, 0)));
}

#[test]
fn who_asks_to_be_somebody_else_gets_no_certificate() {
    let house = House::new();
    let before = house.inventory();
    for greedy in ["spiffe://lab/coordinator/test", "spiffe://lab/agent/hamburg/ums2"] {
        let (address, code, _alive) = Impostor::listen(false, Some(greedy));
        house
            .umsid(&["enroll", &address, "--name", "ums1", "--cluster", "hamburg", "--code", &code])
            .exits(7)
            .says("it does not ask to be spiffe://lab/agent/hamburg/ums1, and only that");
    }
    assert_eq!((house.inventory(), issued(&house)), (before, (0, 0)));
}

#[test]
fn a_certificate_that_was_not_taken_is_revoked() {
    let house = House::new();
    let (address, code, _alive) = Impostor::listen(false, None);
    let before = house.inventory();
    house
        .umsid(&["enroll", &address, "--name", "ums1", "--cluster", "hamburg", "--code", &code])
        .exits(1)
        .says("no room for the certificate")
        .says("what to do: make room");
    assert_eq!((house.inventory(), issued(&house)), (before, (1, 1)));
}
