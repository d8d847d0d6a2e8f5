use umsid_proto::model::{HealthStatus, LeaseState, ServiceStatus};

use super::*;
use crate::survey::stage::{Stage, labelled, name};
use crate::survey::{Named, assess};

/// Two servers in sync, with certificates that are good for a year.
fn stage() -> Stage {
    let mut stage = Stage::new(&[("ums1", labelled("m", "m")), ("ums2", labelled("m", "m"))]);
    for server in ["ums1", "ums2"] {
        certificate(&mut stage, server, 365 * 24);
    }
    stage
}

fn certificate(stage: &mut Stage, server: &str, hours: i64) {
    stage.inspection(server).certificate_not_after =
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours);
}

fn condition(stage: &Stage) -> Condition {
    let assessment = assess(&stage.survey, &Named::default());
    judge(&stage.survey, &assessment, &Limits::default())
}

/// The level, and what is said.
fn found(stage: &Stage) -> (Level, String) {
    let condition = condition(stage);
    (condition.level(), condition.summary())
}

#[test]
fn all_in_sync_and_nothing_else_is_ok() {
    assert_eq!(found(&stage()), (Level::Ok, "2 of 2 servers in sync".to_owned()));
}

#[test]
fn a_server_that_holds_another_ums_id_is_critical() {
    let mut stage = Stage::new(&[("ums1", labelled("m", "m")), ("ums2", labelled("x", "m"))]);
    certificate(&mut stage, "ums1", 365 * 24);
    certificate(&mut stage, "ums2", 365 * 24);
    assert_eq!(found(&stage), (Level::Critical, "ums2 not in sync".to_owned()));
}

#[test]
fn no_answer_is_never_ok_whatever_the_others_say() {
    let mut stage = stage();
    stage.silence("ums2");
    assert_eq!(found(&stage), (Level::Critical, "ums2 did not answer".to_owned()));
    let condition = condition(&stage);
    assert_eq!((condition.in_sync(), condition.unanswered()), (1, 1));
    assert_eq!(condition.findings[0].detail, "refused");
}

#[test]
fn what_nobody_can_tell_is_unknown_and_a_contradiction_critical() {
    let mut stage = stage();
    for server in ["ums1", "ums2"] {
        stage.inspection(server).ums_ids = Default::default();
    }
    let (level, said) = found(&stage);
    assert_eq!((level, said.as_str()), (Level::Unknown, "no server could say which UMS ID is Main"));
    let mut several = Stage::new(&[("ums1", labelled("m", "m")), ("ums2", labelled("n", "n"))]);
    certificate(&mut several, "ums1", 365 * 24);
    certificate(&mut several, "ums2", 365 * 24);
    assert_eq!(found(&several).0, Level::Critical);
    let nobody = Stage::new(&[]);
    assert_eq!(found(&nobody).0, Level::Unknown);
}

#[test]
fn a_ums_server_that_is_not_well_is_told() {
    for (service, health, level, said) in [
        (ServiceStatus::Stopped, HealthStatus::Unreachable, Level::Critical, "ums2 UMS Server is stopped"),
        (
            ServiceStatus::Running,
            HealthStatus::Unreachable,
            Level::Critical,
            "ums2 UMS Server does not answer",
        ),
        (ServiceStatus::Running, HealthStatus::Err, Level::Critical, "ums2 UMS Server reports err"),
        (
            ServiceStatus::Running,
            HealthStatus::Init,
            Level::Warning,
            "2 of 2 servers in sync, ums2 UMS Server is starting",
        ),
        (
            ServiceStatus::Running,
            HealthStatus::Warn,
            Level::Warning,
            "2 of 2 servers in sync, ums2 UMS Server reports warn",
        ),
    ] {
        let mut stage = stage();
        stage.inspection("ums2").service.status = service;
        stage.inspection("ums2").health.status = health;
        assert_eq!(found(&stage), (level, said.to_owned()));
    }
}

#[test]
fn certificates_and_clocks_are_measured_against_both_bounds() {
    for (hours, level) in [
        (30 * 24, Level::Ok),
        (30 * 24 - 1, Level::Warning),
        (7 * 24, Level::Warning),
        (7 * 24 - 1, Level::Critical),
        (-1, Level::Critical),
    ] {
        let mut stage = stage();
        certificate(&mut stage, "ums2", hours);
        assert_eq!(condition(&stage).level(), level, "{hours} hours left");
    }
    for (skew_ms, level) in [
        (30_000, Level::Ok),
        (-30_001, Level::Warning),
        (60_000, Level::Warning),
        (-60_001, Level::Critical),
        (i64::MIN, Level::Critical),
    ] {
        let mut stage = stage();
        stage.report("ums1").skew_ms = skew_ms;
        assert_eq!(condition(&stage).level(), level, "{skew_ms} ms");
    }
}

#[test]
fn a_lease_is_told_while_it_lasts() {
    let mut stage = stage();
    let clock = stage.inspection("ums1").clock;
    let lease = |until| LeaseState {
        run: "20261122t100000-aaaaaa".parse().unwrap(),
        epoch: 1,
        holder: "coordinator anna".into(),
        since: clock,
        until,
    };
    stage.inspection("ums1").lease = Some(lease(clock));
    assert_eq!(condition(&stage).level(), Level::Ok);
    stage.inspection("ums1").lease = Some(lease(clock + SignedDuration::from_secs(1)));
    let (level, said) = found(&stage);
    assert_eq!(level, Level::Warning);
    assert!(said.ends_with("ums1 locked for run 20261122t100000-aaaaaa"), "{said}");
}

#[test]
fn the_gravest_comes_first_and_a_line_stays_one() {
    let mut stage = stage();
    stage.report("ums1").skew_ms = 40_000;
    stage.inspection("ums1").update_mode = Some(true);
    stage.inspection("ums1").health.status = HealthStatus::Warn;
    certificate(&mut stage, "ums1", 24);
    stage.silence("ums2");
    let condition = condition(&stage);
    assert_eq!(condition.findings[0].level, Level::Critical);
    assert_eq!(condition.findings.last().map(|finding| finding.level), Some(Level::Warning));
    assert!(condition.summary().ends_with("and 1 more"), "{}", condition.summary());
    assert!(condition.findings.iter().any(|finding| finding.server == Some(name("ums2"))));
}

#[test]
fn critical_goes_before_unknown_and_unknown_before_warning() {
    assert!(
        Level::Critical > Level::Unknown && Level::Unknown > Level::Warning && Level::Warning > Level::Ok
    );
    let codes: Vec<u8> =
        [Level::Ok, Level::Warning, Level::Critical, Level::Unknown].map(Level::code).to_vec();
    assert_eq!(codes, [0, 1, 2, 3]);
}
