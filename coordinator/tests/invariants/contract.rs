//! What the contract between coordinator and agent has no place for.

use crate::root;

/// Words of fields by which a file, a program or a place in a network could be named.
const BANNED: &[&str] = &[
    "path", "file", "dir", "folder", "command", "program", "script", "shell", "arg", "env", "url", "address",
    "port",
];

/// What agents tell, and never take.
const TOLD: &[(&str, &str)] = &[
    // What was run, for a person to read.
    ("RawOutput", "command"),
    // How many.
    ("Discarded", "files"),
];

#[test]
fn no_message_has_a_field_for_a_path_or_a_command() {
    let directory = root().join("proto/umsid/v1");
    let (mut fields, mut told) = (0, 0);
    for entry in std::fs::read_dir(directory).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let mut message = String::new();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            if let Some(name) = line.strip_prefix("message ") {
                name.split([' ', '{']).next().unwrap_or_default().clone_into(&mut message);
            }
            let Some((declared, number)) = line.split_once(" = ") else { continue };
            let words: Vec<&str> = declared.split_whitespace().collect();
            if words.len() < 2 || !number.starts_with(|c: char| c.is_ascii_digit()) {
                continue;
            }
            fields += 1;
            let name = words[words.len() - 1];
            let banned = name.split('_').any(|word| BANNED.contains(&word.trim_end_matches('s')));
            if banned {
                assert!(
                    TOLD.contains(&(message.as_str(), name)),
                    "{message}.{name} names a file, a program or a place"
                );
                told += 1;
            }
        }
    }
    assert!(fields > 50, "only {fields} fields were found: is the contract read right?");
    assert_eq!(told, TOLD.len());
}
