//! Enrolling one server by code, and taking it out again.

use crate::house::{Host, House};

#[test]
fn a_server_is_enrolled_by_its_code() {
    let (house, host) = (House::new(), Host::new("main"));
    let me = house.enrol(&host, "ums1");
    assert_eq!(me.identity().to_string(), "spiffe://lab/agent/hamburg/ums1");
    let _running = host.runs();
    let servers = house.umsid(&["servers", "-o", "json"]).exits(0).json();
    assert_eq!(servers[0]["address"], host.address());
    let doctor = house.umsid(&["doctor", "-o", "json"]).exits(0).json();
    let levels: Vec<_> = doctor.as_array().unwrap().iter().map(|finding| &finding["level"]).collect();
    assert!(levels.iter().all(|level| *level == "ok"), "{doctor}");
}

#[test]
fn the_code_may_come_on_standard_input() {
    let (house, host) = (House::new(), Host::new("main"));
    for stdin in [["--code", "-"].as_slice(), &[]] {
        let waiting = host.waits(None);
        let address = host.address();
        let args = [&["enroll", &address, "--name", "ums1", "--cluster", "hamburg"], stdin].concat();
        house.umsid_reading(&format!("{}\n", waiting.code().to_lowercase()), &args).exits(0);
        waiting.enrolled().unwrap();
    }
}

#[test]
fn no_code_is_not_a_wrong_one() {
    let house = House::new();
    for stdin in [["--code", "-"].as_slice(), &[]] {
        let args = [&["enroll", "127.0.0.1:9", "--name", "ums1", "--cluster", "hamburg"], stdin].concat();
        house.umsid(&args).exits(2).says("no code was given");
    }
}

#[test]
fn a_wrong_code_enrols_nobody() {
    let (house, host, other) = (House::new(), Host::new("main"), Host::new("main"));
    let (waiting, elsewhere) = (host.waits(None), other.waits(None));
    let before = house.inventory();
    let address = host.address();
    let enroll = |code: &str| {
        house.umsid(&["enroll", &address, "--name", "ums1", "--cluster", "hamburg", "--code", code])
    };
    // Of another agent: another certificate than the one that answers.
    enroll(&elsewhere.code()).exits(6).says("is not the agent that printed this code").says("what to do:");
    // Of this agent's certificate, but with another secret.
    let mut forged: umsid_common::pairing::PairingCode = elsewhere.code().parse().unwrap();
    let real: umsid_common::pairing::PairingCode = waiting.code().parse().unwrap();
    forged.certificate = real.certificate;
    enroll(&forged.to_text()).exits(6).says("the proof is wrong");
    // No code at all.
    enroll("ABCDEF").exits(6).says("this is no pairing code");
    assert_eq!(house.inventory(), before);
    // And the right one still does.
    enroll(&waiting.code()).exits(0);
    waiting.enrolled().unwrap();
}

#[test]
fn a_used_code_is_refused() {
    let (house, host) = (House::new(), Host::new("main"));
    let waiting = host.waits(None);
    let (address, code) = (host.address(), waiting.code());
    let enroll = ["enroll", &address, "--name", "ums1", "--cluster", "hamburg", "--code", &code];
    house.umsid(&enroll).exits(0);
    waiting.enrolled().unwrap();
    let before = house.inventory();
    // Nobody waits there now; and the next agent that does has another certificate.
    house.umsid(&enroll).exits(5).says("Connection refused");
    let _next = host.waits(None);
    house.umsid(&enroll).exits(6).says("is not the agent that printed this code");
    assert_eq!(house.inventory(), before);
}

#[test]
fn an_agent_at_work_is_not_waiting_to_be_enrolled() {
    let (house, host) = (House::new(), Host::new("main"));
    let waiting = host.waits(None);
    let (address, code) = (host.address(), waiting.code());
    let enroll = ["enroll", &address, "--name", "ums1", "--cluster", "hamburg", "--code", &code];
    house.umsid(&enroll).exits(0);
    waiting.enrolled().unwrap();
    let _running = host.runs();
    house.umsid(&enroll).exits(6).says("is not the agent that printed this code");
}

