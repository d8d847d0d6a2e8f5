//! The steps, and their order.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use umsid_common::name::{ServerName, SiteName};

use super::{Basis, Facts, Hours, Kind, Plan, Purpose, Request, RestartScope, Step, What, facts};
use crate::inventory::{Cluster, Site};
use crate::survey::{SyncState, complaint};

/// Makes the plan for a request. Whether it may be carried out, [`preflight`](super::preflight) says.
pub fn make(basis: &Basis<'_>, request: &Request) -> Plan {
    let targets = targets(basis, request);
    let takes_part = participants(basis, request, &targets);
    let servers: BTreeMap<ServerName, Facts> = takes_part
        .iter()
        .filter_map(|server| {
            let facts = facts(basis.cluster, basis.survey, basis.assessment.servers.get(server)?, server)?;
            Some((server.clone(), facts))
        })
        .collect();
    let main = basis.assessment.main.as_ref().ok().filter(|_| request.kind == Kind::Sync).cloned();
    let mut draft = Draft { steps: Vec::new(), restarts: basis.restarts, cluster: basis.cluster };
    match request.kind {
        Kind::Sync => {
            if let (Some(main), false) = (&main, targets.is_empty()) {
                draft.sync(&main.server, &targets, &takes_part, request);
            }
        }
        Kind::Restart => {
            draft.one_after_another(&takes_part, &BTreeSet::new(), "asked for");
        }
        Kind::Backup => {
            for server in &takes_part {
                let what = What::SafetyBackup { server: server.clone() };
                draft.add(what, "asked for".to_owned(), &BTreeSet::new());
            }
        }
    }
    let steps = draft.steps;
    let disturbed = steps.iter().filter(|step| step.what.disturbs()).filter_map(|step| step.what.server());
    let hours = disturbed.filter_map(|server| Some((server.clone(), Hours::of(basis, server)?))).collect();
    Plan {
        version: super::VERSION,
        cluster: basis.name.clone(),
        request: request.clone(),
        surveyed: basis.survey.taken,
        notes: if steps.is_empty() { Vec::new() } else { notes(basis, request, &targets) },
        main,
        named: basis.named.clone(),
        escrow: basis.cluster.escrow.clone(),
        servers: if steps.is_empty() { BTreeMap::new() } else { servers },
        hours,
        targets,
        steps,
    }
}

/// The servers to be synchronized: those asked for, or all that are not in sync; the canary first.
fn targets(basis: &Basis<'_>, request: &Request) -> Vec<ServerName> {
    if request.kind != Kind::Sync {
        return Vec::new();
    }
    let main = basis.assessment.main.as_ref().ok().map(|main| &main.server);
    let mut targets: Vec<ServerName> = basis
        .assessment
        .servers
        .iter()
        .filter(|(server, verdict)| {
            let named = request.only.contains(server);
            // A server whose state is unknown is a target only when it was named: nothing is restored on a guess.
            let wants =
                verdict.state == SyncState::NotInSync || (verdict.state == SyncState::Unknown && named);
            (named || request.only.is_empty()) && wants && Some(*server) != main
        })
        .map(|(server, _)| server.clone())
        .collect();
    targets.sort_by_cached_key(|server| by_site(basis, server));
    let canary = canary(basis, &targets);
    targets.sort_by_cached_key(|server| {
        (
            Some(server) != canary.as_ref(),
            turn(basis.cluster, server),
            canary.as_ref().is_none_or(|it| !at_one_site(basis, it, server)),
            by_site(basis, server),
        )
    });
    targets
}

/// A server that is healthy now, so that what goes wrong with it was not wrong before. Not one whose neighbour is down:
/// with it the site would be. Where only such are left, the one that is down itself.
fn canary(basis: &Basis<'_>, targets: &[ServerName]) -> Option<ServerName> {
    let (healthy, unwell): (Vec<&ServerName>, Vec<&ServerName>) =
        targets.iter().partition(|server| is_healthy(basis, server));
    let alone = |server: &&&ServerName| !unwell.iter().any(|other| at_one_site(basis, other, server));
    healthy.iter().find(alone).or_else(|| unwell.first()).map(|server| (*server).clone())
}

fn at_one_site(basis: &Basis<'_>, one: &ServerName, other: &ServerName) -> bool {
    basis.cluster.site_of(one).is_some_and(|site| basis.cluster.site_of(other) == Some(site))
}

fn is_healthy(basis: &Basis<'_>, server: &ServerName) -> bool {
    basis.survey.report(server).is_some_and(|report| complaint(&report.inspection).is_none())
}

/// When the site of a server has its turn.
fn turn(cluster: &Cluster, server: &ServerName) -> u32 {
    let site = cluster.site_of(server).and_then(|site| cluster.sites.get(site));
    site.and_then(|site| site.order).unwrap_or(u32::MAX)
}

/// Site by site in their order, so that no site is disturbed twice; of a site, what is down already before what would be down with it.
fn by_site(basis: &Basis<'_>, server: &ServerName) -> (u32, Option<SiteName>, bool, ServerName) {
    (
        turn(basis.cluster, server),
        basis.cluster.site_of(server).cloned(),
        is_healthy(basis, server),
        server.clone(),
    )
}

