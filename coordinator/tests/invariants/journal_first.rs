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
    let operations = place.dir.path().join("agent-ums2/state/operations");
    let records: Vec<String> = std::fs::read_dir(operations)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default())
        .collect();
    let step = restore["step"].as_u64().unwrap();
    let of_it =
        |text: &&String| text.contains(&run) && text.contains(&format!("{step}")) && text.contains("estor");
    assert!(records.iter().any(|text| of_it(&text)), "{records:#?}");
    assert!(
        place
            .lab
            .calls("ums2")
            .unwrap()
            .iter()
            .any(|call| call.is("licensing restore") && call.exit.is_none())
    );

    umsid.ends(0);
    place.is_well();
}
