//! `licensing list` in its dialects. No public sample of the real one exists (UMS_FACTS §3).

use super::table::{Column, Style, Table};
use crate::settings::{Case, Digest, Length, ListShape, Settings, Words};
use crate::ums_id::Certificate;

/// The UMS ID of one server of the cluster.
pub(super) struct OfServer {
    pub(super) host: String,
    pub(super) is_main: bool,
    pub(super) ums_id: Certificate,
}

/// What there is to list.
pub(super) struct UmsIds {
    pub(super) main: Certificate,
    pub(super) local: Certificate,
    pub(super) servers: Vec<OfServer>,
}

/// The words that depend on the language.
struct Vocabulary {
    ums_id: &'static str,
    fingerprint: &'static str,
    expires: &'static str,
    host: &'static str,
    status: &'static str,
    main: &'static str,
    local: &'static str,
    in_sync: &'static str,
    not_in_sync: &'static str,
}

const ENGLISH: Vocabulary = Vocabulary {
    ums_id: "UMS ID",
    fingerprint: "FINGERPRINT",
    expires: "EXPIRATION DATE",
    host: "HOST",
    status: "STATUS",
    main: "Main UMS ID",
    local: "Local UMS ID",
    in_sync: "In sync",
    not_in_sync: "Not in sync, please restart server",
};

const GERMAN: Vocabulary = Vocabulary {
    ums_id: "UMS-ID",
    fingerprint: "FINGERABDRUCK",
    expires: "GÜLTIG BIS",
    host: "RECHNER",
    status: "ZUSTAND",
    main: "Haupt-UMS-ID",
    local: "Lokale UMS-ID",
    in_sync: "Synchron",
    not_in_sync: "Nicht synchron, bitte Server neu starten",
};

const OTHER: Vocabulary = Vocabulary {
    ums_id: "TYPE",
    fingerprint: "THUMBPRINT",
    expires: "NOT AFTER",
    host: "SERVER NAME",
    status: "STATE",
    main: "MAIN",
    local: "LOCAL",
    in_sync: "SYNCHRONIZED",
    not_in_sync: "NOT SYNCHRONIZED",
};

impl UmsIds {
    pub(super) fn print(&self, settings: &Settings, style: &Style) -> String {
        let words = match settings.list_words {
            Words::English => &ENGLISH,
            Words::German => &GERMAN,
            Words::Other => &OTHER,
        };
        match settings.list {
            ListShape::IdRows => self.id_rows(settings, words, true).print(style),
            ListShape::Unlabelled => self.id_rows(settings, words, false).print(style),
            ListShape::ServerRows => self.server_rows(settings, words).print(style),
            ListShape::Blocks => self.blocks(settings, words),
        }
    }

    fn id_rows(&self, settings: &Settings, words: &Vocabulary, labelled: bool) -> Table {
        let mut table = Table::new([
            Column::Left(if labelled { words.ums_id } else { "#" }.to_owned()),
            Column::Left(heading(settings, words)),
            Column::Right(words.expires.to_owned()),
        ]);
        for (number, (label, ums_id)) in
            [(words.main, &self.main), (words.local, &self.local)].iter().enumerate()
        {
            let label = if labelled { (*label).to_owned() } else { (number + 1).to_string() };
            table.row([label, fingerprint(settings, ums_id), ums_id.expires()]);
        }
        table
    }

    fn server_rows(&self, settings: &Settings, words: &Vocabulary) -> Table {
        let columns = [words.host.to_owned(), heading(settings, words), words.status.to_owned()];
        let mut table = Table::new(columns.map(Column::Left));
        for server in &self.servers {
            let status = match server {
                server if server.is_main => words.main,
                server if server.ums_id == self.main => words.in_sync,
                _ => words.not_in_sync,
            };
            table.row([server.host.clone(), fingerprint(settings, &server.ums_id), status.to_owned()]);
        }
        table
    }

    fn blocks(&self, settings: &Settings, words: &Vocabulary) -> String {
        let block = |label: &str, ums_id: &Certificate| {
            format!(
                "{label}\n  {}: {}\n  {}: {}\n",
                words.expires,
                ums_id.expires(),
                heading(settings, words),
                fingerprint(settings, ums_id)
            )
        };
        format!("{}\n{}", block(words.main, &self.main), block(words.local, &self.local))
    }
}

fn heading(settings: &Settings, words: &Vocabulary) -> String {
    let digest = match settings.list_digest {
        Digest::Sha256 => "SHA256",
        Digest::Sha1 => "SHA1",
    };
    format!("{} ({digest})", words.fingerprint)
}

fn fingerprint(settings: &Settings, certificate: &Certificate) -> String {
    let mut text = match settings.list_digest {
        Digest::Sha256 => certificate.sha256(),
        Digest::Sha1 => certificate.sha1(),
    };
    if settings.list_case == Case::Lower {
        text.make_ascii_lowercase();
    }
    if settings.list_length == Length::Ends {
        return format!("{}...{}", &text[..10], &text[text.len() - 10..]);
    }
    if settings.list_colons {
        let bytes: Vec<_> = text.as_bytes().chunks(2).map(String::from_utf8_lossy).collect();
        return bytes.join(":");
    }
    text
}
