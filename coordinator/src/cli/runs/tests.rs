use super::*;

fn run(id: &str, cluster: &str, kind: &str, standing: LastWord) -> RunSummary {
    let begun =
        format!("{}-{}-{}T{}:{}:{}Z", &id[0..4], &id[4..6], &id[6..8], &id[9..11], &id[11..13], &id[13..15]);
    RunSummary {
        run: id.parse().unwrap(),
        cluster: cluster.parse().unwrap(),
        kind: kind.to_owned(),
        begun: begun.parse().unwrap(),
        standing,
    }
}

fn ended() -> LastWord {
    LastWord::Ended("synchronized".into())
}

fn halted() -> LastWord {
    LastWord::Halted("it failed".into())
}

const OLD: &str = "20261121t100000-aaaaaa";
const MIDDLE: &str = "20261122t100000-bbbbbb";
const NEW: &str = "20261122t110000-cccccc";

#[test]
fn the_beginning_of_an_id_is_enough_if_it_fits_one_only() {
    let runs =
        [run(NEW, "a", "sync", ended()), run(MIDDLE, "a", "sync", ended()), run(OLD, "a", "sync", ended())];
    assert_eq!(run_meant(&runs, "20261121").unwrap().as_str(), OLD);
    assert_eq!(run_meant(&runs, NEW).unwrap().as_str(), NEW);
    let several = run_meant(&runs, "20261122").unwrap_err();
    assert_eq!(several.to_string(), format!("`20261122` fits several runs: {NEW}, {MIDDLE}"));
    assert_eq!(run_meant(&runs, "x").unwrap_err().to_string(), "there is no run `x`");
}

#[test]
fn the_only_run_that_is_not_over_is_meant() {
    assert!(unfinished(&[run(NEW, "a", "sync", ended())]).is_err());
    let runs = [
        run(NEW, "a", "backup", ended()),
        run(MIDDLE, "a", "sync", halted()),
        run(OLD, "a", "sync", ended()),
    ];
    assert_eq!(unfinished(&runs).unwrap().as_str(), MIDDLE);
    let runs = [run(NEW, "a", "sync", LastWord::Open), run(MIDDLE, "b", "sync", halted())];
    let several = unfinished(&runs).unwrap_err().to_string();
    assert!(several.contains(NEW) && several.contains(MIDDLE), "{several}");
}

#[test]
fn a_run_that_a_newer_sync_came_after_is_not_resumed() {
    let runs = [run(NEW, "a", "sync", ended()), run(OLD, "a", "sync", halted())];
    assert!(unfinished(&runs).is_err());
    let cluster = "a".parse().unwrap();
    assert_eq!(newer_sync(&runs, &cluster, &OLD.parse().unwrap()).unwrap().as_str(), NEW);
    assert_eq!(overtaken_by(&runs, &OLD.parse().unwrap()).unwrap().as_str(), NEW);
    assert!(overtaken_by(&runs, &NEW.parse().unwrap()).is_none());
    // A restart that halted can still be gone on with.
    let restart = [run(NEW, "a", "sync", ended()), run(OLD, "a", "restart", halted())];
    assert!(overtaken_by(&restart, &OLD.parse().unwrap()).is_none());
    // Another cluster's sync does not matter.
    let runs = [run(NEW, "b", "sync", ended()), run(OLD, "a", "sync", halted())];
    assert_eq!(unfinished(&runs).unwrap().as_str(), OLD);
}

#[test]
fn a_long_reason_is_one_line_on_the_list() {
    assert_eq!(one_line("it broke:\n  no room", 100), "it broke: no room");
    assert_eq!(one_line("äöü äöü", 7), "äöü äöü");
    assert_eq!(one_line("äöü äöü", 5), "äöü…");
    assert_eq!(one_line(&"x".repeat(300), 100).chars().count(), 100);
}
