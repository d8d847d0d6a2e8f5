use super::*;

fn print(text: &str) -> Fingerprint {
    Fingerprint::sha256_of(text.as_bytes())
}

fn ids(local: Option<&str>) -> UmsIds {
    UmsIds { local: local.map(print), ..UmsIds::default() }
}

fn code(result: Result<Success, Trouble>) -> Result<usize, (Code, Effect)> {
    match result {
        Ok(Success::Restored { remarks, .. }) => Ok(remarks.len()),
        Err(Trouble::Failed { failure, effect }) => Err((failure.code, effect)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn exit_0_counts_only_with_the_effect() {
    let judge = |before: &str, expected: &str, after| {
        code(judge(Some(print(before)), Some(print(expected)), ids(after), Vec::new()))
    };
    assert_eq!(judge("own", "main", Some("main")), Ok(0));
    assert_eq!(judge("own", "main", None), Ok(1), "unknown is not refused, but told");
    assert_eq!(judge("own", "main", Some("own")), Err((Code::NoEffect, Effect::Possible)));
    assert_eq!(judge("own", "main", Some("other")), Err((Code::WrongIdentity, Effect::Possible)));
    assert_eq!(judge("own", "own", Some("own")), Ok(0), "a rehearsal restores what is there");
}

#[test]
fn after_an_interruption_only_evidence_counts() {
    let found = |now, ended| found(Some(print("own")), Some(print("main")), ids(now), ended);
    assert_eq!(code(found(Some("main"), true)), Ok(1));
    assert_eq!(code(found(Some("own"), true)), Err((Code::Interrupted, Effect::None)));
    assert_eq!(code(found(Some("own"), false)), Err((Code::Interrupted, Effect::Possible)));
    assert!(matches!(found(Some("other"), true), Err(Trouble::Unknown(_))));
    assert!(matches!(found(None, true), Err(Trouble::Unknown(_))));
}

/// A rehearsal restores what is there: that it is there afterwards proves nothing of the way it was to prove.
#[test]
fn an_interrupted_restore_of_what_was_there_already_is_not_called_done() {
    let own = || Some(print("own"));
    assert_eq!(code(found(own(), own(), ids(Some("own")), true)), Err((Code::Interrupted, Effect::None)));
    assert_eq!(
        code(found(own(), own(), ids(Some("own")), false)),
        Err((Code::Interrupted, Effect::Possible))
    );
    assert!(matches!(found(own(), own(), ids(Some("other")), true), Err(Trouble::Unknown(_))));
}

#[test]
fn a_backup_of_another_version_is_refused_where_both_are_known() {
    let fits = |made_by, here| versions_fit(made_by, here).map_err(|failure| failure.code);
    assert_eq!(fits("12.09.110", Some("12.09.110")), Ok(()));
    assert_eq!(fits("12.9.110", Some("12.09.110")), Ok(()), "zero-padded or not");
    assert_eq!(fits("12.09.110", Some("12.10.100")), Err(Code::BadBackup));
    assert_eq!(fits("12.10.100", Some("12.09.110")), Err(Code::BadBackup));
    assert_eq!(fits("", Some("12.09.110")), Ok(()), "the coordinator has asked before");
    assert_eq!(fits("12.09.110", None), Ok(()));
}
