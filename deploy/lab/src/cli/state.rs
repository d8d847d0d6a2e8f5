//! The listings that have nothing to do with the UMS ID, as the public samples have them (UMS_FACTS §3).

use super::table::{Column, Style, Table};
use super::{Failure, database};
use crate::layout::ServerDir;
use crate::settings::Settings;
use crate::ums_id::Certificate;

fn left(heading: &str) -> Column {
    Column::Left(heading.to_owned())
}

fn right(heading: &str) -> Column {
    Column::Right(heading.to_owned())
}

pub(super) fn web_certs(server: &ServerDir, style: &Style) -> Result<String, Failure> {
    let mut table =
        Table::new([left("NAME"), left("FINGERPRINT (SHA1)"), right("EXPIRATION DATE"), left("USED")]);
    for (name, member) in database(server)?.servers {
        let certificate = Certificate::from_pem(&member.web_certificate)?;
        table.row([format!("{name}-web"), certificate.sha1(), certificate.expires(), "true".to_owned()]);
    }
    Ok(table.print(style))
}

pub(super) fn assigned_servers(server: &ServerDir, sha1: &str, style: &Style) -> Result<String, Failure> {
    // The third heading is misspelt in the original.
    let mut table = Table::new(["HOST", "LAST KNOWN IP", "PROCECSS ID", "VERSION"].map(left));
    for member in database(server)?.servers.into_values() {
        if Certificate::from_pem(&member.web_certificate)?.sha1().eq_ignore_ascii_case(sha1) {
            table.row([member.host, "127.0.0.1".to_owned(), member.process_id, member.version]);
        }
    }
    Ok(table.print(style))
}

pub(super) fn cluster(server: &ServerDir, style: &Style) -> Result<String, Failure> {
    let mut table = Table::new([left("CLUSTER FQDN")]);
    table.row([database(server)?.cluster_fqdn]);
    Ok(table.print(style))
}

pub(super) fn ports(server: &ServerDir, style: &Style) -> Result<String, Failure> {
    let web = database(server)?.servers.get(&server.name()).map_or(8443, |member| member.port);
    let mut table = Table::new([left("NAME"), right("PORT")]);
    for (name, value) in [
        ("Web server port", web.to_string()),
        ("JWS server port", "9080".to_owned()),
        ("Device communication port", "30001".to_owned()),
        ("SSL only", "true".to_owned()),
    ] {
        table.row([name.to_owned(), value]);
    }
    Ok(table.print(style))
}

/// In update mode the active data source is a local, embedded copy (UMS_FACTS §6).
pub(super) fn databases(server: &ServerDir, settings: &Settings, style: &Style) -> Result<String, Failure> {
    let distributed = database(server)?.distributed;
    let columns =
        ["ACTIVE", "DATABASE", "HOST", "USER", "DB-TYPE"].map(left).into_iter().chain([right("ID")]);
    let mut table = Table::new(columns);
    let mut source = |active: bool, host: &str, kind: &str, id: &str| {
        table.row([&active.to_string(), "rmdb", host, "igelums", kind, id].map(str::to_owned));
    };
    if distributed {
        source(!settings.update_mode, "db.ums.example", "PostgreSQL", "1");
        if settings.update_mode {
            source(true, "localhost", "Embedded DB", "2");
        }
    } else {
        source(true, "localhost", "Embedded DB", "1");
    }
    Ok(table.print(style))
}

/// No table, whatever was asked for.
pub(super) fn licence(server: &ServerDir) -> Result<String, Failure> {
    let licence = database(server)?.licence;
    Ok(format!(
        "\"umsLicenseLevel\": \"{}\"\n\"expirationDateUTC\": \"{}\"\n\"unlimited\": \"false\"\n",
        licence.level, licence.expires
    ))
}
