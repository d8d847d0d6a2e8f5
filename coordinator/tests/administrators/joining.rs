//! Who is let in, who is not, and who is not any more.

use umsid::authority::Founding;
use umsid::shared::{Document, DocumentKey, Envelope, Name};
use umsid_testkit::PostgresServer;

use crate::place::Wanted;
use crate::team::{Team, files, missing};

crate::tests! { missing;
    who_is_no_administrator_is_told_what_to_type_where,
    whoever_writes_himself_into_the_database_is_not_let_in_either,
    the_authoritys_key_is_nowhere_in_plain,
    another_authoritys_key_in_the_database_signs_nothing,
    what_was_written_with_a_key_sealed_to_us_is_not_believed,
    whoever_is_taken_out_is_out,
    an_authority_that_was_replaced_is_refused,
    what_no_administrator_wrote_is_not_believed,
    an_older_state_is_not_taken_for_the_newest,
    a_directory_keeps_to_where_its_state_is,
    who_is_not_known_at_the_server_is_told_so,
}

fn who_is_no_administrator_is_told_what_to_type_where() {
    let team = Team::alone();
    let key = team.key_of("carla");
    let refused = team.tries("carla").exits(7);
    refused
        .says("is the key of no administrator")
        .says(&format!("umsid admins add carla {key}"))
        .says("umsid init --state");
    assert!(!team.dir("carla").join("coordinator/certificate.pem").exists(), "she has a certificate");
    team.types("carla", &["status"]).exits(1).says("umsid init");
    // Nothing is in the way of her being let in after all.
    team.joins("carla");
    let admins = team.types("carla", &["admins", "-o", "json"]).exits(0).json();
    let names: Vec<&str> =
        admins.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["carla", "test"]);
    // Her name is the one she was let in under.
    team.types("carla", &["doctor"]).shows("/coordinator/carla");
}

fn whoever_writes_himself_into_the_database_is_not_let_in_either() {
    let team = Team::alone();
    let (eves, tests) = (team.key_of("eve"), team.key_of("state"));
    let written = team.document("authority/key.json");
    let forged = written.replacen(&format!("\"{tests}\""), &format!("\"{tests}\", \"eve\": \"{eves}\""), 1);
    assert_ne!(forged, written);
    team.sql(&format!("UPDATE documents SET body = '{forged}' WHERE name = 'authority/key.json'"));
    team.tries("eve").exits(8).says("authority/key.json");
    // Nobody seals it to her by mistake.
    let bert = team.key_of("bert");
    team.place.umsid(&["admins", "add", "bert", &bert]).exits(8).says("somebody altered it");
    assert_eq!(team.document("authority/key.json"), forged);
}

fn the_authoritys_key_is_nowhere_in_plain() {
    let team = Team::alone();
    team.joins("bert");
    for name in ["state", "bert"] {
        let dir = team.dir(name);
        for file in files(&dir) {
            let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
            let own = file.ends_with("coordinator/key.pem");
            assert_eq!(text.contains("PRIVATE KEY"), own, "{}", file.display());
        }
        assert!(!dir.join("authority/key.pem").exists());
    }
    let all = team.sql("SELECT string_agg(body, ' ') FROM documents");
    assert!(all.contains("BEGIN CERTIFICATE") && !all.contains("PRIVATE KEY"), "{all}");
}

/// Sealed to the right administrators, by somebody who knows only their public keys.
fn another_authoritys_key_in_the_database_signs_nothing() {
    let (team, other) = (Team::alone(), Team::alone());
    let key = team.key_of("state");
    other.place.umsid(&["admins", "add", "test2", &key]).exits(0);
    let foreign = other.document("authority/key.json");
    team.sql(&format!("UPDATE documents SET body = '{foreign}' WHERE name = 'authority/key.json'"));
    let out = team.dir("observer");
    let line = ["observer", "add", "nagios", "--out", out.to_str().unwrap()];
    team.place.umsid(&line).exits(8).says("it is not the key of this authority");
}

