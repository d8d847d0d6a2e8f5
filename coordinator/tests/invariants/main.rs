//! The invariants of the design, and by which tests each is held. A test that is not there any more is noticed here;
//! `secrets.rs` and `journal_first.rs` hold what concerns the whole system at once.

#![allow(clippy::unwrap_used, reason = "a test that finds something else than expected fails by panicking")]

#[path = "../support/place.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod place;

#[cfg(unix)]
#[path = "../support/eavesdropper.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod eavesdropper;

mod contract;
mod documents;
mod journal_first;
#[cfg(unix)]
mod secrets;

use std::path::{Path, PathBuf};

struct Invariant {
    number: usize,
    says: &'static str,
    /// File below the root, and the tests in it.
    held_by: &'static [(&'static str, &'static [&'static str])],
}

const INVARIANTS: [Invariant; 12] = [
    Invariant {
        number: 1,
        says: "`umsadmin-cli licensing create` is never called.",
        held_by: &[
            (
                "agent/tests/ums_installation.rs",
                &["no_source_file_has_the_sub_command_that_makes_a_new_ums_id"],
            ),
            (
                "coordinator/tests/invariants/secrets.rs",
                &["no_secret_is_left_anywhere_and_no_ums_id_created"],
            ),
        ],
    },
    Invariant {
        number: 2,
        says: "Nothing is restored over a UMS ID that has no verified safety backup on that server.",
        held_by: &[
            (
                "agent/tests/network/restore.rs",
                &[
                    "without_a_safety_backup_nothing_is_restored",
                    "a_safety_backup_of_another_server_is_none_here",
                ],
            ),
            ("agent/tests/network/start.rs", &["a_damaged_safety_backup_is_reported_and_does_not_count"]),
            ("coordinator/src/plan/tests.rs", &["no_restore_is_planned_before_the_safety_backup"]),
            ("coordinator/tests/bad_input/backups.rs", &["a_backup_that_is_empty_or_too_large_is_not_used"]),
        ],
    },
    Invariant {
        number: 3,
        says: "No step runs that is not in the journal first; no operation runs that is not in the agent's record first.",
        held_by: &[
            (
                "coordinator/tests/invariants/journal_first.rs",
                &[
                    "what_is_going_on_is_in_journal_and_record_already",
                    "what_is_not_in_the_journal_yet_is_not_begun",
                ],
            ),
            ("agent/tests/network/restore.rs", &["the_record_says_started_before_the_ums_is_touched"]),
            ("coordinator/src/journal/tests.rs", &["a_journal_that_cannot_be_written_says_no"]),
        ],
    },
    Invariant {
        number: 4,
        says: "An operation found started, without outcome, is neither done nor failed: the agent finds out what is true.",
        held_by: &[
            (
                "agent/tests/network/recovery.rs",
                &[
                    "a_restore_that_went_on_without_the_agent_is_found_done",
                    "a_restore_that_did_nothing_is_found_undone",
                    "a_restore_of_which_nothing_can_be_said_is_unknown",
                    "a_restart_that_happened_is_found_done_and_not_repeated",
                    "a_restart_that_did_not_happen_is_found_undone",
                ],
            ),
            ("coordinator/src/run/tests.rs", &["a_death_after_any_event_changes_nothing"]),
        ],
    },
    Invariant {
        number: 5,
        says: "No file is visible under its name unless whole, verified against its SHA-256, and durable.",
        held_by: &[
            (
                "common/src/durable.rs",
                &[
                    "what_comes_in_is_seen_only_when_it_is_what_was_announced",
                    "a_file_is_replaced_as_a_whole",
                ],
            ),
            (
                "agent/tests/network/transfer.rs",
                &["an_upload_that_lies_leaves_nothing", "an_upload_that_breaks_off_leaves_nothing"],
            ),
            (
                "coordinator/tests/bad_input/backups.rs",
                &["a_backup_altered_before_the_transfer_reaches_nobody"],
            ),
        ],
    },
    Invariant {
        number: 6,
        says: "The agent takes no path from the network; names are ids and digests, parsed at the door.",
        held_by: &[
            ("coordinator/tests/invariants/contract.rs", &["no_message_has_a_field_for_a_path_or_a_command"]),
            ("agent/tests/network/gateway.rs", &["it_leads_to_the_servers_it_was_told_of_and_nowhere_else"]),
            ("common/src/name.rs", &["names_that_could_be_paths_or_look_alikes_are_refused"]),
            ("proto/src/model/tests.rs", &["what_means_nothing_is_refused_and_names_the_field"]),
        ],
    },
    Invariant {
        number: 7,
        says: "No password and no key material in an argument list, an environment, a log, a journal, or a temporary \
               file that outlives its command. What crosses the coordinator is sealed; the coordinator cannot open it.",
        held_by: &[
            (
                "coordinator/tests/invariants/secrets.rs",
                &["no_secret_is_left_anywhere_and_no_ums_id_created"],
            ),
            ("agent/tests/network/operations.rs", &["nothing_of_a_backup_is_left_in_the_open"]),
            ("agent/tests/ums_installation.rs", &["a_password_file_is_private_exact_and_gone_afterwards"]),
            (
                "common/tests/seal.rs",
                &["another_key_does_not_open_it", "the_opened_backup_is_private_and_gone_with_its_handle"],
            ),
        ],
    },
    Invariant {
        number: 8,
        says: "No agent obeys a caller that is not the coordinator by its certificate's role; no coordinator trusts an \
               agent whose certificate is not the one of the server it dialled; nothing speaks less than TLS 1.3 with \
               both certificates.",
        held_by: &[
            (
                "agent/tests/network/roles.rs",
                &[
                    "every_call_is_refused_to_every_role_that_may_not",
                    "nobody_of_another_authority_or_trust_domain_gets_in",
                ],
            ),
            (
                "agent/tests/network/tunnel.rs",
                &[
                    "a_tunnel_is_kept_for_whom_the_gateway_was_told_of",
                    "an_agent_calls_no_gateway_that_is_another_server",
                ],
            ),
            (
                "common/tests/tls.rs",
                &[
                    "nothing_less_than_tls_13_is_spoken_on_either_side",
                    "nothing_but_the_name_is_forgiven",
                    "callers_with_unfit_certificates_are_refused_each_by_its_alert",
                ],
            ),
            (
                "coordinator/tests/bad_input/certificates.rs",
                &[
                    "an_observers_certificate_changes_nothing",
                    "a_server_whose_certificate_is_revoked_is_refused",
                ],
            ),
        ],
    },
    Invariant {
        number: 9,
        says: "Two runs never change one server at the same time.",
        held_by: &[
            (
                "agent/tests/network/leases.rs",
                &[
                    "of_two_runs_at_once_one_gets_the_lease",
                    "whoever_does_not_hold_the_lease_changes_nothing",
                ],
            ),
            ("coordinator/tests/sync/refusals.rs", &["a_locked_cluster_is_left_alone_and_the_holder_named"]),
            ("coordinator/src/journal/tests.rs", &["of_two_that_carry_out_one_run_the_second_is_told"]),
        ],
    },
    Invariant {
        number: 10,
        says: "A cluster's UMS ID never reaches a server of another cluster.",
        held_by: &[
            ("agent/tests/network/leases.rs", &["a_server_of_another_cluster_grants_nothing"]),
            ("agent/tests/network/restore.rs", &["a_backup_that_is_not_the_plans_is_refused"]),
            (
                "coordinator/tests/bad_input/cluster.rs",
                &["a_server_of_another_cluster_that_answers_is_refused"],
            ),
        ],
    },
    Invariant {
        number: 11,
        says: "The exit code is 0 only if every server that was to be synchronized is verified synchronized.",
        held_by: &[
            ("coordinator/src/run/tests.rs", &["an_unproved_target_is_never_called_synchronized"]),
            ("coordinator/tests/dialects/main.rs", &["the_whole_job_is_possible_in_every_dialect"]),
            (
                "coordinator/tests/sync/refusals.rs",
                &["with_a_server_that_does_not_answer_nothing_is_called_in_sync"],
            ),
            ("coordinator/tests/bad_input/programs.rs", &["a_restore_that_only_says_success_is_none"]),
        ],
    },
    Invariant {
        number: 12,
        says: "Missing, torn and corrupt are three answers; so are no, not yet and unknown.",
        held_by: &[
            ("coordinator/src/journal/tests.rs", &["missing_torn_and_corrupt_are_three_answers"]),
            ("agent/tests/network/start.rs", &["damaged_is_not_absent"]),
            ("common/src/durable.rs", &["missing_is_an_answer_and_unreadable_is_an_error"]),
            ("coordinator/src/survey/tests.rs", &["no_answer_is_unknown_and_never_in_sync"]),
        ],
    },
];

