//! Bad files and what is said of them; edits that keep what people wrote.

use proptest::prelude::*;

use super::*;

const ONE: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";
const TWO: &str = "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg";

fn server(address: &str, recipient: &str) -> Server {
    Server {
        address: address.into(),
        via: None,
        site: Some("north".parse().unwrap()),
        recipient: recipient.parse().unwrap(),
        serial: "4a".into(),
        enrolled: Timestamp::UNIX_EPOCH,
    }
}

fn text_of(server: &Server, name: &str) -> String {
    format!("[clusters.hamburg.servers.{name}]\n{}\n", toml::to_string(server).unwrap())
}

fn load(text: &str) -> Result<Inventory, InventoryError> {
    parse(Path::new("inventory.toml"), text)
}

fn complaint(text: &str) -> String {
    load(text).unwrap_err().to_string()
}

#[test]
fn what_is_written_is_read() {
    let dir = umsid_testkit::scratch();
    let path = dir.path().join("inventory.toml");
    Inventory::create(&path, &"lab".parse().unwrap()).unwrap();
    let (cluster, one, two) =
        ("hamburg".parse().unwrap(), "ums1".parse().unwrap(), "ums-2.example.com".parse().unwrap());
    Inventory::put(&path, &cluster, &one, &server("a:1", ONE)).unwrap();
    let put = Inventory::put(&path, &cluster, &two, &server("b:1", TWO)).unwrap();
    let read = Inventory::load(&path).unwrap();
    assert_eq!(read, put);
    assert_eq!(read.server(&cluster, &two).unwrap(), &server("b:1", TWO));

    Inventory::take_out(&path, &cluster, &one).unwrap();
    let left = Inventory::take_out(&path, &cluster, &two).unwrap();
    assert_eq!(left.clusters, BTreeMap::new());
    assert!(std::fs::read_to_string(&path).unwrap().starts_with(PREFACE));
}

#[test]
fn an_edit_keeps_what_people_wrote() {
    let dir = umsid_testkit::scratch();
    let path = dir.path().join("inventory.toml");
    let text = format!(
        "# ours\ntrust_domain = \"lab\"\n\n[clusters.hamburg] # the big one\nmain = \"ums1\"\n\n{}# the end\n",
        text_of(&server("a:1", ONE), "ums1")
    );
    durable::replace(&path, text.as_bytes(), Access::Private).unwrap();
    let cluster = "hamburg".parse().unwrap();
    let put = Inventory::put(&path, &cluster, &"ums2".parse().unwrap(), &server("b:1", TWO)).unwrap();
    assert_eq!(put.clusters[&cluster].servers.len(), 2);
    let now = std::fs::read_to_string(&path).unwrap();
    for kept in ["# ours\n", "[clusters.hamburg] # the big one\nmain = \"ums1\"\n", "# the end\n"] {
        assert!(now.contains(kept), "{kept:?} is lost in:\n{now}");
    }
    // The Main server goes, and with it what names it.
    let left = Inventory::take_out(&path, &cluster, &"ums1".parse().unwrap()).unwrap();
    assert_eq!(left.clusters[&cluster].main, None);
}

