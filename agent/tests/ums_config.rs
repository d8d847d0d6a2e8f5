//! The configuration: defaults, the annotated example, and errors that name file and key.
#![allow(clippy::unwrap_used, reason = "a test that finds something else than expected fails by panicking")]

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use umsid_agent::config::{CommandLine, Config, ServiceKind};

const EXAMPLE: &str = include_str!("../../deploy/config/agent.toml");

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("/etc/umsid/agent.toml")).map_err(|error| error.to_string())
}

/// The example with every commented key live.
fn uncommented() -> String {
    EXAMPLE.lines().map(|line| key(line).unwrap_or(line).to_owned() + "\n").collect()
}

fn key(line: &str) -> Option<&str> {
    line.strip_prefix('#').filter(|rest| !rest.starts_with(' ') && !rest.is_empty())
}

#[test]
fn the_example_as_it_is_changes_nothing() {
    assert_eq!(parse(EXAMPLE).unwrap(), Config::default());
    assert_eq!(parse("").unwrap(), Config::default());
}

#[test]
fn every_key_of_the_example_is_known_and_at_its_default() {
    let mut config = parse(&uncommented()).unwrap();
    // What has no default because it is found out is shown with an example.
    assert_eq!(config.ums.umsadmin_cli, Some(CommandLine::program(Path::new("/usr/local/bin/umsadmin-cli"))));
    assert_eq!(config.service.control, Some(ServiceKind::Systemd));
    let defaults = Config::default();
    config.service = defaults.service.clone();
    let ums = &mut config.ums;
    (ums.umsadmin_cli, ums.install_dir, ums.version, ums.web_port) = (None, None, None, None);
    (ums.health_url, ums.distributed) = (None, None);
    assert_eq!(config, defaults);
}

#[test]
fn every_key_there_is_is_in_the_example() {
    for section in
        ["", "ums", "service", "timeouts", "health", "output", "limits", "gateway", "tunnel", "log"]
    {
        let open = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
        let error = parse(&format!("{open}no_such_key = 1\n")).unwrap_err();
        let known = error.split("expected ").nth(1).unwrap_or_else(|| panic!("{error}"));
        let known: Vec<_> = known.split('`').skip(1).step_by(2).collect();
        assert!(!known.is_empty(), "{error}");
        for key in known {
            let shown = [format!("\n#{key} = "), format!("\n[{key}]\n")];
            assert!(shown.iter().any(|text| EXAMPLE.contains(text)), "{section}.{key} is not in the example");
        }
    }
}

#[test]
fn errors_name_file_line_and_key() {
    for (text, wanted) in [
        ("lisen = \"0.0.0.0:1\"\n", "/etc/umsid/agent.toml, line 1, `lisen`: unknown field"),
        ("\n[health]\ninterval = 3\n", "/etc/umsid/agent.toml, line 3, `health.interval`:"),
        ("[health]\nsuccesses = 0\n", "/etc/umsid/agent.toml, `health.successes`: it must be more than 0"),
        ("[ums]\nhealth_url = \"8443\"\n", "/etc/umsid/agent.toml, `ums.health_url`:"),
        ("[ums]\nhealth_url = \"https://h/ums/check-status\"\n", "`ums.health_url`:"),
        ("[ums]\nmain_words = [\"*\"]\n", "`ums.main_words`:"),
        ("[ums]\numsadmin_cli = []\n", "line 2, `ums.umsadmin_cli`:"),
        ("[service]\ncontrol = \"upstart\"\n", "line 2, `service.control`:"),
        ("[service]\ncontrol = \"command\"\nstart = \"/bin/true\"\n", "`service.stop`: needed where"),
        (
            "[gateway]\nservers = { ums2 = \"10.1.0.7\" }\n",
            "line 2, `gateway.servers`: `10.1.0.7` is no address",
        ),
        ("[tunnel]\ngateways = { ums1 = \"here\" }\n", "line 2, `tunnel.gateways`: `here` is no address"),
        ("[gateway]\nconnections = 0\n", "`gateway.connections`: it must be more than 0"),
        ("state_dir = \"here\"\n", "`state_dir`: an absolute path is needed"),
        ("[nonsense]\n", "line 1, `nonsense`: unknown field"),
        ("listen = \n", "line 1, `listen`:"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(wanted), "{text:?} gives {error:?}");
        assert!(!error.contains('\n'), "{error:?}");
    }
}

