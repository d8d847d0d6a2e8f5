//! `umsadmin-cli` missing, hanging, flooding, and saying success without any.

use umsid_testkit::wait_for_blocking;

use crate::place::{Place, SOON};
use crate::{SYNC, refused, refused_before_a_run, says};

fn with_short_timeouts(text: &str) -> String {
    text.replace("list = \"20s\"", "list = \"400ms\"").replace("backup = \"20s\"", "backup = \"400ms\"")
        + "[output]\nflood_bytes = 100000\n"
}

#[test]
fn without_umsadmin_cli_a_server_is_unknown_and_says_so() {
    let place = Place::broken(&["ums2"]);
    place.reconfigure("ums2", |text| {
        let cli = place.lab.server("ums2").unwrap().umsadmin_cli.to_str().unwrap();
        text.replace(&format!("\"{cli}\""), "\"/nonexistent/umsadmin-cli\"")
    });
    let ran = refused_before_a_run(&place, &[], 3);
    says(
        &ran,
        &["ums2: whether it is in sync is unknown", "/nonexistent/umsadmin-cli", "umsid status --raw"],
    );
}

#[test]
fn a_list_that_hangs_or_floods_is_ended_and_leaves_the_server_unknown() {
    let place = Place::broken(&["ums2"]);
    place.reconfigure("ums2", with_short_timeouts);
    let servers = place.lab.processes().len();
    for (key, why) in [("hang", "did not end within"), ("flood", "printed more than")] {
        place.lab.set("ums2", key, "list").unwrap();
        let ran = refused_before_a_run(&place, &[], 3);
        says(&ran, &["ums2: whether it is in sync is unknown", why, "umsid status --raw"]);
        wait_for_blocking("what hung to be ended", SOON, || {
            (place.lab.processes().len() == servers).then_some(())
        });
        place.lab.set("ums2", key, "").unwrap();
    }
}

#[test]
fn a_backup_that_hangs_fails_or_does_nothing_halts_before_anything_is_restored() {
    let place = Place::broken(&["ums2", "ums3"]);
    place.reconfigure("ums1", with_short_timeouts);
    let cases = [
        ("hang", "did not end within", "licensing backup"),
        ("fails", "ended with status 1", "java.lang.NullPointerException"),
        ("exit_zero_no_effect", "wrote no file", "The UMS ID was backed up"),
    ];
    let servers = place.lab.processes().len();
    for (key, why, printed) in cases {
        place.lab.set("ums1", key, "backup").unwrap();
        let ran = place_run(&place);
        says(&ran, &["ums1: step", "back up the Main UMS ID", why, printed, "umsid resume"]);
        wait_for_blocking("what hung to be ended", SOON, || {
            (place.lab.processes().len() == servers).then_some(())
        });
        place.lab.set("ums1", key, "").unwrap();
    }
    // Nothing of it is in the way of the next one.
    place.umsid(&SYNC).exits(0);
    place.is_well();
}

/// A run that halts with nothing changed; its standstill says what can be typed.
#[track_caller]
fn place_run(place: &Place) -> crate::place::Ran {
    let before = place.lab.truth().unwrap();
    let ran = place.umsid(&SYNC).exits(1);
    assert_eq!(place.lab.truth().unwrap(), before, "{}", ran.err);
    ran
}

#[test]
fn a_restore_that_only_says_success_is_none() {
    let place = Place::broken(&["ums2", "ums3"]);
    let before = place.lab.truth().unwrap();
    place.lab.set("ums3", "exit_zero_no_effect", "restore").unwrap();
    let ran = place.umsid(&[&SYNC[..], &["-o", "json"]].concat()).exits(1);
    let report = ran.report();
    assert_eq!(report["outcome"], "rolled-back", "{report:#}");
    assert_eq!(report["failures"][0]["code"], "no-effect", "{report:#}");
    let after = place.lab.truth().unwrap();
    assert_eq!(after.servers[..2], before.servers[..2], "others were touched");
    assert_eq!(after.servers[2].fingerprint, before.servers[2].fingerprint);
    assert_eq!(place.calls("ums2", "licensing restore"), 0);
    place.never_created();
}

#[test]
fn a_main_server_without_umsadmin_cli_is_no_source() {
    let place = Place::broken(&["ums2"]);
    place.reconfigure("ums1", |text| {
        let cli = place.lab.server("ums1").unwrap().umsadmin_cli.to_str().unwrap();
        text.replace(&format!("\"{cli}\""), "\"/nonexistent/umsadmin-cli\"")
    });
    // ums3 holds the Main UMS ID as well, but with ums1 unknown nothing is done of itself.
    let ran = refused(&place, &SYNC, 3);
    says(&ran, &["ums1: whether it is in sync is unknown", "/nonexistent/umsadmin-cli"]);
}