/// The servers a run takes leases on, in restart order: what is down already first, so that nothing is down with it; the
/// Main server last, so that the others find it while they start.
fn participants(basis: &Basis<'_>, request: &Request, targets: &[ServerName]) -> Vec<ServerName> {
    let main = basis.assessment.main.as_ref().ok().map(|main| &main.server);
    let everyone =
        request.only.is_empty() || (request.kind == Kind::Sync && request.restart == RestartScope::All);
    let mut servers: Vec<ServerName> = basis
        .cluster
        .servers
        .keys()
        .filter(|server| match request.kind {
            _ if everyone => true,
            Kind::Sync => targets.contains(server) || Some(*server) == main,
            Kind::Restart | Kind::Backup => request.only.contains(server),
        })
        .cloned()
        .collect();
    servers.sort_by_cached_key(|server| {
        (is_healthy(basis, server), Some(server) == main, by_site(basis, server))
    });
    servers
}

struct Draft<'a> {
    steps: Vec<Step>,
    restarts: &'a BTreeMap<ServerName, u64>,
    cluster: &'a Cluster,
}

impl Draft<'_> {
    fn add(&mut self, what: What, why: String, after: &BTreeSet<u32>) -> u32 {
        let no = self.steps.last().map_or(1, |step| step.no + 1);
        let downtime_s = match &what {
            What::Restart { server } => self.restarts.get(server).copied(),
            _ => None,
        };
        self.steps.push(Step { no, what, why, after: after.clone(), downtime_s });
        no
    }

    fn one_after_another(
        &mut self,
        servers: &[ServerName],
        after: &BTreeSet<u32>,
        why: &str,
    ) -> BTreeSet<u32> {
        servers.iter().fold(after.clone(), |after, server| {
            [self.add(What::Restart { server: server.clone() }, why.to_owned(), &after)].into()
        })
    }

    fn sync(
        &mut self,
        main: &ServerName,
        targets: &[ServerName],
        takes_part: &[ServerName],
        request: &Request,
    ) {
        let mut ready = if request.restart_first { self.first_remedy(targets) } else { BTreeSet::new() };
        let confirm = "right before the backup".to_owned();
        let saved = match targets.first().filter(|_| request.rehearse) {
            // Main is backed up while the targets save their own: nothing of it disturbs a server.
            None => {
                ready = [self.add(What::ConfirmMain, confirm, &ready)].into();
                self.safety_backups(targets, &ready)
            }
            Some(canary) => {
                let saved = self.safety_backups(targets, &ready);
                let what = What::RestoreOwn { server: canary.clone(), purpose: Purpose::Rehearsal };
                let why = "to prove the whole path without changing anything".to_owned();
                ready = [self.add(what, why, &saved)].into();
                ready = [self.add(What::ConfirmMain, confirm, &ready)].into();
                saved
            }
        };
        let sealed_to: Vec<&str> = targets.iter().map(ServerName::as_str).collect();
        let why = format!("sealed to {}", sealed_to.join(", "));
        ready = [self.add(What::Backup { server: main.clone() }, why, &ready)].into();
        let what = What::Transfer { from: main.clone(), to: targets.to_vec() };
        ready = [self.add(what, "checked at both ends".to_owned(), &ready)].into();
        ready.extend(saved);
        ready = [self.add(What::ConfirmMain, "right before the first restore".to_owned(), &ready)].into();
        ready = self.restores(targets, request, ready);
        if request.restart == RestartScope::All {
            let rest: Vec<ServerName> =
                takes_part.iter().filter(|server| !targets.contains(server)).cloned().collect();
            ready = self.one_after_another(&rest, &ready, "all servers are to be restarted, as documented");
        }
        if request.settle_s > 0 {
            let what = What::Settle { seconds: request.settle_s };
            ready = [self.add(what, "messages between servers lag about 30 s".to_owned(), &ready)].into();
        }
        ready = [self.add(What::VerifyCluster, "the proof".to_owned(), &ready)].into();
        for server in std::iter::once(main).chain(targets) {
            let what = What::Discard { server: server.clone() };
            self.add(what, "nothing of the backup stays behind".to_owned(), &ready);
        }
    }

    fn safety_backups(&mut self, targets: &[ServerName], after: &BTreeSet<u32>) -> BTreeSet<u32> {
        let save = |server: &ServerName| {
            let why = "so that it can be put back as it was".to_owned();
            self.add(What::SafetyBackup { server: server.clone() }, why, after)
        };
        targets.iter().map(save).collect()
    }

    fn first_remedy(&mut self, targets: &[ServerName]) -> BTreeSet<u32> {
        targets.iter().fold(BTreeSet::new(), |after, server| {
            let why = "the documented first remedy".to_owned();
            let restarted = self.add(What::Restart { server: server.clone() }, why, &after);
            let why = "a restart may have been enough".to_owned();
            [self.add(What::Recheck { server: server.clone() }, why, &[restarted].into())].into()
        })
    }

    /// The canary alone, then the others by batches, none of which has servers of sites with different turns. Of a batch, no
    /// more servers of a site are disturbed at a time than that site allows, one unless it says so: never are more of a site
    /// down because of us, whatever the batch. A restore may stop the UMS Server, so that counts too.
    fn restores(&mut self, targets: &[ServerName], request: &Request, ready: BTreeSet<u32>) -> BTreeSet<u32> {
        let (canary, others) = targets.split_at(1.min(targets.len()));
        let turns = others.chunk_by(|one, other| turn(self.cluster, one) == turn(self.cluster, other));
        let batches = turns.flat_map(|turn| turn.chunks(request.batch.max(1)));
        canary.chunks(1).chain(batches).enumerate().fold(ready, |ready, (number, batch)| {
            let why = if number == 0 { "the canary: before any other" } else { "the canary is well" };
            let mut done = BTreeSet::new();
            let mut at_site: BTreeMap<SiteName, Vec<u32>> = BTreeMap::new();
            for server in batch {
                let site = self.cluster.site_of(server).cloned();
                // The one after whose end one less of the site is disturbed.
                let neighbour = site.as_ref().and_then(|site| {
                    let verified = at_site.get(site)?;
                    let most = self.cluster.sites.get(site).map_or(1, Site::max_down);
                    verified.len().checked_sub(most).map(|before| verified[before])
                });
                let before = neighbour.map_or_else(|| ready.clone(), |step| [step].into());
                let restore = What::Restore { server: server.clone() };
                let mut last = self.add(restore, why.to_owned(), &before);
                if request.restart != RestartScope::None {
                    let restart = What::Restart { server: server.clone() };
                    last = self.add(restart, "it reads its UMS ID at start".to_owned(), &[last].into());
                }
                let verify = What::Verify { server: server.clone() };
                let verified =
                    self.add(verify, "it must hold the Main UMS ID now".to_owned(), &[last].into());
                done.insert(verified);
                if let Some(site) = site {
                    at_site.entry(site).or_default().push(verified);
                }
            }
            done
        })
    }
}