#[test]
fn durations_are_in_words_and_commands_are_never_split() {
    let config = parse(
        "[timeouts]\nlist = \"1min 30s\"\n[health]\ninterval = \"250ms\"\n[ums]\numsadmin_cli = \"/a b/c\"\n",
    )
    .unwrap();
    assert_eq!(config.timeouts.list, Duration::from_secs(90));
    assert_eq!(config.health.interval, Duration::from_millis(250));
    let command = config.ums.umsadmin_cli.unwrap();
    assert_eq!(command.parts(), ("/a b/c", &[][..]));
    let config = parse("[ums]\numsadmin_cli = [\"sudo\", \"-n\", \"/a b/c\"]\n").unwrap();
    assert_eq!(config.ums.umsadmin_cli.unwrap().to_string(), "sudo -n /a b/c");
}

/// A duration past the end of the clock would end the agent where it is used: every key refuses it when it is read.
#[test]
fn no_duration_is_longer_than_a_year() {
    let (mut section, mut refused) = (String::new(), 0);
    for line in EXAMPLE.lines() {
        if line.starts_with('[') {
            section = line.to_owned();
        }
        let Some((key, value)) = line.trim_start_matches('#').split_once(" = \"") else { continue };
        let value = value.split('"').next().unwrap_or_default();
        let unit = value.trim_start_matches(|c: char| c.is_ascii_digit());
        if unit.len() == value.len() || !["ms", "s", "min", "h"].contains(&unit) {
            continue;
        }
        for long in ["9000h", "9223372036854775807s"] {
            let error = parse(&format!("{section}\n{key} = \"{long}\"\n")).unwrap_err();
            assert!(error.contains(key) && error.contains("a year"), "{section} {key}: {error}");
        }
        refused += 1;
    }
    assert_eq!(refused, 12);
}

proptest! {
    #[test]
    fn no_text_breaks_the_configuration(
        lines in proptest::collection::vec(line(), 0..8),
    ) {
        if let Err(error) = parse(&lines.concat()) {
            prop_assert!(error.starts_with("/etc/umsid/agent.toml, "), "{error}");
        }
    }
}

/// A line of the example, whole or altered, or anything.
fn line() -> impl Strategy<Value = String> {
    let known: Vec<&str> = EXAMPLE.lines().collect();
    let known = proptest::sample::select(known).prop_map(|line| line.trim_start_matches('#').to_owned());
    let altered = (known.clone(), 0usize..60, ".{0,3}").prop_map(|(line, at, piece)| {
        let at = line.char_indices().map(|(at, _)| at).nth(at).unwrap_or(line.len());
        format!("{}{piece}{}", &line[..at], &line[at..])
    });
    prop_oneof![known, altered, ".{0,40}"].prop_map(|line| line + "\n")
}

#[test]
fn a_named_file_must_be_there() {
    let dir = umsid_testkit::scratch();
    let path = dir.path().join("agent.toml");
    let error = Config::load(Some(&path)).unwrap_err();
    assert!(error.to_string().contains("agent.toml"));
    umsid_common::durable::replace(&path, b"max_backup_bytes = 7\n", umsid_common::durable::Access::Public)
        .unwrap();
    assert_eq!(Config::load(Some(&path)).unwrap().max_backup_bytes, 7);
}

#[test]
fn what_controls_services_of_another_system_is_refused() {
    let (ours, others): (&[&str], &[&str]) = if cfg!(windows) {
        (&["windows-service"], &["systemd", "init-script"])
    } else {
        (&["systemd", "init-script"], &["windows-service"])
    };
    let with = |control| parse(&format!("[service]\ncontrol = \"{control}\"\nname = \"x\"\n"));
    for control in ours.iter().chain(&["umsadmin-cli"]) {
        assert_eq!(with(control).unwrap().service.name.as_deref(), Some("x"), "{control}");
    }
    for control in others {
        let error = with(control).unwrap_err();
        assert!(error.contains("`service.control`: there is no such thing on this system"), "{error}");
    }
}
