use std::collections::BTreeMap;

use clap::Parser;
use proptest::prelude::*;

use super::*;
use crate::plan::{Basis, make};
use crate::survey::stage::{Stage, labelled};
use crate::survey::{Named, assess};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    wish: Wish,
}

fn request(arguments: &[&str]) -> Result<Request, clap::Error> {
    Line::try_parse_from([&["x"], arguments].concat()).map(|line| line.wish.request())
}

#[test]
fn whoever_names_servers_wants_the_others_left_alone() {
    assert_eq!(request(&[]).unwrap(), Request::sync());
    assert_eq!(request(&["--only", "ums2"]).unwrap().restart, RestartScope::Restored);
    assert_eq!(request(&["--only", "ums2", "--restart", "all"]).unwrap().restart, RestartScope::All);
    let several = request(&["--only", "ums2,ums3", "--only", "ums2"]).unwrap().only;
    assert_eq!(several, ["ums2", "ums3"].map(|name| name.parse().unwrap()));
}

#[test]
fn nonsense_is_refused_at_the_door() {
    for line in
        [&["--batch", "0"][..], &["--restart", "some"], &["--main-fingerprint", "12"], &["--settle", "-1"]]
    {
        assert!(request(line).is_err(), "{line:?}");
    }
}

fn plan() -> Plan {
    let stage = Stage::new(&[("ums1", labelled("a", "a")), ("ums2", labelled("b", "a"))]);
    let assessment = assess(&stage.survey, &Named::default());
    let basis = Basis {
        name: &stage.survey.cluster,
        cluster: &stage.cluster,
        survey: &stage.survey,
        assessment: &assessment,
        named: &Named::default(),
        restarts: &BTreeMap::new(),
        restores: &BTreeMap::new(),
    };
    make(&basis, &Request::sync())
}

/// What a plan file with this content is taken for.
fn read(content: &[u8]) -> anyhow::Result<Plan> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plan.json");
    durable::replace(&path, content, Access::Private).unwrap();
    PlanFile::read(&path)
}

fn written() -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plan.json");
    PlanFile::write(&path, &plan()).unwrap();
    std::fs::read_to_string(&path).unwrap()
}

#[test]
fn a_plan_comes_back_from_its_file_as_it_was() {
    assert_eq!(read(written().as_bytes()).unwrap(), plan());
}

#[test]
fn an_altered_plan_is_refused() {
    let error = read(written().replacen("\"batch\": 1", "\"batch\": 9", 1).as_bytes()).unwrap_err();
    assert!(error.to_string().contains("was altered"), "{error}");
    assert_eq!(exit::of(&error), Exit::Usage);
}

#[test]
fn what_is_no_plan_is_refused() {
    for (content, why) in [(&b""[..], "is empty"), (b"{}", "holds no plan"), (b"\xff\xfe", "holds no plan")] {
        let error = read(content).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(exit::of(&error), Exit::Usage);
    }
}

#[test]
fn a_plan_of_another_format_is_refused() {
    let error = read(written().replacen("\"version\": 1", "\"version\": 2", 1).as_bytes()).unwrap_err();
    assert!(error.to_string().contains("format 2"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// A plan is carried out as it was shown or not at all.
    #[test]
    fn no_altered_plan_is_taken_for_another(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let dir = umsid_testkit::scratch();
        let path = dir.path().join("plan.json");
        PlanFile::write(&path, &plan()).unwrap();
        let mut text = std::fs::read(&path).unwrap();
        let at = at.index(text.len());
        text[at] = byte;
        durable::replace(&path, &text, Access::Private).unwrap();
        if let Ok(read) = PlanFile::read(&path) {
            prop_assert_eq!(read, plan());
        }
    }
}
