use super::stage::{Stage, by_sha1, labelled, name, print, print1, seen, unlabelled};
use super::*;

fn state(assessment: &Assessment, server: &str) -> SyncState {
    assessment.servers[&name(server)].state
}

fn main_of(assessment: &Assessment) -> &str {
    assessment.main.as_ref().expect("a Main server").server.as_str()
}

#[test]
fn the_main_server_is_the_one_that_holds_what_all_call_main() {
    let stage = Stage::new(&[
        ("ums1", labelled("b", "a")),
        ("ums2", labelled("a", "a")),
        ("ums3", labelled("c", "a")),
    ]);
    let found = assess(&stage.survey, &Named::default());
    assert_eq!(main_of(&found), "ums2");
    assert_eq!(state(&found, "ums1"), SyncState::NotInSync);
    assert_eq!(state(&found, "ums2"), SyncState::Main);
    assert_eq!(state(&found, "ums3"), SyncState::NotInSync);
    assert!(!found.all_in_sync());
}

#[test]
fn of_several_holders_the_remembered_one_is_main() {
    let stage = Stage::new(&[("ums1", labelled("a", "a")), ("ums2", labelled("a", "a"))]);
    assert_eq!(main_of(&assess(&stage.survey, &Named::default())), "ums1");
    let remembered = Named { remembered: Some(name("ums2")), ..Named::default() };
    let found = assess(&stage.survey, &remembered);
    assert_eq!(main_of(&found), "ums2");
    assert_eq!(state(&found, "ums1"), SyncState::InSync);
    assert!(found.all_in_sync());
}

#[test]
fn memory_never_makes_a_server_main_that_does_not_hold_it() {
    let stage = Stage::new(&[("ums1", labelled("a", "a")), ("ums2", labelled("b", "a"))]);
    let remembered = Named { remembered: Some(name("ums2")), ..Named::default() };
    assert_eq!(main_of(&assess(&stage.survey, &remembered)), "ums1");
}

#[test]
fn two_that_both_look_main_are_refused_with_who_says_what() {
    let stage = Stage::new(&[("ums1", labelled("a", "a")), ("ums2", labelled("b", "b"))]);
    let found = assess(&stage.survey, &Named::default());
    let Err(MainTrouble::Several(table)) = &found.main else { panic!("{:?}", found.main) };
    assert!(table.contains("ums1 says") && table.contains("ums2 says"), "{table}");
    assert_eq!(state(&found, "ums1"), SyncState::Unknown);
    assert!(!found.all_in_sync());
}

#[test]
fn naming_server_and_fingerprint_settles_what_servers_disagree_about() {
    let stage = Stage::new(&[("ums1", labelled("a", "a")), ("ums2", labelled("b", "b"))]);
    let by_name = Named { server: Some(name("ums1")), ..Named::default() };
    assert!(matches!(assess(&stage.survey, &by_name).main, Err(MainTrouble::Contradicted(_))));
    let both = Named { server: Some(name("ums1")), fingerprint: Some(print("a")), remembered: None };
    let found = assess(&stage.survey, &both);
    assert_eq!(main_of(&found), "ums1");
    assert_eq!(state(&found, "ums2"), SyncState::NotInSync);
}

#[test]
fn a_fingerprint_that_is_not_the_named_servers_is_refused() {
    let stage = Stage::new(&[("ums1", labelled("a", "a")), ("ums2", labelled("b", "a"))]);
    let wrong = Named { server: Some(name("ums1")), fingerprint: Some(print("z")), remembered: None };
    assert!(matches!(assess(&stage.survey, &wrong).main, Err(MainTrouble::Contradicted(_))));
    let nobody = Named { fingerprint: Some(print("z")), ..Named::default() };
    assert!(matches!(assess(&stage.survey, &nobody).main, Err(MainTrouble::NoHolder(_))));
    let elsewhere = Named { server: Some(name("ums9")), ..Named::default() };
    assert!(matches!(assess(&stage.survey, &elsewhere).main, Err(MainTrouble::NotHere(_))));
}

#[test]
fn no_answer_is_unknown_and_never_in_sync() {
    let mut stage = Stage::new(&[("ums1", labelled("a", "a")), ("ums2", labelled("a", "a"))]);
    stage.silence("ums2");
    let found = assess(&stage.survey, &Named::default());
    assert_eq!(state(&found, "ums2"), SyncState::Unknown);
    assert!(!found.all_in_sync());
    stage.silence("ums1");
    let found = assess(&stage.survey, &Named::default());
    assert!(matches!(found.main, Err(MainTrouble::NobodyKnows)));
    assert!(!found.all_in_sync(), "nobody answered");
    let named = Named { server: Some(name("ums1")), ..Named::default() };
    assert!(matches!(assess(&stage.survey, &named).main, Err(MainTrouble::Silent(_))));
    let empty = Stage::new(&[]);
    assert!(!assess(&empty.survey, &Named::default()).all_in_sync(), "no server at all");
}