#[test]
fn every_invariant_is_held_by_tests_there_are() {
    let mut wanting = Vec::new();
    for (at, invariant) in INVARIANTS.iter().enumerate() {
        assert_eq!(invariant.number, at + 1);
        assert!(!invariant.held_by.is_empty(), "nothing holds {}: {}", invariant.number, invariant.says);
        for (file, tests) in invariant.held_by {
            let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
            assert!(!tests.is_empty());
            for test in *tests {
                if !is_test(&text, test) {
                    wanting.push(format!("{}: {file} has no test `{test}`", invariant.number));
                }
            }
        }
    }
    assert!(wanting.is_empty(), "\n{}", wanting.join("\n"));
}

/// Whether there is a function of this name under `#[test]`, not ignored.
fn is_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_it = |line: &&str| line.contains(&format!("fn {name}("));
    let Some(at) = lines.iter().position(is_it) else { return false };
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
    let above: Vec<&str> = above.copied().collect();
    above.iter().any(|line| *line == "#[test]" || line.starts_with("#[tokio::test"))
        && !above.iter().any(|line| line.starts_with("#[ignore"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[test]
fn a_name_in_a_comment_or_an_ignored_test_is_no_test() {
    assert!(is_test("#[test]\n#[cfg(unix)]\nfn a() {", "a"));
    assert!(is_test("    #[tokio::test]\n    async fn a() {", "a"));
    for text in ["// fn a()", "fn a() {", "#[test]\n#[ignore]\nfn a() {", "#[test]\nfn ab() {"] {
        assert!(!is_test(text, "a"), "{text}");
    }
}
