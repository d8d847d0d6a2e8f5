//! What is told of events.

use jiff::Timestamp;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{Effect, RawOutput};

use super::*;

fn board() -> Board {
    let server = "ums2".parse().unwrap();
    Board {
        cluster: "hamburg".parse().unwrap(),
        among_others: false,
        run: Some("20261122t204512-7f3a9c".parse().unwrap()),
        since: Instant::now(),
        steps: [(7, What::Restore { server }), (8, What::VerifyCluster)].into(),
        going_on: BTreeMap::new(),
        said: BTreeMap::new(),
    }
}

fn recorded(event: Event) -> Recorded {
    Recorded { number: 9, at: Timestamp::UNIX_EPOCH, event }
}

fn failed() -> Recorded {
    let raw = RawOutput { stdout: "very long".into(), ..RawOutput::default() };
    let failure = Failure::new(Code::CommandFailed, "it broke").raw(raw);
    let result = StepResult::Failed { ums_ms: 1, failure, effect: Effect::None };
    recorded(Event::Finished { step: 7, attempt: 1, result })
}

#[test]
fn a_line_begins_with_the_place_and_says_what() {
    let board = board();
    let started = recorded(Event::Started { step: 7, attempt: 2 });
    assert_eq!(line(&board, &started).unwrap(), "ums2: restore the Main UMS ID, attempt 2");
    assert_eq!(line(&board, &failed()).unwrap(), "ums2: restore the Main UMS ID: FAILED: it broke");
    let cluster = recorded(Event::Started { step: 8, attempt: 1 });
    assert_eq!(line(&board, &cluster).unwrap(), "cluster: verify the whole cluster");
}

#[test]
fn an_event_for_programs_names_run_and_place_and_leaves_long_output_out() {
    let document = event_document(&board(), &failed());
    assert_eq!(document["event"], "finished");
    assert_eq!(document["run"], "20261122t204512-7f3a9c");
    assert_eq!((&document["server"], &document["do"]), (&json!("ums2"), &json!("restore")));
    assert_eq!(document["result"]["failure"]["causes"][0], "it broke");
    assert!(!document.to_string().contains("very long"), "{document}");
}
