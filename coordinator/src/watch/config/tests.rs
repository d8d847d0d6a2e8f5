use umsid_common::durable::{self, Access};

use super::*;

const EXAMPLE: &str = include_str!("../../../../deploy/config/watch.toml");

fn load(text: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("watch.toml");
    durable::replace(&path, text.as_bytes(), Access::Private).unwrap();
    Config::load(&path)
}

/// What is said of a text that does not do.
#[track_caller]
fn refused(text: &str) -> String {
    load(text).unwrap_err().to_string()
}

/// The example with what is commented out put in: `#key = …` and `#[section]`, without a space, are settings.
fn all_of_the_example() -> String {
    let setting = |line: &&str| {
        let rest = line.strip_prefix('#')?;
        rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[').then(|| rest.to_owned())
    };
    EXAMPLE.lines().map(|line| setting(&line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

#[test]
fn the_example_as_it_is_says_what_holds_without_it() {
    assert_eq!(load(EXAMPLE).unwrap(), Config::default());
}

#[test]
fn all_of_the_example_does_and_shows_every_key() {
    let config = load(&all_of_the_example()).unwrap();
    assert_eq!(config.sync.len(), 1);
    assert_eq!((config.webhook.len(), config.mail.len()), (1, 1));
    let text = all_of_the_example();
    let shown = toml::to_string(&config).unwrap();
    for line in shown.lines().filter(|line| !line.is_empty()) {
        let key = line.split(['=', ']']).next().unwrap().trim().trim_start_matches('[');
        assert!(text.contains(key), "{key} is not in the example:\n{shown}");
    }
    for key in ["url_file", "ca_file", "time_zone", "port", "password_file"] {
        assert!(EXAMPLE.contains(key), "{key}");
    }
}

#[test]
fn what_does_not_do_is_refused_with_its_place() {
    for (text, why) in [
        ("every = \"5min\"\nevrey = 1", "line 2: unknown field `evrey`"),
        ("every = \"soon\"", "line 1: "),
        ("every = \"0s\"", "`every` is between 1 s and a week"),
        ("timeout = \"200h\"", "`timeout` is between"),
        ("confirm = 0", "`confirm` is at least 1"),
        ("[limits]\ncertificate_days = [7, 30]", "a warning comes before"),
        ("[metrics]\nlisten = \"0.0.0.0:9436\"", "0.0.0.0 is no address of the loopback"),
        ("[[webhook]]\nname = \"a\"", "webhook `a`: it has either `url` or `url_file`"),
        ("[[webhook]]\nname = \"a\"\nurl = \"http://example.com/x\"", "begins with https://"),
        ("[[webhook]]\nname = \"a\"\nurl = \"ftp://127.0.0.1/x\"", "begins with https://"),
        ("[[webhook]]\nname = \"a\"\nurl = \"no url\"", "is no URL"),
        (
            "[[webhook]]\nname = \"a\"\nurl = \"https://x/\"\n[[webhook]]\nname = \"a\"\nurl = \"https://y/\"",
            "a `name` of its own, not `a`",
        ),
        ("[[mail]]\nserver = \"x\"\nfrom = \"a@b.c\"\nto = []", "mail `mail`: nobody is in `to`"),
        ("[[mail]]\nserver = \"x\"\nfrom = \"nobody\"\nto = []", "line 3: "),
        (
            "[[mail]]\nserver = \"x\"\nfrom = \"a@b.c\"\nto = [\"a@b.c\"]\nuser = \"u\"",
            "`user` and `password_file` go together",
        ),
        (
            "[[mail]]\nserver = \"mail.example.com\"\nfrom = \"a@b.c\"\nto = [\"a@b.c\"]\nsecurity = \"none\"",
            "is for a server on the loopback",
        ),
        ("[sync.hamburg]\nwindow = \"Son 02:00-04:00\"", "`Son` is no day"),
        (
            "[sync.hamburg]\nwindow = \"Sun 02:00-04:00\"\ntime_zone = \"Europe/Hamburg\"",
            "no time zone `Europe/Hamburg`",
        ),
        (
            "[sync.hamburg]\nwindow = \"Sun 02:00-04:00\"\ntakes = \"3h\"",
            "nothing that takes 3h fits into the window",
        ),
        ("[sync.hamburg]\nwindow = \"Sun 02:00-04:00\"\nafter = 0", "at least 1"),
    ] {
        let said = refused(text);
        assert!(said.contains(why), "{text:?}: {said}");
    }
}

#[test]
fn an_address_is_not_repeated_for_it_may_be_a_secret() {
    for url in ["http://example.com/T000/secret", "secret secret"] {
        let said = refused(&format!("[[webhook]]\nname = \"a\"\nurl = {url:?}"));
        assert!(!said.contains("secret"), "{said}");
    }
}