/// Who writes to the database makes an authority's key of his own, seals it to the administrators, whose keys everybody may read, and
/// writes everything anew with it.
fn what_was_written_with_a_key_sealed_to_us_is_not_believed() {
    let team = Team::new(Wanted::default());
    let dir = team.place.state();
    let own = ("test".parse().unwrap(), team.key_of("state").parse().unwrap());
    let forged = Founding::new(&"test".parse().unwrap()).unwrap();
    let key = DocumentKey::of(&forged.key_pem());
    let inventory = std::fs::read_to_string(dir.join("inventory.toml")).unwrap();
    let write = |name: Name, body: &str| {
        let version = team.sql(&format!("SELECT version + 1 FROM documents WHERE name = '{name}'"));
        let mut document = Document {
            version: version.parse().unwrap(),
            by: "test".into(),
            at: "2026-11-28T00:00:00Z".into(),
            body: body.into(),
            mac: String::new(),
        };
        document.mac = key.mac(name, &document);
        let Document { version, by, at, body, mac } = document;
        let body = body.replace('\'', "''");
        team.sql(&format!(
            "UPDATE documents SET version = {version}, changed_by = '{by}', changed_at = '{at}', body = '{body}', mac = '{mac}' \
             WHERE name = '{name}'"
        ));
    };
    write(Name::Certificate, &std::fs::read_to_string(dir.join("authority/certificate.pem")).unwrap());
    write(Name::Register, &forged.register_text().unwrap());
    write(Name::Inventory, &inventory.replace("127.0.0.1", "127.0.0.2"));
    write(Name::Key, &Envelope::seal(&forged.key_pem(), [own].into()).unwrap().to_text());
    for command in [&["servers"][..], &["status"], &["admins"]] {
        team.place.umsid(command).exits(8).says("it is not the key of this authority");
    }
    assert_eq!(std::fs::read_to_string(dir.join("inventory.toml")).unwrap(), inventory);
}

fn whoever_is_taken_out_is_out() {
    let team = Team::new(Wanted::default());
    let bert = team.joins("bert");
    team.types("bert", &["status"]).exits(0);
    team.place.umsid(&["admins", "remove", "test", "--yes"]).exits(2).says("nobody takes out herself");
    team.place
        .umsid(&["admins", "remove", "bert", "--yes"])
        .exits(0)
        .shows("1 certificate revoked")
        .says("begin anew");
    team.types("bert", &["status"]).exits(7).says("is the key of no administrator");
    // With what is on his disk alone he gets nowhere either: the agents were told.
    std::fs::remove_file(bert.join("state-url")).unwrap();
    let alone = umsid::home::Home { dir: bert };
    let inventory = umsid::inventory::Inventory::load(&alone.inventory_path()).unwrap();
    let tls = umsid_common::tls::Tls::load(alone.tls_files()).unwrap();
    let agents = umsid::agents::Agents::new(tls, inventory.trust_domain.clone());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (cluster, name, server) in inventory.servers() {
        let refused = runtime.block_on(agents.dial(cluster, name, server));
        assert!(refused.is_err(), "{name} let him in");
    }
    team.place.umsid(&["status"]).exits(0);
}

/// By somebody who is free to write to the database, and lets in all who were in before.
fn an_authority_that_was_replaced_is_refused() {
    let (team, other) = (Team::alone(), Team::alone());
    let key = team.key_of("state");
    other.place.umsid(&["admins", "add", "test2", &key]).exits(0);
    for row in other.sql("SELECT name FROM documents").lines() {
        // Every byte of it.
        let value = |column: &str| {
            let encoded = other.sql(&format!(
                "SELECT replace(encode(convert_to({column}, 'UTF8'), 'base64'), E'\\n', '') FROM documents WHERE name = '{row}'"
            ));
            format!("{column} = convert_from(decode('{encoded}', 'base64'), 'UTF8')")
        };
        let values = ["changed_by", "changed_at", "body", "mac"].map(value).join(", ");
        let version = other.sql(&format!("SELECT version FROM documents WHERE name = '{row}'"));
        team.sql(&format!("UPDATE documents SET version = {version}, {values} WHERE name = '{row}'"));
    }
    team.place.umsid(&["servers"]).exits(8).says("is of another certificate authority");
}