#[test]
fn main_that_does_not_answer_is_not_replaced_by_a_guess() {
    let mut stage = Stage::new(&[("ums1", labelled("a", "a")), ("ums2", labelled("b", "a"))]);
    stage.silence("ums1");
    let found = assess(&stage.survey, &Named::default());
    assert!(matches!(found.main, Err(MainTrouble::NoHolder(_))));
    assert_eq!(state(&found, "ums2"), SyncState::Unknown);
}

#[test]
fn without_labels_nothing_is_guessed() {
    let stage = Stage::new(&[("ums1", unlabelled(&["a"])), ("ums2", unlabelled(&["a", "b"]))]);
    let found = assess(&stage.survey, &Named::default());
    assert!(matches!(found.main, Err(MainTrouble::NobodyKnows)));
    let named = Named { server: Some(name("ums1")), ..Named::default() };
    let found = assess(&stage.survey, &named);
    let main = found.main.as_ref().expect("named");
    assert_eq!((main.fingerprint, main.settled), (Some(print("a")), false));
    assert_eq!(state(&found, "ums2"), SyncState::Unknown);
}

#[test]
fn a_holder_that_takes_another_for_main_is_not_in_sync() {
    let stage = Stage::new(&[("ums1", labelled("a", "a")), ("ums2", labelled("a", "b"))]);
    let both = Named { server: Some(name("ums1")), fingerprint: Some(print("a")), remembered: None };
    assert_eq!(state(&assess(&stage.survey, &both), "ums2"), SyncState::NotInSync);
}

#[test]
fn a_restored_server_that_was_not_restarted_is_not_in_sync() {
    let mut stage = Stage::new(&[("ums1", labelled("a", "a")), ("ums2", labelled("a", "a"))]);
    stage.inspection("ums2").restart_due = true;
    let found = assess(&stage.survey, &Named { server: Some(name("ums1")), ..Named::default() });
    assert_eq!(state(&found, "ums2"), SyncState::NotInSync);
    assert!(!found.all_in_sync());
}

#[test]
fn sha1_and_sha256_meet_only_through_a_certificate_that_was_read() {
    let mut stage =
        Stage::new(&[("ums1", labelled("a", "a")), ("ums2", by_sha1("a", "a")), ("ums3", by_sha1("b", "a"))]);
    let pinned = Named { server: Some(name("ums1")), fingerprint: Some(print("a")), remembered: None };
    let found = assess(&stage.survey, &pinned);
    assert_eq!(state(&found, "ums2"), SyncState::Unknown);
    assert_eq!(state(&found, "ums3"), SyncState::Unknown);
    stage.inspection("ums1").ums_ids.certificates.push(seen("a"));
    let found = assess(&stage.survey, &pinned);
    assert_eq!(state(&found, "ums2"), SyncState::InSync);
    assert_eq!(found.servers[&name("ums3")].fingerprint, Some(print1("b")));
    assert_eq!(state(&found, "ums3"), SyncState::Unknown, "b was never read: it cannot be compared");
}

fn proof(before: &UmsIds, now: &UmsIds) -> Proof {
    let stage = Stage::new(&[]);
    prove(&stage.survey, &Baseline::of(&stage.survey, before), now, Some(print("a")))
}

use umsid_proto::model::UmsIds;

#[test]
fn labels_prove_and_disprove() {
    assert!(matches!(proof(&labelled("b", "a"), &labelled("a", "a")), Proof::Yes(_)));
    assert!(matches!(proof(&labelled("b", "a"), &labelled("b", "a")), Proof::No(_)));
    assert!(matches!(proof(&labelled("b", "a"), &labelled("c", "a")), Proof::No(_)));
}

#[test]
fn without_labels_only_a_change_to_nothing_but_the_wanted_one_proves() {
    assert!(matches!(proof(&unlabelled(&["a", "b"]), &unlabelled(&["a"])), Proof::Yes(_)));
    assert!(matches!(proof(&unlabelled(&["a"]), &unlabelled(&["a"])), Proof::Unknown(_)), "nothing changed");
    assert!(matches!(proof(&unlabelled(&["a", "b"]), &unlabelled(&["a", "b"])), Proof::Unknown(_)));
    assert!(matches!(proof(&unlabelled(&["a", "b"]), &unlabelled(&["c"])), Proof::No(_)));
    assert!(
        matches!(proof(&unlabelled(&["b"]), &unlabelled(&[])), Proof::Unknown(_)),
        "no output is no proof"
    );
    let stage = Stage::new(&[]);
    let nothing = prove(&stage.survey, &Baseline::default(), &labelled("a", "a"), None);
    assert!(matches!(nothing, Proof::Unknown(_)), "nothing wanted is known");
}
