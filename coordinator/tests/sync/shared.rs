//! All of this once more, with the state of every place in PostgreSQL.

use std::process::Stdio;

use umsid_testkit::PostgresServer;

use crate::place::IN_POSTGRESQL;

/// Stories of two whose journals are apart: with shared state there are none. What then holds instead, `administrators` shows.
const OF_TWO_JOURNALS: [&str; 13] = [
    "lost::a_coordinator_that_comes_back",
    "lost::lost_in_the_middle_it_is_rolled_back_from_another_machine",
    "lost::the_longer_journal",
    "lost::two_journals",
    "locks::a_run_that_is_unlocked_although_it_lives",
    "locks::an_operation_that_is_going_on",
    "locks::of_two_at_the_same_moment",
    "locks::the_second_of_two",
    "refusals::a_locked_cluster_is_left_alone",
    "standstill::a_way_back_that_was_overtaken",
    "standstill::nor_is_one_that_is_half_done",
    "standstill::one_without_an_end_that_was_overtaken",
    "standstill::so_is_one_overtaken_from_another_machine",
];

#[test]
#[expect(clippy::disallowed_methods, reason = "this very program, once more")]
fn everything_holds_with_the_state_in_postgresql() {
    if std::env::var_os(IN_POSTGRESQL).is_some() {
        return;
    }
    if let Some(why) = PostgresServer::missing() {
        // Counted as ignored in `administrators`, which has a harness that can.
        println!("not run: {why}");
        return;
    }
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.env(IN_POSTGRESQL, "1").stdin(Stdio::null());
    again.args(OF_TWO_JOURNALS.iter().flat_map(|story| ["--skip", story]));
    let output = again.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let passed = said.matches("... ok").count();
    assert!(passed >= 60, "only {passed} ran:\n{said}");
}
