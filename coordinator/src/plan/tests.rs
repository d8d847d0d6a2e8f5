use std::collections::BTreeMap;

use umsid_proto::model::{HealthStatus, UmsIds};

use super::*;
use crate::survey::stage::{Stage, labelled, name, print, unlabelled};
use crate::survey::{Named, assess};

mod sites;

fn planned(stage: &Stage, request: &Request) -> (Plan, Vec<Refusal>) {
    planned_with(stage, request, &Named { server: request.main.clone(), ..Named::default() })
}

fn planned_with(stage: &Stage, request: &Request, named: &Named) -> (Plan, Vec<Refusal>) {
    let assessment = assess(&stage.survey, named);
    let restarts = BTreeMap::from([(name("ums2"), 42)]);
    let basis = Basis {
        name: &stage.survey.cluster,
        cluster: &stage.cluster,
        survey: &stage.survey,
        assessment: &assessment,
        named,
        restarts: &restarts,
        restores: &BTreeMap::new(),
    };
    let plan = make(&basis, request);
    let refusals = preflight(&basis, request, &plan);
    (plan, refusals)
}

fn three() -> Stage {
    Stage::new(&[("ums1", labelled("a", "a")), ("ums2", labelled("b", "a")), ("ums3", labelled("c", "a"))])
}

fn titles(plan: &Plan) -> Vec<String> {
    let line = |step: &Step| match step.what.server() {
        Some(server) => format!("{server}: {}", step.what.title()),
        None => step.what.title(),
    };
    plan.steps.iter().map(line).collect()
}

#[test]
fn a_sync_goes_as_designed() {
    let (plan, refusals) = planned(&three(), &Request::sync());
    assert_eq!(refusals, []);
    assert_eq!(
        titles(&plan),
        [
            "confirm which server is Main",
            "ums2: safety backup of its own UMS ID",
            "ums3: safety backup of its own UMS ID",
            "ums1: back up the Main UMS ID",
            "transfer the sealed backup to ums2, ums3",
            "confirm which server is Main",
            "ums2: restore the Main UMS ID",
            "ums2: restart UMS Server, wait until healthy",
            "ums2: verify",
            "ums3: restore the Main UMS ID",
            "ums3: restart UMS Server, wait until healthy",
            "ums3: verify",
            "ums1: restart UMS Server, wait until healthy",
            "wait 45 s for messages between servers",
            "verify the whole cluster",
            "ums1: remove what was transferred",
            "ums2: remove what was transferred",
            "ums3: remove what was transferred",
        ]
    );
    assert_eq!(plan.canary(), Some(&name("ums2")));
    assert_eq!(plan.steps[7].downtime_s, Some(42), "from the restart on record");
    assert_eq!(plan.steps[10].downtime_s, None, "no restart on record");
}

/// Invariant 2, as planned: every restore comes after that server's safety backup.
#[test]
fn no_restore_is_planned_before_the_safety_backup() {
    for restart_first in [false, true] {
        for rehearse in [false, true] {
            for batch in [1, 2, 9] {
                let request = Request { restart_first, rehearse, batch, ..Request::sync() };
                let (plan, _) = planned(&three(), &request);
                for step in &plan.steps {
                    let (What::Restore { server } | What::RestoreOwn { server, .. }) = &step.what else {
                        continue;
                    };
                    let safety = What::SafetyBackup { server: server.clone() };
                    let safety = plan.steps.iter().find(|step| step.what == safety).expect("planned");
                    assert!(
                        comes_after(&plan, step.no, safety.no),
                        "step {} of {:?}",
                        step.no,
                        titles(&plan)
                    );
                }
            }
        }
    }
}

/// Main saves its UMS ID while the targets save theirs, and nothing is restored before all of that is done.
#[test]
fn all_is_saved_and_transferred_at_once_and_before_the_first_restore() {
    let (plan, _) = planned(&three(), &Request::sync());
    let of = |fits: fn(&What) -> bool| -> Vec<u32> {
        plan.steps.iter().filter(|step| fits(&step.what)).map(|step| step.no).collect()
    };
    let safety = of(|what| matches!(what, What::SafetyBackup { .. }));
    let backup = of(|what| matches!(what, What::Backup { .. } | What::Transfer { .. }));
    assert_eq!((safety.len(), backup.len()), (2, 2));
    for one in &safety {
        assert!(
            backup.iter().all(|other| !comes_after(&plan, *one, *other) && !comes_after(&plan, *other, *one))
        );
    }
    for restore in of(|what| matches!(what, What::Restore { .. })) {
        assert!(safety.iter().chain(&backup).all(|before| comes_after(&plan, restore, *before)));
    }
}