#[test]
fn an_edit_that_would_break_the_file_changes_nothing() {
    let dir = umsid_testkit::scratch();
    let path = dir.path().join("inventory.toml");
    Inventory::create(&path, &"lab".parse().unwrap()).unwrap();
    let cluster = "hamburg".parse().unwrap();
    Inventory::put(&path, &cluster, &"ums1".parse().unwrap(), &server("a:1", ONE)).unwrap();
    let before = std::fs::read(&path).unwrap();
    let twice = Inventory::put(&path, &cluster, &"ums2".parse().unwrap(), &server("A:1", TWO));
    assert!(twice.unwrap_err().to_string().contains("is the address of hamburg/ums1 too"));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_bad_file_is_refused_by_name_and_key() {
    let good = text_of(&server("a:1", ONE), "ums1");
    for (text, wanted) in [
        (String::new(), "inventory.toml, line 1: missing field `trust_domain`"),
        ("trust_domain = lab".into(), "inventory.toml, line 1"),
        ("trust_domain = \"L\"".into(), "line 1, key `trust_domain`: `L` is no trust domain"),
        ("trust_domain = \"lab\"\nsites = 2".into(), "line 2, key `sites`: unknown field `sites`"),
        (
            "trust_domain = \"lab\"\n[clusters.hamburg]\nmian = \"ums1\"".into(),
            "line 3, key `clusters.hamburg.mian`: unknown field `mian`",
        ),
        (
            format!("trust_domain = \"lab\"\n{}", good.replace("address", "adress")),
            "line 3, key `clusters.hamburg.servers.ums1.adress`: unknown field",
        ),
        (
            format!("trust_domain = \"lab\"\n{}", good.replace("age1", "age2")),
            "key `clusters.hamburg.servers.ums1.recipient`",
        ),
        (
            format!("trust_domain = \"lab\"\n{}", good.replace("1970-01-01T00:00:00Z", "today")),
            "key `clusters.hamburg.servers.ums1.enrolled`",
        ),
        (
            format!("trust_domain = \"lab\"\n{}", good.replace("a:1", "a")),
            "key `clusters.hamburg.servers.ums1.address`: `a` is no address: it must be HOST:PORT",
        ),
        (
            format!("trust_domain = \"lab\"\n[clusters.hamburg]\nmain = \"ums2\"\n{good}"),
            "key `clusters.hamburg.main`: the cluster has no server `ums2`: did you mean `ums1`?",
        ),
        (
            format!("trust_domain = \"lab\"\n{good}{}", text_of(&server("a:1", TWO), "ums2")),
            "key `clusters.hamburg.servers.ums2.address`: `a:1` is the address of hamburg/ums1 too",
        ),
        (
            format!("trust_domain = \"lab\"\n{good}{}", text_of(&server("b:1", ONE), "ums2")),
            "key `clusters.hamburg.servers.ums2.recipient`: it is the recipient of hamburg/ums1 too",
        ),
        (format!("trust_domain = \"lab\"\n{good}{good}"), "inventory.toml, line"),
    ] {
        let said = complaint(&text);
        assert!(
            said.contains(wanted) && said.starts_with("inventory.toml"),
            "{text}\n said: {said}\nwanted: {wanted}"
        );
    }
}

#[test]
fn a_way_through_a_gateway_leads_through_one_server_of_the_cluster() {
    let behind = |gateway: &str, recipient| {
        let via = Some(gateway.parse().unwrap());
        Server { address: String::new(), via, ..server("", recipient) }
    };
    let ums1 = text_of(&server("a:1", ONE), "ums1");
    let with = |ums2: &str| format!("trust_domain = \"lab\"\n{ums1}{ums2}");
    let ums2 = text_of(&behind("ums1", TWO), "ums2");
    let inventory = load(&with(&ums2)).unwrap();
    let found = inventory.server(&"hamburg".parse().unwrap(), &"ums2".parse().unwrap()).unwrap();
    assert_eq!((found.straight(), found.place().as_str()), (None, "through ums1"));

    let third = "age1c57ev8c96fgz9dlp2te927mr500czfzmt8u5s9r40y4txc5f0ezs3rkrta";
    for (ums2, wanted) in [
        (text_of(&behind("ums2", TWO), "ums2"), "ums2.via`: it cannot be its own gateway"),
        (
            text_of(&behind("ums7", TWO), "ums2"),
            "ums2.via`: the cluster has no server `ums7`: did you mean `ums",
        ),
        (ums2.replace("via", "address = \"b:1\"\nvia"), "ums2.via`: it has an `address` too"),
        (ums2.replace("via = \"ums1\"\n", ""), "ums2.address`: `` is no address"),
        (
            format!("{ums2}{}", text_of(&behind("ums2", third), "ums3")),
            "ums3.via`: `ums2` is behind `ums1` itself, and a way leads through one gateway at most",
        ),
        (
            ums2.replace("clusters.hamburg", "clusters.berlin"),
            "clusters.berlin.servers.ums2.via`: the cluster has no server `ums1`",
        ),
    ] {
        let said = complaint(&with(&ums2));
        assert!(said.contains(wanted), "{ums2}\n said: {said}\nwanted: {wanted}");
    }
}

#[test]
fn a_server_is_put_behind_a_gateway_and_back() {
    let dir = umsid_testkit::scratch();
    let path = dir.path().join("inventory.toml");
    Inventory::create(&path, &"lab".parse().unwrap()).unwrap();
    let (cluster, one, two) = ("hamburg".parse().unwrap(), "ums1".parse().unwrap(), "ums2".parse().unwrap());
    Inventory::put(&path, &cluster, &one, &server("a:1", ONE)).unwrap();
    let behind = Server { address: String::new(), via: Some(one.clone()), ..server("", TWO) };
    for entry in [behind.clone(), server("b:1", TWO), behind] {
        let put = Inventory::put(&path, &cluster, &two, &entry).unwrap();
        assert_eq!(put.server(&cluster, &two).unwrap(), &entry);
        assert_eq!(Inventory::load(&path).unwrap(), put);
    }
    // Whom others are reached through stays.
    let refused = Inventory::take_out(&path, &cluster, &one).unwrap_err().to_string();
    assert!(refused.contains("the cluster has no server `ums1`"), "{refused}");
}

#[test]
fn missing_is_not_malformed() {
    let dir = umsid_testkit::scratch();
    let path = dir.path().join("inventory.toml");
    assert!(matches!(Inventory::load(&path), Err(InventoryError::Missing { .. })));
    durable::replace(&path, b"trust_domain = \"\xff\"", Access::Private).unwrap();
    assert!(matches!(Inventory::load(&path), Err(InventoryError::Malformed { line: 1, .. })));
}

#[test]
fn an_unknown_name_gets_a_suggestion() {
    let text = format!("trust_domain = \"lab\"\n{}", text_of(&server("a:1", ONE), "ums1"));
    let inventory = load(&text).unwrap();
    let cluster = inventory.cluster(&"hamberg".parse().unwrap()).unwrap_err().to_string();
    assert_eq!(cluster, "there is no cluster `hamberg`: did you mean `hamburg`?");
    let server =
        inventory.server(&"hamburg".parse().unwrap(), &"x".parse().unwrap()).unwrap_err().to_string();
    assert_eq!(server, "cluster `hamburg` has no server `x`: known: ums1");
    let none =
        load("trust_domain = \"lab\"").unwrap().cluster(&"x".parse().unwrap()).unwrap_err().to_string();
    assert_eq!(none, "there is no cluster `x`: none is enrolled yet");
}

/// Two servers with a comment for every line a person may have written one to.
fn annotated() -> String {
    let servers = [("ums1", server("a:1", ONE)), ("ums2", server("b:1", TWO))];
    let servers = servers.map(|(name, server)| text_of(&server, name)).concat();
    let text = format!("trust_domain = \"lab\"\n\n[clusters.hamburg]\nmain = \"ums1\"\n\n{servers}");
    text.lines().enumerate().map(|(at, line)| format!("# comment {at}\n{line}\n")).collect()
}

/// The file with some of its bytes replaced, as by a slip of the pen.
fn altered() -> impl Strategy<Value = String> {
    let slips = prop::collection::vec((any::<prop::sample::Index>(), "[\\[\\]{}=.,#\"'a\n ü]{0,3}"), 0..4);
    slips.prop_map(|slips| {
        slips.into_iter().fold(annotated(), |text, (at, piece)| {
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            let from = places[at.index(places.len())];
            let to = text[from..].char_indices().nth(1).map_or(text.len(), |(next, _)| from + next);
            format!("{}{piece}{}", &text[..from], &text[to..])
        })
    })
}

#[test]
fn what_is_said_of_a_site_is_read_and_checked() {
    let of = |said: &str| {
        format!(
            "trust_domain = \"lab\"\n[clusters.hamburg.sites.north]\n{said}\n{}",
            text_of(&server("a:1", ONE), "ums1")
        )
    };
    let site = |said: &str| {
        load(&of(said)).unwrap().clusters[&"hamburg".parse().unwrap()].sites[&"north".parse().unwrap()]
            .clone()
    };
    assert_eq!(site(""), Site::default());
    assert_eq!((Site::default().max_down(), Site::default().windows()), (1, Vec::new()));
    let north = site(
        "max_down = 2\norder = 1\ntakes = \"20min\"\ntimezone = \"Europe/Berlin\"\nwindow = [\"Sun 02:00-04:00\", \"daily 03:00-03:30 UTC\"]",
    );
    assert_eq!(
        (north.max_down(), north.order, north.takes),
        (2, Some(1), Some(std::time::Duration::from_secs(1200)))
    );
    let windows: Vec<String> = north.windows().iter().map(ToString::to_string).collect();
    assert_eq!(windows, ["Sun 02:00-04:00 Europe/Berlin", "daily 03:00-03:30 UTC"]);
    assert_eq!(site("window = \"Sun 02:00-04:00\"").windows().len(), 1);
    for (wrong, key, why) in [
        ("max_down = 0", "max_down", "nonzero"),
        ("window = \"Sun 2-4\"", "window", "is no time"),
        ("window = 2", "window", "a window is a text"),
        ("time_zone = \"Europe/Hamburg\"", "time_zone", "no time zone"),
        ("windows = \"Sun 02:00-04:00\"", "windows", "unknown field"),
        ("takes = \"long\"", "takes", ""),
    ] {
        let said = complaint(&of(wrong));
        assert!(
            said.contains(&format!("clusters.hamburg.sites.north.{key}`")) && said.contains(why),
            "{wrong}: {said}"
        );
    }
}

#[test]
fn what_is_said_of_a_site_stays_when_servers_come_and_go() {
    let dir = umsid_testkit::scratch();
    let path = dir.path().join("inventory.toml");
    let text = format!(
        "trust_domain = \"lab\"\n\n[clusters.hamburg.sites.north]\norder = 1 # first\n\n{}",
        text_of(&server("a:1", ONE), "ums1")
    );
    durable::replace(&path, text.as_bytes(), Access::Private).unwrap();
    let cluster = "hamburg".parse().unwrap();
    Inventory::put(&path, &cluster, &"ums2".parse().unwrap(), &server("b:1", TWO)).unwrap();
    for server in ["ums1", "ums2"] {
        Inventory::take_out(&path, &cluster, &server.parse().unwrap()).unwrap();
    }
    assert!(std::fs::read_to_string(&path).unwrap().contains("order = 1 # first"));
}

proptest! {
    #[test]
    fn no_text_breaks_the_reading(text in prop_oneof![altered(), "\\PC{0,60}"]) {
        if let Err(error) = load(&text) {
            prop_assert!(error.to_string().starts_with("inventory.toml, "), "{error}");
        }
    }

    /// Whatever a person made of the file: an edit changes what it is about, or nothing.
    #[test]
    fn an_edit_keeps_what_was_there(text in altered()) {
        let dir = umsid_testkit::scratch();
        let path = dir.path().join("inventory.toml");
        durable::replace(&path, text.as_bytes(), Access::Private).unwrap();
        let Ok(mut wanted) = load(&text) else { return Ok(()) };
        let (cluster, name) = ("hamburg".parse().unwrap(), "new".parse().unwrap());
        let three = "age1c57ev8c96fgz9dlp2te927mr500czfzmt8u5s9r40y4txc5f0ezs3rkrta";
        match Inventory::put(&path, &cluster, &name, &server("c:1", three)) {
            Ok(after) => {
                wanted.clusters.entry(cluster).or_default().servers.insert(name, server("c:1", three));
                prop_assert_eq!(after, wanted);
                let written = read(&path).unwrap();
                for comment in text.lines().filter(|line| line.starts_with("# comment ")) {
                    prop_assert!(written.contains(comment), "{}", written);
                }
            }
            Err(_) => prop_assert_eq!(read(&path).unwrap(), text),
        }
    }
}
