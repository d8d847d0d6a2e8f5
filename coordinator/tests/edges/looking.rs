//! `umsid status`: what it says, and its exit code.

use crate::house::{Host, House};

#[test]
fn all_in_sync_is_zero() {
    let (house, one, two) = (House::new(), Host::new("main"), Host::new("main"));
    house.enrol(&one, "ums1");
    house.enrol(&two, "ums2");
    let _running = [one.runs(), two.runs()];
    let status = house.umsid(&["status", "-o", "json"]).exits(0).json();
    assert_eq!(status["all_in_sync"], true);
    assert_eq!(
        status["clusters"][0]["counts"],
        serde_json::json!({"main": 1, "in_sync": 1, "not_in_sync": 0, "unknown": 0})
    );
    let print = status["clusters"][0]["servers"][0]["fingerprint"].as_str().unwrap();
    assert_eq!(print.len(), 64);

    let table = house.umsid(&["status", "hamburg"]).exits(0).out;
    assert!(table.contains(&format!("{}…{}", &print[..10], &print[54..])), "{table}");
    assert!(table.contains("12.09.110") && !table.contains('\u{1b}'), "{table}");
}

#[test]
fn one_not_in_sync_is_three() {
    let (house, one, two) = (House::new(), Host::new("main"), Host::new("other"));
    house.enrol(&one, "ums1");
    house.enrol(&two, "ums2");
    let _running = [one.runs(), two.runs()];
    let ran = house.umsid(&["status"]).exits(3).says("umsid sync hamburg");
    assert!(ran.out.contains("not-in-sync"), "{}", ran.out);
}

#[test]
fn one_without_an_answer_is_three_and_unknown() {
    let (house, one, two) = (House::new(), Host::new("main"), Host::new("main"));
    house.enrol(&one, "ums1");
    house.enrol(&two, "ums2");
    let _running = one.runs();
    let ran =
        house.umsid(&["status"]).exits(3).says("no answer").says("what to do: check that the host is up");
    assert!(ran.out.contains("unknown"), "{}", ran.out);
    let status = house.umsid(&["status", "-o", "json"]).exits(3).json();
    assert_eq!(status["clusters"][0]["servers"][1]["silence"]["kind"], "unreachable");
    house.umsid(&["doctor"]).exits(5);
}

#[test]
fn nobody_asked_is_not_all_in_sync() {
    House::new().umsid(&["status", "--all"]).exits(3).says("nothing is known to be in sync");
}

#[test]
fn an_unknown_cluster_is_named_before_anybody_is_asked() {
    let (house, one) = (House::new(), Host::new("main"));
    house.enrol(&one, "ums1");
    house.umsid(&["status", "hamburg", "hamberg"]).exits(2).says("did you mean `hamburg`?");
}

#[test]
fn a_server_of_another_cluster_that_answers_is_refused() {
    let (house, one, two) = (House::new(), Host::new("main"), Host::new("main"));
    house.enrol(&one, "ums1");
    house.enrol(&two, "ums2");
    let _running = [one.runs(), two.runs()];
    // Somebody swaps the addresses.
    let (a, b) = (one.address(), two.address());
    let text = house.inventory().replace(&a, "swap:1").replace(&b, &a).replace("swap:1", &b);
    let path = house.state().join("inventory.toml");
    umsid_common::durable::replace(&path, text.as_bytes(), umsid_common::durable::Access::Private).unwrap();
    let status = house.umsid(&["status", "-o", "json"]).exits(3).json();
    assert_eq!(status["clusters"][0]["servers"][0]["silence"]["kind"], "wrong-server");
    house.umsid(&["doctor"]).exits(7);
}

#[test]
fn an_observer_may_look_and_nothing_else() {
    let (house, one) = (House::new(), Host::new("main"));
    house.enrol(&one, "ums1");
    let _running = one.runs();
    let out = house.dir.path().join("nagios");
    house.umsid(&["observer", "add", "nagios", "--out", out.to_str().unwrap()]).exits(0);
    house
        .umsid(&["observer", "add", "nagios", "--out", out.to_str().unwrap()])
        .exits(1)
        .says("is there already");

    // The observer's files in place of the coordinator's.
    for file in ["certificate.pem", "key.pem"] {
        std::fs::copy(out.join(file), house.state().join("coordinator").join(file)).unwrap();
    }
    house.umsid(&["status"]).exits(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let home = umsid::home::Home { dir: house.state() };
        let inventory = umsid::inventory::Inventory::load(&home.inventory_path()).unwrap();
        let tls = umsid_common::tls::Tls::load(home.tls_files()).unwrap();
        let agents = umsid::agents::Agents::new(tls, inventory.trust_domain.clone());
        let (cluster, name, server) = inventory.servers().next().unwrap();
        let agent = agents.dial(cluster, name, server).await.unwrap();
        let refused = agent.push_trust("x", "x", 9).await.unwrap_err();
        assert_eq!(refused.failure().unwrap().code, umsid_proto::failure::Code::NotAllowed, "{refused:?}");
    });
}