fn comes_after(plan: &Plan, no: u32, before: u32) -> bool {
    let step = plan.step(no).expect("it is there");
    step.after.contains(&before) || step.after.iter().any(|earlier| comes_after(plan, *earlier, before))
}

#[test]
fn the_canary_is_verified_before_any_other_is_touched_whatever_the_batch() {
    let servers: Vec<(String, UmsIds)> =
        (1..=6).map(|number| (format!("ums{number}"), labelled(&format!("own{number}"), "own1"))).collect();
    let servers: Vec<(&str, UmsIds)> =
        servers.iter().map(|(server, ids)| (server.as_str(), ids.clone())).collect();
    let (plan, _) = planned(&Stage::new(&servers), &Request { batch: 3, ..Request::sync() });
    let canary = plan.canary().expect("a canary").clone();
    let verified =
        plan.steps.iter().find(|step| step.what == What::Verify { server: canary.clone() }).expect("planned");
    for step in &plan.steps {
        if let What::Restore { server } | What::Restart { server } = &step.what
            && *server != canary
        {
            assert!(comes_after(&plan, step.no, verified.no), "step {}", step.no);
        }
    }
}

#[test]
fn two_of_one_site_are_never_disturbed_at_the_same_time_whatever_the_batch() {
    let names = ["ums1", "ums2", "ums3", "ums4", "ums5"];
    let mut stage =
        Stage::new(&names.map(|name| (name, labelled(if name == "ums1" { "a" } else { name }, "a"))));
    for (server, site) in names.into_iter().zip(["north", "north", "south", "south", "north"]) {
        stage.cluster.servers.get_mut(&name(server)).unwrap().site = Some(site.parse().unwrap());
    }
    let (plan, _) = planned(&stage, &Request { batch: 4, ..Request::sync() });
    let disturbs = |step: &&Step| step.what.disturbs();
    let site = |step: &Step| plan.servers[step.what.server().unwrap()].site.clone();
    let mut side_by_side = 0;
    for (number, one) in plan.steps.iter().filter(disturbs).enumerate() {
        for other in plan.steps.iter().filter(disturbs).skip(number + 1) {
            let apart = comes_after(&plan, other.no, one.no);
            assert!(apart || site(one) != site(other), "steps {} and {}", one.no, other.no);
            side_by_side += usize::from(!apart);
        }
    }
    assert!(side_by_side > 0, "of two sites, two are done at the same time");
}

#[test]
fn an_unhealthy_target_is_never_the_canary_while_there_is_another() {
    let mut stage = three();
    stage.inspection("ums2").health.status = HealthStatus::Err;
    let (plan, refusals) = planned(&stage, &Request::sync());
    assert_eq!(refusals, []);
    assert_eq!(plan.canary(), Some(&name("ums3")));
    assert!(plan.notes.iter().any(|note| note == "ums2 is not healthy now: err"), "{:?}", plan.notes);
}

/// Four targets at two sites, some of them down.
fn two_sites(down: &[&str]) -> Stage {
    let names = ["ums1", "ums2", "ums3", "ums4", "ums5"];
    let mut stage =
        Stage::new(&names.map(|name| (name, labelled(if name == "ums1" { "a" } else { name }, "a"))));
    for (server, site) in names.into_iter().zip(["north", "north", "north", "south", "south"]) {
        stage.cluster.servers.get_mut(&name(server)).unwrap().site = Some(site.parse().unwrap());
    }
    for server in down {
        stage.inspection(server).health.status = HealthStatus::Unreachable;
    }
    stage
}

