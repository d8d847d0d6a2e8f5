//! Standard output goes away, or is full, in the middle of a run: the run goes on, and does not look like a success.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::place::Place;

#[expect(clippy::disallowed_methods, reason = "assert_cmd always reads standard output itself")]
fn sync(place: &Place, format: &str) -> Command {
    let mut umsid = Command::new(env!("CARGO_BIN_EXE_umsid"));
    umsid.env("UMSID_STATE_DIR", place.state()).args(["sync", "--yes", "--settle", "0", "-o", format]);
    umsid.stderr(Stdio::piped());
    umsid
}

#[test]
fn a_reader_that_leaves_in_the_middle_does_not_stop_a_run() {
    let place = Place::broken(&["ums2"]);
    let mut umsid = sync(&place, "json").stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(umsid.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let ended = umsid.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    let first: serde_json::Value = serde_json::from_str(&first).unwrap();
    let run = first["run"].as_str().unwrap();
    assert!(said.contains("cannot write to standard output"), "{said}");
    assert!(said.contains(&format!("`umsid runs show {run}`")), "{said}");
    place.is_well();
    let report = place.umsid(&["runs", "show", run, "-o", "json"]).exits(0).json();
    assert_eq!(report["outcome"], "synchronized");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_does_not_hide_how_a_run_ended() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let place = Place::broken(&["ums2"]);
    let ended = sync(&place, "table").stdout(full()).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write to standard output") && said.contains("No space left"), "{said}");
    place.is_well();

    // What the run came to is worse than that nobody reads it.
    place.lab.break_servers(&["ums3"], umsid_lab::Break::Lasting).unwrap();
    place.lab.set("ums3", "restore_gives", "other").unwrap();
    let ended = sync(&place, "table").stdout(full()).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(8), "{said}");
    for part in ["cannot write to standard output", "`umsid runs show ", "umsid resume", "went back: ums3"] {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
}
