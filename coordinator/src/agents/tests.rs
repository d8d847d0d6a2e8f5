use super::*;

const RECIPIENT: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";

fn server() -> Server {
    Server {
        address: "ums1:8643".into(),
        via: None,
        site: None,
        recipient: RECIPIENT.parse().unwrap(),
        serial: "4a".into(),
        enrolled: Timestamp::UNIX_EPOCH,
    }
}

fn answer() -> wire::HelloResponse {
    wire::HelloResponse {
        protocol_min: 1,
        protocol_max: 1,
        agent_version: "0.1.0".into(),
        cluster: "hamburg".into(),
        server: "ums1".into(),
        recipient: RECIPIENT.into(),
        crl_number: 3,
        certificate_not_after_unix_ms: 90_000,
        certificate_not_before_unix_ms: 0,
        clock_unix_ms: 10_500,
    }
}

fn greet(answer: &wire::HelloResponse) -> Result<Hello, AgentError> {
    let asked = Timestamp::from_second(10).unwrap();
    greeted(
        answer,
        &"hamburg".parse().unwrap(),
        &"ums1".parse().unwrap(),
        &server(),
        asked,
        Duration::from_millis(200),
    )
}

#[expect(clippy::needless_pass_by_value, reason = "every caller makes an answer for it")]
fn code(answer: wire::HelloResponse) -> Option<Code> {
    greet(&answer).unwrap_err().failure().map(|failure| failure.code)
}

#[test]
fn the_clock_is_judged_by_half_the_round_trip() {
    let hello = greet(&answer()).unwrap();
    assert_eq!((hello.skew_ms, hello.protocol, hello.crl_number), (400, PROTOCOL.0, 3));
    let behind = greet(&wire::HelloResponse { clock_unix_ms: 9_100, ..answer() }).unwrap();
    assert_eq!(behind.skew_ms, -1_000);
}

#[test]
fn a_certificate_wants_renewal_in_its_last_third() {
    let hello = greet(&answer()).unwrap();
    for (second, wants) in [(0, false), (59, false), (60, true), (90, true), (91, true)] {
        assert_eq!(hello.wants_renewal(Timestamp::from_second(second).unwrap()), wants, "{second}");
    }
}

#[test]
fn an_agent_of_another_time_is_told_from_one_that_fits() {
    let newer =
        wire::HelloResponse { protocol_min: PROTOCOL.0 + 1, protocol_max: PROTOCOL.0 + 3, ..answer() };
    assert_eq!(code(newer), Some(Code::Protocol));
    let older = wire::HelloResponse { protocol_min: 0, protocol_max: 0, ..answer() };
    assert_eq!(code(older), Some(Code::Protocol));
    let both = wire::HelloResponse { protocol_max: PROTOCOL.0 + 3, ..answer() };
    assert_eq!(greet(&both).unwrap().protocol, PROTOCOL.0);
}

#[test]
fn another_key_than_the_pinned_one_is_refused() {
    let other = "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg";
    assert_eq!(code(wire::HelloResponse { recipient: other.into(), ..answer() }), Some(Code::WrongIdentity));
    let none = wire::HelloResponse { recipient: String::new(), ..answer() };
    assert!(matches!(greet(&none), Err(AgentError::Nonsense(_))));
}

#[test]
fn an_agent_that_contradicts_its_certificate_makes_no_sense() {
    for (cluster, server) in [("berlin", "ums1"), ("hamburg", "ums2")] {
        let answer = wire::HelloResponse { cluster: cluster.into(), server: server.into(), ..answer() };
        assert!(matches!(greet(&answer), Err(AgentError::Nonsense(_))));
    }
}

#[test]
fn a_no_a_lost_connection_and_a_status_of_nobody_are_told_apart() {
    let no = sorted("a:1", &Status::from(Failure::new(Code::Busy, "busy")));
    assert_eq!(no.failure().map(|failure| failure.code), Some(Code::Busy));
    assert!(!no.is_transient());
    for status in [Status::unavailable("gone"), Status::cancelled("reset"), Status::deadline_exceeded("late")]
    {
        assert!(matches!(sorted("a:1", &status), AgentError::Lost { .. }), "{status}");
    }
    // An agent's deadline is an answer, because it carries a failure.
    let timeout = Status::from(Failure::new(Code::CommandTimeout, "umsadmin-cli hangs"));
    assert!(!sorted("a:1", &timeout).is_transient());
    assert!(matches!(sorted("a:1", &Status::unimplemented("what?")), AgentError::Failure(_)));
}

#[tokio::test(flavor = "current_thread")]
async fn silence_ends_at_the_deadline() {
    let silence = std::future::pending::<Result<Response<()>, Status>>();
    let lost = call("a:1", Duration::from_millis(20), silence).await.unwrap_err();
    assert!(lost.is_transient() && lost.to_string().contains("a:1"));
}

/// An agent that is stopped or starts again is asked again; one that is not an agent never.
#[tokio::test(flavor = "current_thread")]
async fn an_agent_that_takes_the_connection_and_no_more_may_be_asked_again() {
    use umsid_testkit::{Ca, scratch};

    let (ca, dir) = (Ca::new("t"), scratch());
    ca.write(&ca.coordinator("anna"), dir.path());
    let tls = Tls::load(tls::Files::in_dir(dir.path())).unwrap();
    let patience = Patience { connect: Duration::from_millis(200), ..Patience::default() };
    let agents = Agents::new(tls, "t".parse().unwrap()).with_patience(patience);
    for (words, again) in [("", true), ("SSH-2.0-OpenSSH_9.6\r\n", false)] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server { address: listener.local_addr().unwrap().to_string(), ..server() };
        let peer = async {
            let (stream, _) = listener.accept().await.unwrap();
            stream.writable().await.unwrap();
            stream.try_write(words.as_bytes()).unwrap();
            std::future::pending::<()>().await;
            drop(stream);
        };
        let (cluster, name) = ("hamburg".parse().unwrap(), "ums1".parse().unwrap());
        let refused = tokio::select! {
            dialled = agents.dial(&cluster, &name, &server) => dialled.err().unwrap(),
            () = peer => unreachable!(),
        };
        assert_eq!(refused.is_transient(), again, "{words:?}: {refused:?}");
    }
}
