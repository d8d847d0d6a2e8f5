//! Pairing codes as people type them, and join files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use umsid_common::pairing::{JoinFile, PairingCode};

fuzz_target!(|text: &str| {
    if let Ok(code) = text.parse::<PairingCode>() {
        let written = code.to_text();
        let again: PairingCode = written.parse().expect("what is printed can be typed");
        assert_eq!((again.certificate, again.secret.digest()), (code.certificate, code.secret.digest()));
        assert_eq!(again.to_text(), written);
        // Both sides agree, whatever was typed.
        let proof = code.secret.prove_issued("certificate", "lists");
        assert!(again.secret.check_issued("certificate", "lists", &proof));
        assert!(!again.secret.check_issued("certificate", "other lists", &proof));
        // No slip of the pen goes unnoticed.
        for at in (0..written.len()).filter(|at| written.as_bytes()[*at] != b'-') {
            let other = if written.as_bytes()[at] == b'7' { "8" } else { "7" };
            let slip = format!("{}{other}{}", &written[..at], &written[at + 1..]);
            assert!(slip.parse::<PairingCode>().is_err());
        }
    }
    if let Ok(file) = toml::from_str::<JoinFile>(text) {
        let written = toml::to_string(&file).expect("plain data");
        let again: JoinFile = toml::from_str(&written).expect("what was written can be read");
        let terms = |file: &JoinFile| (file.trust_domain.clone(), file.cluster.clone(), file.server.clone());
        assert_eq!((terms(&again), again.expires), (terms(&file), file.expires));
        let secret = |file: &JoinFile| file.secret().expect("it was read").digest();
        assert_eq!(secret(&again), secret(&file));
    }
});
