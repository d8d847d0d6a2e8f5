//! Named settings: one per way the UMS may turn out to behave where nothing is documented (UMS_FACTS, marked `[?]`).

/// A way of speaking, as settings over the default ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// By this it is asked for: `umsid-lab up --dialect NAME`.
    pub name: &'static str,
    /// What is different.
    pub description: &'static str,
    /// The settings that make it, key and value.
    pub settings: &'static [(&'static str, &'static str)],
}

const DIALECTS: [Dialect; 27] = [
    Dialect { name: "id-rows", description: "one row per UMS ID (the default)", settings: &[] },
    Dialect {
        name: "server-rows",
        description: "one row per server of the cluster with host name and status",
        settings: &[("list", "server-rows")],
    },
    Dialect {
        name: "blocks",
        description: "a heading per UMS ID, fingerprint lines later",
        settings: &[("list", "blocks")],
    },
    Dialect {
        name: "unlabelled",
        description: "fingerprints without a word that tells Main from Local",
        settings: &[("list", "unlabelled")],
    },
    Dialect {
        name: "truncated",
        description: "only the first and last 10 characters, as the Console shows",
        settings: &[("list_length", "ends")],
    },
    Dialect {
        name: "sha1",
        description: "SHA-1 fingerprints, as web-certs has them",
        settings: &[("list_digest", "sha1")],
    },
    Dialect { name: "colons", description: "colons between the bytes", settings: &[("list_colons", "true")] },
    Dialect { name: "lower-case", description: "lower-case digits", settings: &[("list_case", "lower")] },
    Dialect {
        name: "sha1-colons-lower-case",
        description: "SHA-1, colons and lower case together",
        settings: &[("list_digest", "sha1"), ("list_colons", "true"), ("list_case", "lower")],
    },
    Dialect {
        name: "ignores-machine-readable",
        description: "--machine-readable changes nothing",
        settings: &[("machine_readable", "ignored")],
    },
    Dialect { name: "german", description: "German words", settings: &[("list_words", "german")] },
    Dialect {
        name: "german-blocks",
        description: "German words in blocks, with colons",
        settings: &[("list_words", "german"), ("list", "blocks"), ("list_colons", "true")],
    },
    Dialect {
        name: "german-server-rows",
        description: "German words, one row per server",
        settings: &[("list_words", "german"), ("list", "server-rows")],
    },
    Dialect {
        name: "other-header",
        description: "other headings and other labels",
        settings: &[("list_words", "other")],
    },
    Dialect {
        name: "log-lines",
        description: "log lines on stdout around every answer, a JVM warning on stderr",
        settings: &[("noise", "true")],
    },
    Dialect {
        name: "running-id",
        description: "list and export show the UMS ID of the running server until it restarts",
        settings: &[("list_from", "running")],
    },
    Dialect {
        name: "append-ksbak",
        description: "backup appends .ksbak to any name",
        settings: &[("outfile", "append-ksbak")],
    },
    Dialect {
        name: "forced-ksbak",
        description: "backup appends .ksbak unless it is there, and refuses an existing file",
        settings: &[("outfile", "forced-if-missing"), ("outfile_exists", "refuse")],
    },
    Dialect {
        name: "backup-gives-main",
        description: "backup on a server that is not Main saves the Main UMS ID",
        settings: &[("backup_gives", "main")],
    },
    Dialect {
        name: "export-gives-main",
        description: "export on a server that is not Main writes the Main certificate",
        settings: &[("export_gives", "main")],
    },
    Dialect {
        name: "restore-stops-server",
        description: "restore leaves the server stopped",
        settings: &[("restore", "stops-server")],
    },
    Dialect {
        name: "restore-needs-stopped",
        description: "restore refuses while the server runs",
        settings: &[("restore", "needs-stopped")],
    },
    Dialect {
        name: "exit-0-with-text",
        description: "failures print an error on stdout and exit 0",
        settings: &[("errors", "exit-0-with-text")],
    },
    Dialect { name: "der", description: "export writes DER", settings: &[("export", "der")] },
    Dialect {
        name: "no-export",
        description: "a version without licensing export",
        settings: &[("version", "12.08.120"), ("export", "missing")],
    },
    Dialect {
        name: "password-newline",
        description: "a password file with a line end is rejected",
        settings: &[("password_newline", "rejected")],
    },
    Dialect {
        name: "exclusive",
        description: "two calls at once lock each other out",
        settings: &[("exclusive", "true")],
    },
];

/// All dialects, for tests that go through each.
pub fn dialects() -> &'static [Dialect] {
    &DIALECTS
}

/// The dialect of this name.
pub fn dialect(name: &str) -> Option<&'static Dialect> {
    DIALECTS.iter().find(|dialect| dialect.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    #[test]
    fn every_dialect_is_made_of_settings_there_are() {
        for dialect in dialects() {
            let mut settings = Settings::default();
            for (key, value) in dialect.settings {
                settings =
                    settings.with(key, value).unwrap_or_else(|error| panic!("{}: {error}", dialect.name));
            }
            assert_eq!(settings == Settings::default(), dialect.name == "id-rows", "{}", dialect.name);
        }
    }
}