/// Not of one run alone: what is down already, perhaps because of a run before, is up before its neighbour is disturbed.
#[test]
fn no_server_is_disturbed_while_its_neighbour_is_down() {
    let requests = [
        Request::sync(),
        Request { batch: 9, restart_first: true, rehearse: true, ..Request::sync() },
        Request { kind: Kind::Restart, ..Request::sync() },
    ];
    let (mut canaries, mut held_back) = (Vec::new(), 0);
    for (request, down) in requests.iter().flat_map(|request| {
        [&["ums3"][..], &["ums5"], &["ums3", "ums5"], &["ums2", "ums3"]].map(|down| (request, down))
    }) {
        let (plan, refusals) = planned(&two_sites(down), request);
        assert_eq!(refusals, []);
        canaries.push(plan.canary().map(ToString::to_string));
        let site = |server: &ServerName| plan.servers[server].site.clone();
        for step in plan.steps.iter().filter(|step| step.what.disturbs()) {
            let server = step.what.server().unwrap();
            for neighbour in down.iter().map(|down| name(down)).filter(|down| site(down) == site(server)) {
                if down.contains(&server.as_str()) {
                    continue;
                }
                let up =
                    plan.steps.iter().find(|other| other.what == What::Restart { server: neighbour.clone() });
                assert!(
                    comes_after(&plan, step.no, up.unwrap().no),
                    "{server} before {neighbour}: {:?}",
                    titles(&plan)
                );
                held_back += 1;
            }
        }
    }
    let first = |server: &str| Some(server.to_owned());
    assert_eq!(canaries[..4], [first("ums4"), first("ums2"), first("ums3"), first("ums4")]);
    assert!(held_back > 20);
}

#[test]
fn a_server_down_that_has_no_part_in_it_stands_in_its_neighbours_way() {
    let sync = Request { only: vec![name("ums4")], restart: RestartScope::Restored, ..Request::sync() };
    let restart = Request { kind: Kind::Restart, ..sync.clone() };
    for request in [sync, restart] {
        let text = refused(&two_sites(&["ums5"]), &request);
        assert!(text.contains("ums5 is not healthy, at the site of ums4 (south)"), "{text}");
        assert_eq!(planned(&two_sites(&["ums3"]), &request).1, [], "it is down elsewhere");
        let both = Request { only: vec![name("ums4"), name("ums5")], ..request };
        let (plan, refusals) = planned(&two_sites(&["ums5"]), &both);
        assert_eq!(refusals, []);
        assert_eq!(plan.restarts(), [&name("ums5"), &name("ums4")]);
    }
}

#[test]
fn nothing_to_do_is_an_empty_plan() {
    let stage = Stage::new(&[("ums1", labelled("a", "a")), ("ums2", labelled("a", "a"))]);
    let (plan, refusals) = planned(&stage, &Request::sync());
    assert!(plan.is_empty() && refusals.is_empty(), "{refusals:?}");
}

#[test]
fn only_those_named_are_touched_and_leased() {
    let request = Request { only: vec![name("ums3")], restart: RestartScope::Restored, ..Request::sync() };
    let (plan, refusals) = planned(&three(), &request);
    assert_eq!(refusals, []);
    assert_eq!(plan.targets, [name("ums3")]);
    assert_eq!(plan.servers.keys().collect::<Vec<_>>(), [&name("ums1"), &name("ums3")]);
    assert_eq!(plan.restarts(), [&name("ums3")]);
}

#[test]
fn what_is_unknown_is_restored_only_where_it_was_named() {
    let stage = Stage::new(&[("ums1", unlabelled(&["a"])), ("ums2", unlabelled(&["a", "b"]))]);
    let main = Request { main: Some(name("ums1")), ..Request::sync() };
    let (plan, refusals) = planned(&stage, &main);
    assert!(plan.is_empty());
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert!(refusals[0].remedy.contains("--only"), "{refusals:?}");
    let both = Request { only: vec![name("ums2")], ..main };
    let (plan, refusals) = planned(&stage, &both);
    assert_eq!(refusals, []);
    assert_eq!(plan.targets, [name("ums2")]);
}

fn refused(stage: &Stage, request: &Request) -> String {
    let (_, refusals) = planned(stage, request);
    assert!(!refusals.is_empty(), "not refused");
    assert!(refusals.iter().all(|refusal| !refusal.remedy.is_empty()), "{refusals:?}");
    refusals.iter().map(|refusal| refusal.what.clone()).collect::<Vec<_>>().join("\n")
}

