//! Made-up clusters for the tests of what is pure.

use jiff::Timestamp;
use umsid_common::digest::Fingerprint;
use umsid_common::name::ServerName;
use umsid_proto::model::{
    CertificateSeen, Disk, Evidence, EvidenceSource, Health, HealthStatus, Inspection, Label, Service,
    ServiceProcess, ServiceStatus, UmsIds,
};

use super::{Answer, Report, Silence, SilenceKind, Survey};
use crate::inventory::{Cluster, Server};

/// The SHA-256 fingerprint of a made-up certificate.
pub(crate) fn print(certificate: &str) -> Fingerprint {
    Fingerprint::sha256_of(certificate.as_bytes())
}

/// Its SHA-1 fingerprint.
pub(crate) fn print1(certificate: &str) -> Fingerprint {
    Fingerprint::sha1_of(certificate.as_bytes())
}

pub(crate) fn name(text: &str) -> ServerName {
    text.parse().expect("a name")
}

/// What `licensing list` shows with labels.
pub(crate) fn labelled(local: &str, main: &str) -> UmsIds {
    let evidence = |label, certificate: &str| Evidence {
        source: EvidenceSource::List,
        label,
        fingerprint: print(certificate),
        subject: String::new(),
        line: String::new(),
    };
    UmsIds {
        local: Some(print(local)),
        main: Some(print(main)),
        evidence: vec![evidence(Label::Main, main), evidence(Label::Local, local)],
        reason: "labelled".into(),
        ..UmsIds::default()
    }
}

/// What it shows without.
pub(crate) fn unlabelled(certificates: &[&str]) -> UmsIds {
    let evidence = |certificate: &&str| Evidence {
        source: EvidenceSource::List,
        label: Label::Unlabelled,
        fingerprint: print(certificate),
        subject: String::new(),
        line: String::new(),
    };
    UmsIds {
        evidence: certificates.iter().map(evidence).collect(),
        reason: "no word near a fingerprint tells which it is".into(),
        ..UmsIds::default()
    }
}

/// The same, by SHA-1 only.
pub(crate) fn by_sha1(local: &str, main: &str) -> UmsIds {
    UmsIds {
        local: Some(print1(local)),
        main: Some(print1(main)),
        reason: "labelled".into(),
        ..UmsIds::default()
    }
}

/// A certificate that was read.
pub(crate) fn seen(certificate: &str) -> CertificateSeen {
    CertificateSeen { sha256: print(certificate), sha1: print1(certificate) }
}

/// A cluster `prod`, with what each of its servers shows.
pub(crate) struct Stage {
    pub(crate) survey: Survey,
    pub(crate) cluster: Cluster,
}

impl Stage {
    pub(crate) fn new(servers: &[(&str, UmsIds)]) -> Self {
        let mut survey = Survey {
            cluster: "prod".parse().expect("a name"),
            taken: Timestamp::UNIX_EPOCH,
            servers: Default::default(),
        };
        let mut cluster = Cluster::default();
        for (number, (server, ids)) in servers.iter().enumerate() {
            let report = Report { inspection: inspection(server, ids.clone()), skew_ms: 0 };
            survey.servers.insert(name(server), Answer { site: None, report: Ok(report) });
            let entry = Server {
                address: format!("127.0.0.1:{}", 9000 + number),
                via: None,
                site: None,
                recipient: "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
                    .parse()
                    .expect("a recipient"),
                serial: format!("{number:02x}"),
                enrolled: Timestamp::UNIX_EPOCH,
            };
            cluster.servers.insert(name(server), entry);
        }
        Self { survey, cluster }
    }

    pub(crate) fn inspection(&mut self, server: &str) -> &mut Inspection {
        &mut self.report(server).inspection
    }

    pub(crate) fn report(&mut self, server: &str) -> &mut Report {
        let answer = self.survey.servers.get_mut(&name(server)).expect("it is there");
        answer.report.as_mut().expect("it answered")
    }

    pub(crate) fn silence(&mut self, server: &str) {
        let answer = self.survey.servers.get_mut(&name(server)).expect("it is there");
        answer.report = Err(Silence { kind: SilenceKind::Unreachable, causes: vec!["refused".into()] });
    }
}

fn inspection(server: &str, ums_ids: UmsIds) -> Inspection {
    Inspection {
        server: name(server),
        cluster: "prod".parse().expect("a name"),
        agent_version: "0.1.0".into(),
        ums_version: Some("12.09.110".into()),
        ums_ids,
        service: Service {
            control: "init-script".into(),
            status: ServiceStatus::Running,
            process: Some(ServiceProcess { pid: 1, started: Timestamp::UNIX_EPOCH }),
            detail: String::new(),
        },
        health: Health {
            status: HealthStatus::Ok,
            source: "check-status".into(),
            detail: String::new(),
            ums_host: server.into(),
            ums_uuid: String::new(),
        },
        update_mode: Some(false),
        distributed: Some(true),
        license: String::new(),
        clock: Timestamp::UNIX_EPOCH,
        disk: Some(Disk { free: 1 << 40, total: 1 << 41 }),
        certificate_not_after: Timestamp::UNIX_EPOCH,
        lease: None,
        safety_backups: Vec::new(),
        epoch: 0,
        ums_ms: 0,
        problems: Vec::new(),
        restart_due: false,
    }
}
