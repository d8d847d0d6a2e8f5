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
    // The agent's record, read while the command is at work: a line for each state, of which the last one counts.
    let record = format!("agent-ums2/state/operations/{run}.{}.1.json", restore["step"]);
    let record = std::fs::read_to_string(place.dir.path().join(record)).unwrap();
    let record: serde_json::Value = serde_json::from_str(record.lines().last().unwrap()).unwrap();
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

/// Somebody else writes into the journal, so that it takes its time: until the step is in it nobody begins it.
#[cfg(target_os = "linux")]
#[test]
fn what_is_not_in_the_journal_yet_is_not_begun() {
    use rustix::process::{Pid, Signal, kill_process};
    use sqlx::{Connection as _, Executor as _};

    let place = Place::broken(&["ums2"]);
    let plan = place.umsid(&["plan", "--settle", "0", "-o", "json"]).json();
    let steps = plan["steps"].as_array().or_else(|| plan["plan"]["steps"].as_array()).unwrap();
    let restore = steps.iter().find(|step| step["what"]["do"] == "restore").unwrap()["no"].as_u64().unwrap();
    let fault = format!("stop@journal started {restore}.1 before");
    let umsid = place.watch_with(&[("UMSID_FAULT", &fault)], &["sync", "--yes", "--settle", "0"]);
    let pid = umsid.pid();
    wait_for_blocking("umsid to stand still", SOON, || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ")?.1.starts_with('T').then_some(())
    });

    let begun = || {
        let operations = std::fs::read_dir(place.agent_dir("ums2").join("state/operations")).unwrap();
        operations
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().ends_with(&format!(".{restore}.1.json")))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let url = format!("sqlite:{}", place.state().join("state.db").display());
        let mut other = sqlx::SqliteConnection::connect(&url).await.unwrap();
        other.execute("BEGIN IMMEDIATE").await.unwrap();
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::CONT).unwrap();
        // Its passing is what is tried: longer than a call to an agent takes.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert!(!begun(), "it is begun, and not in the journal");
        other.execute("COMMIT").await.unwrap();
    });
    umsid.ends(0);
    assert!(begun());
    place.is_well();
}