/// Whoever can write to the database alone, changes nothing that anybody believes.
fn what_no_administrator_wrote_is_not_believed() {
    let team = Team::new(Wanted::default());
    let before = std::fs::read(team.place.state().join("inventory.toml")).unwrap();
    for (change, name) in [
        ("SET body = replace(body, 'site2', 'nowhere')", "inventory.toml"),
        ("SET body = replace(body, 'agent/hamburg/ums1', 'agent/hamburg/ums9')", "authority/register.json"),
        ("SET changed_by = 'eve'", "inventory.toml"),
        ("SET version = version + 1", "inventory.toml"),
        ("SET body = (SELECT body FROM documents WHERE name = 'inventory.toml')", "authority/register.json"),
    ] {
        let kept = team.sql(&format!(
            "CREATE TABLE kept AS SELECT * FROM documents; UPDATE documents {change} WHERE name = '{name}'"
        ));
        assert_eq!(kept, "");
        for line in [&["status"][..], &["sync", "--yes"], &["servers"]] {
            team.place.umsid(line).exits(8).says(name).says("no administrator wrote this");
        }
        team.place.umsid(&["doctor"]).exits(8).shows("no administrator wrote this");
        assert_eq!(std::fs::read(team.place.state().join("inventory.toml")).unwrap(), before, "{change}");
        team.sql("DELETE FROM documents; INSERT INTO documents SELECT * FROM kept; DROP TABLE kept");
        team.place.umsid(&["status"]).exits(0);
    }
}

/// An old state has all its seals, and would bring back who was revoked.
fn an_older_state_is_not_taken_for_the_newest() {
    let team = Team::new(Wanted::default());
    team.sql("CREATE TABLE kept AS SELECT * FROM documents");
    team.place.umsid(&["servers", "remove", "hamburg/ums3", "--yes"]).exits(0);
    team.sql("DELETE FROM documents; INSERT INTO documents SELECT * FROM kept");
    team.place
        .umsid(&["status"])
        .exits(8)
        .says("is older than what was seen of it here")
        .says("documents.seen");
    std::fs::remove_file(team.place.state().join("documents.seen")).unwrap();
    team.place.umsid(&["servers"]).exits(0).shows("ums3");
}

fn a_directory_keeps_to_where_its_state_is() {
    let (team, other) = (Team::alone(), Team::alone());
    team.place.umsid(&["servers", "--state", &team.url]).exits(0);
    team.place.umsid(&["servers", "--state", &other.url]).exits(2).says("leave --state");
    let files = team.dir("files");
    team.place.umsid_of(&files, &["init"]).exits(0);
    team.place.umsid_of(&files, &["servers", "--state", &team.url]).exits(2).says("in its own files");
    team.place.umsid_of(&files, &["admins"]).exits(2).says("nobody shares it");
    team.place
        .umsid_of(&files, &["init", "--state", &team.url])
        .exits(1)
        .says("in use already")
        .says("--move");
    let secret = team.url.replace("umsid@", "umsid:hush@");
    let refused = team.place.umsid(&["servers", "--state", &secret]).exits(2);
    assert!(refused.err.contains("~/.pgpass"), "{}", refused.err);
    assert!(!files.join("state-url").exists());
}

fn who_is_not_known_at_the_server_is_told_so() {
    let team = Team::alone();
    let database = team.url.rsplit('/').next().unwrap();
    let url = PostgresServer::shared().unwrap().url("nobody_of_this_name", database);
    let refused = team.types("dora", &["init", "--state", &url]).exits(1);
    refused.says("nobody_of_this_name").says("check user, password");
}