fn notes(basis: &Basis<'_>, request: &Request, targets: &[ServerName]) -> Vec<String> {
    let mut notes = Vec::new();
    for (server, answer) in &basis.survey.servers {
        let Ok(report) = &answer.report else { continue };
        let inspection = &report.inspection;
        if let Some(note) = licence_note(&inspection.license, basis.survey.taken) {
            notes.push(format!("{server}: {note}"));
        }
        if targets.contains(server) && !is_healthy(basis, server) {
            let status = format!("{:?}", inspection.health.status).to_lowercase();
            let site = basis.cluster.site_of(server);
            let turn =
                site.map_or(String::new(), |site| format!("; it comes before its neighbours at {site}"));
            notes.push(format!("{server} is not healthy now: {status}{turn}"));
        }
        if inspection.update_mode.is_none() && request.kind == Kind::Sync {
            notes.push(format!("{server}: whether it is in update mode could not be read; it must not be"));
        }
        let verdict = basis.assessment.servers.get(server);
        if targets.contains(server) && verdict.is_some_and(|verdict| verdict.state == SyncState::Unknown) {
            notes.push(format!(
                "{server}: its state is unknown; it is synchronized because it was named, and what cannot be verified \
                 afterwards is reported as unknown"
            ));
        }
    }
    for site in basis.cluster.sites.keys() {
        if !basis.cluster.servers.values().any(|server| server.site.as_ref() == Some(site)) {
            notes.push(format!("inventory.toml says something of site {site}, where no server stands"));
        }
    }
    if request.ignore_windows {
        let servers = basis.cluster.servers.keys();
        let bound: Vec<&str> =
            servers.filter(|server| Hours::of(basis, server).is_some()).map(ServerName::as_str).collect();
        if !bound.is_empty() {
            notes.push(format!("windows are ignored, as was asked for: those of {}", bound.join(", ")));
        }
    }
    if request.kind == Kind::Sync && request.restart == RestartScope::None {
        notes.push(
            "no server is restarted: the restored UMS ID is not in use until you restart; only a UMS Server that the restore \
             stops is started again"
                .to_owned(),
        );
    }
    notes
}

/// How soon the end of a licence is worth a note, in days.
const LICENCE_ENDS_SOON: i64 = 60;

/// `ums-license state` prints `"expirationDateUTC": "2026-09-07T00:00:00"` (UMS_FACTS §3). A UMS without a valid licence may
/// not start again (UMS_FACTS §2).
fn licence_note(license: &str, now: Timestamp) -> Option<String> {
    let line = license.lines().find(|line| line.contains("expirationDateUTC"))?;
    let date = line.split('"').find(|part| part.starts_with(|c: char| c.is_ascii_digit()))?;
    let ends: jiff::civil::DateTime = date.trim_end_matches('Z').parse().ok()?;
    let days = ends.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().duration_since(now).as_hours() / 24;
    if days > LICENCE_ENDS_SOON {
        return None;
    }
    let day = ends.date();
    Some(if days < 0 {
        format!("its UMS licence ended on {day}: it may not start again")
    } else {
        format!("its UMS licence ends on {day}, in {days} days")
    })
}