#[test]
fn a_host_that_is_not_there_is_unreachable() {
    let (house, host) = (House::new(), Host::new("main"));
    let waiting = host.waits(None);
    let code = waiting.code();
    let before = house.inventory();
    let nobody = Host::new("main").address();
    for address in [nobody.as_str(), "no-such-host.invalid:1"] {
        house
            .umsid(&["enroll", address, "--name", "ums1", "--cluster", "hamburg", "--code", &code])
            .exits(5)
            .says("ums1 was not enrolled; nothing was changed");
    }
    for bad in ["127.0.0.1:0", "a b", "UMS 1:8643", "127.0.0.1:x"] {
        house.umsid(&["enroll", bad, "--cluster", "hamburg", "--code", &code]).exits(2).says("is no address");
    }
    assert_eq!(house.inventory(), before);
}

#[test]
fn one_server_does_not_get_two_names() {
    let (house, host) = (House::new(), Host::new("main"));
    house.enrol(&host, "ums1");
    let before = house.inventory();
    let waiting = host.waits(None);
    let (address, code) = (host.address(), waiting.code());
    // Same address: seen before anything is asked.
    house
        .umsid(&["enroll", &address, "--name", "ums2", "--cluster", "hamburg", "--code", &code])
        .exits(1)
        .says("is enrolled as hamburg/ums1 already");
    // Another way to the same host: seen by its key, in whatever cluster.
    let by_name = address.replace("127.0.0.1", "localhost");
    for cluster in ["hamburg", "berlin"] {
        house
            .umsid(&["enroll", &by_name, "--name", "ums2", "--cluster", cluster, "--code", &code])
            .exits(1)
            .says("it would have two names")
            .says("umsid servers remove hamburg/ums1");
    }
    assert_eq!(house.inventory(), before);
}

#[test]
fn one_name_does_not_get_two_servers() {
    let (house, host, other) = (House::new(), Host::new("main"), Host::new("main"));
    house.enrol(&host, "ums1");
    let before = house.inventory();
    let waiting = other.waits(None);
    let (address, code) = (other.address(), waiting.code());
    house
        .umsid(&["enroll", &address, "--name", "ums1", "--cluster", "hamburg", "--code", &code])
        .exits(1)
        .says("hamburg/ums1 is enrolled with another key");
    assert_eq!(house.inventory(), before);
}

#[test]
fn the_same_server_again_gets_a_new_certificate_and_the_old_one_is_revoked() {
    let (house, host) = (House::new(), Host::new("main"));
    house.enrol(&host, "ums1");
    let waiting = host.waits(None);
    let (address, code) = (host.address(), waiting.code());
    let ran = house
        .umsid(&["enroll", &address, "--name", "ums1", "--cluster", "hamburg", "--code", &code])
        .exits(0);
    assert!(ran.out.contains("its old certificate is revoked"), "{}", ran.out);
    waiting.enrolled().unwrap();
    let register = std::fs::read_to_string(house.state().join("authority/register.json")).unwrap();
    assert_eq!(register.matches("\"revoked\"").count(), 1, "{register}");
    // The agent has the list from before; `status` gives it the newest.
    let _running = host.runs();
    let doctor = || house.umsid(&["doctor"]).exits(0).out;
    assert!(doctor().contains("it has revocation list 1"));
    house.umsid(&["status"]).exits(0);
    assert!(!doctor().contains("warn"), "{}", doctor());
}

#[test]
fn a_removed_server_is_not_trusted_any_more() {
    let (house, host, other) = (House::new(), Host::new("main"), Host::new("main"));
    house.enrol(&host, "ums1");
    house.enrol(&other, "ums2");
    let (_one, _two) = (host.runs(), other.runs());
    house.umsid(&["status"]).exits(0);
    let entry = house.inventory();

    house.umsid(&["servers", "remove", "hamburg/ums3"]).exits(2).says("Known: ums1, ums2");
    house.umsid(&["servers", "remove", "hamburg/ums2"]).exits(2).says("--yes");
    assert_eq!(house.inventory(), entry);
    let removed = house.umsid(&["servers", "remove", "hamburg/ums2", "--yes", "-o", "json"]).exits(0).json();
    assert_eq!(removed["revoked"], 1);
    assert_eq!(removed["told"], serde_json::json!(["hamburg/ums1"]));
    assert_eq!(removed["crl_number"], 2);
    let left = house.umsid(&["servers", "-o", "json"]).exits(0).json();
    assert_eq!(left.as_array().unwrap().len(), 1);

    // Even where somebody writes it back into the inventory, its certificate is refused.
    let path = house.state().join("inventory.toml");
    umsid_common::durable::replace(&path, entry.as_bytes(), umsid_common::durable::Access::Private).unwrap();
    let status = house.umsid(&["status", "-o", "json"]).exits(3).json();
    let silence = &status["clusters"][0]["servers"][1]["silence"];
    assert_eq!(silence["kind"], "certificate", "{silence}");
    assert!(silence["causes"].to_string().contains("revoked"), "{silence}");
}

