//! While a UMS is being changed, what is being done is on record already, on both sides.

use umsid_testkit::wait_for_blocking;

use crate::place::{Place, SOON};

#[test]
fn what_is_going_on_is_in_journal_and_record_already() {
    let place = Place::broken(&["ums2"]);
    place.lab.set("ums2", "restore_delay_ms", "2000").unwrap();
    let umsid = place.watch(&["sync", "--yes", "--settle", "0"]);
    wait_for_blocking("the restore", SOON, || (place.calls("ums2", "licensing restore") == 1).then_some(()));

    let runs = place.umsid(&["runs", "-o", "json"]).exits(0).json();
    let run = runs["runs"][0]["run"].as_str().unwrap().to_owned();
    let shown = place.umsid(&["runs", "show", &run, "-o", "json"]).exits(0).json();
    let steps = shown["steps"].as_array().unwrap();
    let restore = steps.iter().find(|step| step["what"] == "restore the Main UMS ID").unwrap();
    assert_eq!((&restore["server"], &restore["status"]), (&"ums2".into(), &"begun".into()), "{restore:#}");
    // The agent's record, read while the command is at work.
    let record = format!("agent-ums2/state/operations/{run}.{}.1.json", restore["step"]);
    let record = std::fs::read_to_string(place.dir.path().join(record)).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert!(record["started"]["at"].is_string(), "{record:#}");
    // It was so before the command, and not by then only.
    let calls = place.lab.calls("ums2").unwrap();
    let call = calls.iter().find(|call| call.is("licensing restore")).unwrap();
    assert_eq!(call.exit, None, "it has ended already");
    let time = |text: &serde_json::Value| text.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(time(&record["started"]["at"]) <= call.time, "{record:#}");
    let events = shown["events"].as_array().unwrap();
    let begun = events.iter().find(|event| event["event"] == "started" && event["step"] == restore["step"]);
    assert!(time(&begun.unwrap()["at"]) <= call.time, "{events:#?}");

    umsid.ends(0);
    place.is_well();
}
