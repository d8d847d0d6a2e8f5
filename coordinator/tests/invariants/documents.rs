//! `deploy/FAULTS.md` and `deploy/SECURITY.md` promise nothing that no test proves.

use crate::{is_test, root};

/// These programs have harnesses of their own; each file lists its tests.
const LISTED: [&str; 3] =
    ["coordinator/tests/administrators/", "coordinator/tests/world/", "coordinator/tests/faults/"];

fn is_listed(text: &str, name: &str) -> bool {
    text.contains(&format!("fn {name}(")) && text.matches(name).count() > 1
}

/// Rows whose last cell names the tests that prove them; less than that is no proof of the table.
const DOCUMENTS: [(&str, &str, usize); 2] =
    [("deploy/FAULTS.md", "| fault ", 40), ("deploy/SECURITY.md", "| who ", 12)];

#[test]
fn everything_promised_is_proved_by_tests_there_are() {
    let mut wanting = Vec::new();
    for (document, header, least) in DOCUMENTS {
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        let mut rows = 0;
        let mut of_table = false;
        for line in text.lines() {
            of_table = line.starts_with(header) || of_table && line.starts_with('|');
            if !of_table || line.starts_with(header) || line.starts_with("|-") {
                continue;
            }
            rows += 1;
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
            let proofs: Vec<&str> =
                cells.last().unwrap().split('`').filter(|part| part.contains("::")).collect();
            if cells.len() != 5 || proofs.is_empty() {
                wanting.push(format!("{document}: no proof: {line}"));
            }
            for proof in proofs {
                let (file, name) = proof.split_once("::").unwrap();
                let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
                let listed = LISTED.iter().any(|program| file.starts_with(program));
                if !(if listed { is_listed(&text, name) } else { is_test(&text, name) }) {
                    wanting.push(format!("{document}: there is no test {proof}"));
                }
            }
        }
        assert!(rows > least, "{document}: {rows} rows");
    }
    assert!(wanting.is_empty(), "\n{}", wanting.join("\n"));
}