#[test]
fn agents_that_could_not_be_told_of_a_removal_are_named() {
    let (house, host, other) = (House::new(), Host::new("main"), Host::new("main"));
    house.enrol(&host, "ums1");
    house.enrol(&other, "ums2");
    let removed = house
        .umsid(&["servers", "remove", "hamburg/ums2", "--yes"])
        .exits(0)
        .says("umsid-agent enroll --again");
    assert!(
        removed.out.contains("not told, they will be at the next contact: hamburg/ums1"),
        "{}",
        removed.out
    );
}

#[test]
fn another_coordinators_agents_refuse_us() {
    let (house, stranger, host) = (House::new(), House::empty(), Host::new("main"));
    house.enrol(&host, "ums1");
    let _running = host.runs();
    // Same trust domain, same name, another authority; and our inventory copied over.
    stranger.umsid(&["init", "--name", "test", "--trust-domain", "lab"]).exits(0);
    let path = stranger.state().join("inventory.toml");
    umsid_common::durable::replace(
        &path,
        house.inventory().as_bytes(),
        umsid_common::durable::Access::Private,
    )
    .unwrap();
    stranger.umsid(&["doctor"]).exits(7);
    let status = stranger.umsid(&["status", "-o", "json"]).exits(3).json();
    assert_eq!(status["clusters"][0]["servers"][0]["silence"]["kind"], "certificate");
}

/// An hour is gone of every new certificate, because it is backdated.
const LAST_THIRD: jiff::SignedDuration = jiff::SignedDuration::from_mins(20);

#[test]
fn certificates_in_their_last_third_are_renewed_in_passing() {
    use umsid::agents::Agents;
    use umsid::authority::Authority;
    use umsid::enrolment::{Candidate, Registrar};
    use umsid_common::pairing::PairingCode;
    use umsid_common::tls::{Patience, Tls, identity_of};

    let (house, host) = (House::new(), Host::new("main"));
    let home = umsid::home::Home { dir: house.state() };
    let authority = Authority::open(&home.authority_dir()).unwrap().with_life(LAST_THIRD);
    // Ours, which is in its last third from now on.
    let tls = Tls::load(home.tls_files()).unwrap();
    let us = identity_of(&tls.current().chain()[0]).unwrap();
    let issued = authority.equip(&home.tls_files(), &us).unwrap();
    assert_eq!(authority.newest(&us).unwrap().serial, issued.serial);
    tls.reload().unwrap();
    // And a server's.
    let waiting = host.waits(None);
    let code: PairingCode = waiting.code().parse().unwrap();
    let candidate = Candidate {
        cluster: "hamburg".parse().unwrap(),
        name: "ums1".parse().unwrap(),
        site: None,
        address: host.address(),
        via: None,
    };
    let agents = Agents::new(tls, us.trust_domain);
    let registrar =
        Registrar { home: &home, authority: &authority, agents: &agents, patience: Patience::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(registrar.enrol(&candidate, &code.secret, Some(code.certificate))).unwrap();
    // Nobody else would close the connection.
    drop(runtime);
    waiting.enrolled().unwrap();
    let _running = host.runs();

    let before = house.umsid(&["doctor"]).exits(0).out;
    assert_eq!(before.matches(" warn ").count(), 2, "{before}");
    house
        .umsid(&["status"])
        .exits(0)
        .says("renewed the coordinator's certificate")
        .says("renewed the certificate of hamburg/ums1");
    let after = house.umsid(&["doctor"]).exits(0).out;
    assert!(!after.contains(" warn "), "{after}");
}