#[test]
fn each_bad_state_of_a_server_is_refused_and_says_which() {
    let bad = |change: fn(&mut Stage)| {
        let mut stage = three();
        change(&mut stage);
        refused(&stage, &Request::sync())
    };
    assert!(bad(|it| it.silence("ums3")).contains("ums3 did not answer"));
    let versions = bad(|it| it.inspection("ums3").ums_version = Some("12.10.100".into()));
    assert!(versions.contains("different versions") && versions.contains("ums3 12.10.100"), "{versions}");
    assert!(bad(|it| it.inspection("ums2").ums_version = None).contains("ums2: its UMS version"));
    assert!(bad(|it| it.report("ums3").skew_ms = 60_001).contains("clocks of"));
    assert!(bad(|it| it.inspection("ums2").update_mode = Some(true)).contains("ums2 is in update mode"));
    assert!(
        bad(|it| it.inspection("ums1").health.status = HealthStatus::Err).contains("ums1 is not healthy")
    );
    assert!(
        bad(|it| it.inspection("ums2").disk = Some(umsid_proto::model::Disk { free: 1, total: 2 }))
            .contains("MiB")
    );
    assert!(
        bad(|it| it.inspection("ums2").cluster = "other".parse().expect("a name")).contains("cluster other")
    );
    let old = bad(|it| {
        for server in ["ums1", "ums2", "ums3"] {
            it.inspection(server).ums_version = Some("11.10.200".into());
        }
    });
    assert!(old.contains("older than 12.01.100"), "{old}");
}

#[test]
fn sixty_seconds_between_clocks_are_allowed() {
    let mut stage = three();
    stage.report("ums3").skew_ms = 60_000;
    assert_eq!(planned(&stage, &Request::sync()).1, []);
}

#[test]
fn unknown_names_and_the_main_server_are_no_targets() {
    let unknown = Request { only: vec![name("ums9")], ..Request::sync() };
    assert!(refused(&three(), &unknown).contains("ums9 is not in cluster prod"));
    let main = Request { only: vec![name("ums1")], ..Request::sync() };
    assert!(refused(&three(), &main).contains("ums1 is the Main server"));
}

#[test]
fn a_silent_server_stands_in_the_way_only_of_what_needs_it() {
    let mut stage = three();
    stage.silence("ums2");
    let around = Request { only: vec![name("ums3")], restart: RestartScope::Restored, ..Request::sync() };
    let (plan, refusals) = planned(&stage, &around);
    assert_eq!(refusals, []);
    assert_eq!(plan.targets, [name("ums3")]);
    let all = Request { restart: RestartScope::All, ..around };
    assert!(refused(&stage, &all).contains("ums2 did not answer"));
}

#[test]
fn a_plan_knows_what_has_changed_since() {
    let (then, _) = planned(&three(), &Request::sync());
    assert_eq!(then.differences(&planned(&three(), &Request::sync()).0), Vec::<String>::new());
    let mut stage = three();
    stage.inspection("ums3").ums_ids = labelled("a", "a");
    let (now, _) = planned(&stage, &Request::sync());
    assert_eq!(then.differences(&now), ["ums3: was not-in-sync, is in-sync"]);
    let moved = Stage::new(&[
        ("ums1", labelled("b", "b")),
        ("ums2", labelled("b", "b")),
        ("ums3", labelled("c", "b")),
    ]);
    let (now, _) = planned(&moved, &Request::sync());
    assert!(then.differences(&now)[0].starts_with("Main was ums1 with"), "{:?}", then.differences(&now));
}

#[test]
fn a_plan_comes_back_from_its_file_with_the_same_digest() {
    let (plan, _) = planned(&three(), &Request { main_fingerprint: Some(print("a")), ..Request::sync() });
    let text = serde_json::to_string(&plan).expect("JSON");
    let back: Plan = serde_json::from_str(&text).expect("a plan");
    assert_eq!((back.digest(), &back), (plan.digest(), &plan));
}

#[test]
fn a_licence_is_noted_only_when_it_ends_soon() {
    let note = |date: &str| {
        let mut stage = three();
        stage.survey.taken = "2026-11-22T20:00:00Z".parse().expect("a time");
        stage.inspection("ums1").license =
            format!("\"unlimited\": \"false\"\n\"expirationDateUTC\": \"{date}\"");
        planned(&stage, &Request::sync()).0.notes.join("; ")
    };
    assert_eq!(note("2046-01-01T00:00:00"), "");
    assert_eq!(note("2026-12-01T00:00:00"), "ums1: its UMS licence ends on 2026-12-01, in 8 days");
    assert_eq!(
        note("2026-11-01T00:00:00"),
        "ums1: its UMS licence ended on 2026-11-01: it may not start again"
    );
    assert_eq!(note("soon"), "");
}
