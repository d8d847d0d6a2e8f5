use jiff::SignedDuration;

use super::*;
use crate::condition::judge;
use crate::survey::stage::{Stage, labelled};
use crate::survey::{Named, assess};

fn condition() -> Condition {
    let mut stage = Stage::new(&[("ums1", labelled("m", "m")), ("ums2", labelled("x", "m"))]);
    for server in ["ums1", "ums2"] {
        stage.inspection(server).certificate_not_after =
            Timestamp::UNIX_EPOCH + SignedDuration::from_hours(365 * 24);
    }
    stage.inspection("ums1").health.status = umsid_proto::model::HealthStatus::Err;
    stage.inspection("ums1").health.detail = "a|b\nc\\n d".into();
    stage.report("ums2").skew_ms = -250;
    judge(&stage.survey, &assess(&stage.survey, &Named::default()), &Limits::default())
}

#[test]
fn the_first_line_has_the_state_and_the_data_and_one_bar() {
    let condition = condition();
    let limits = Limits::default();
    let text =
        nagios::text(condition.level(), std::slice::from_ref(&condition), limits.certificate, limits.skew);
    let mut lines = text.lines();
    assert_eq!(
        lines.next(),
        Some(
            "UMSID CRITICAL - prod: ums1 UMS Server reports err, ums2 not in sync | prod.in_sync=1;2:;2:;0;2 \
             prod.not_in_sync=1;0;0;0;2 prod.unanswered=0;0;0;0;2 prod.unfinished_runs=0;0;;0 \
             prod.clock_skew=0.250s;30;60;0 prod.certificate=31536000s;2592000:;604800: prod.time=0.000s;;;0"
        )
    );
    assert_eq!(lines.next(), Some("CRITICAL prod: ums1 UMS Server reports err (a/b c\\n d)"));
    assert!(lines.next().unwrap().contains("what to do: `umsid plan prod`"), "{text}");
    assert_eq!(lines.next(), None);
}

#[test]
fn a_local_check_is_one_line_however_much_there_is_to_say() {
    let text = checkmk::text(&[condition()], Limits::default().skew);
    let expected = "2 \"UMS ID prod\" in_sync=1;;;0;2|not_in_sync=1;;;0;2|unanswered=0;;;0;2|unfinished_runs=0|\
                    clock_skew=0.250;30;60|certificate=31536000|time=0.000 ums1 UMS Server reports err, ums2 not in \
                    sync\\nCRITICAL prod: ums1 UMS Server reports err (a/b c\\\\n d)\\nCRITICAL prod: ums2 not in sync";
    assert!(text.starts_with(expected), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(checkmk::unknown("a\nb"), "3 \"UMS ID\" - a b\n");
}

#[test]
fn openmetrics_says_what_each_number_is_and_ends() {
    let text = metrics::openmetrics(&[condition()], Some(Timestamp::UNIX_EPOCH)).unwrap();
    for line in [
        "# TYPE umsid_cluster_state gauge",
        "umsid_cluster_state{cluster=\"prod\"} 2.0",
        "# HELP umsid_server_clock_skew_seconds How far the server's clock is ahead of ours.",
        "# UNIT umsid_server_clock_skew_seconds seconds",
        "umsid_server_clock_skew_seconds{cluster=\"prod\",server=\"ums2\",site=\"\"} -0.25",
        "umsid_server_state{cluster=\"prod\",server=\"ums2\",site=\"\",state=\"not-in-sync\"} 1.0",
        "umsid_server_state{cluster=\"prod\",server=\"ums2\",site=\"\",state=\"in-sync\"} 0.0",
        "umsid_check_success 1.0",
    ] {
        assert!(text.lines().any(|other| other == line), "{line:?} is not in\n{text}");
    }
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    let nothing = metrics::nothing().unwrap();
    assert!(nothing.contains("umsid_check_success 0.0\n") && nothing.ends_with("# EOF\n"), "{nothing}");
    assert!(!nothing.contains("cluster"), "{nothing}");
}

#[test]
fn bounds_that_make_no_sense_are_refused() {
    assert_eq!(days("30,7").map(|bounds| bounds.critical), Ok(Duration::from_secs(7 * 24 * 3600)));
    assert!(days("7,30").unwrap_err().contains("larger"));
    assert!(skew("60,30").unwrap_err().contains("smaller"));
    for text in ["", "30", "30,", "a,b", "-1,2", "30,60,90"] {
        assert!(skew(text).is_err(), "{text:?}");
    }
    assert_eq!(timeout("30"), Ok(Duration::from_secs(30)));
    assert_eq!(timeout("1min"), Ok(Duration::from_secs(60)));
    assert!(timeout("0").is_err() && timeout("soon").is_err());
}
