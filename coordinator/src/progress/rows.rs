//! A row per server on a terminal: what it does, for how long, and how long it still may.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use jiff::Timestamp;
use umsid_common::name::ServerName;

/// How often elapsed times move on.
const TICK: Duration = Duration::from_millis(200);

/// All rows; the last is the cluster's.
pub(super) struct Rows {
    all: MultiProgress,
    servers: BTreeMap<ServerName, Row>,
    cluster: Row,
}

struct Row {
    bar: ProgressBar,
    deadline: Arc<Mutex<Option<Timestamp>>>,
}

impl Rows {
    pub(super) fn new<'a>(servers: impl Iterator<Item = &'a ServerName>) -> Self {
        let all = MultiProgress::new();
        let servers: Vec<&ServerName> = servers.collect();
        let names = servers.iter().map(|server| server.as_str());
        let widest = names.chain(["cluster"]).map(str::len).max().unwrap_or_default();
        let servers = servers
            .iter()
            .map(|server| ((*server).clone(), Row::new(&all, &format!("{server:widest$}"))))
            .collect();
        let cluster = Row::new(&all, &format!("{:widest$}", "cluster"));
        Self { all, servers, cluster }
    }

    fn row(&self, server: Option<&ServerName>) -> &Row {
        server.and_then(|server| self.servers.get(server)).unwrap_or(&self.cluster)
    }

    pub(super) fn show(&self, server: Option<&ServerName>, what: &str, deadline: Option<Timestamp>) {
        let row = self.row(server);
        *row.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
        if row.bar.message() != what {
            row.bar.reset_elapsed();
            row.bar.set_message(what.to_owned());
            row.bar.enable_steady_tick(TICK);
        }
    }

    pub(super) fn rest(&self, server: Option<&ServerName>) {
        let row = self.row(server);
        *row.deadline.lock().unwrap_or_else(PoisonError::into_inner) = None;
        row.bar.disable_steady_tick();
        row.bar.set_message("");
        row.bar.reset_elapsed();
        row.bar.tick();
    }

    /// A line above the rows.
    pub(super) fn say(&self, line: &str) {
        // With the terminal gone there is nobody to talk to.
        let _ = self.all.println(line);
    }

    pub(super) fn clear(&self) {
        for row in self.servers.values().chain([&self.cluster]) {
            row.bar.finish_and_clear();
        }
        let _ = self.all.clear();
    }
}

impl Row {
    fn new(all: &MultiProgress, name: &str) -> Self {
        let deadline: Arc<Mutex<Option<Timestamp>>> = Arc::default();
        let left = Arc::clone(&deadline);
        let style = ProgressStyle::with_template("{prefix}  {elapsed_if:>7}  {wide_msg} {left}")
            .expect("the template is constant and covered by a test")
            .with_key("elapsed_if", |state: &ProgressState, text: &mut dyn std::fmt::Write| {
                let elapsed = state.elapsed();
                if elapsed >= Duration::from_millis(100) {
                    let _ = write!(text, "{:.1} s", elapsed.as_secs_f64());
                }
            })
            .with_key("left", move |_: &ProgressState, text: &mut dyn std::fmt::Write| {
                let until = *left.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(until) = until {
                    let left = until.duration_since(Timestamp::now()).as_secs().max(0);
                    let _ = write!(text, "{left} s left");
                }
            });
        let bar = all.add(ProgressBar::new_spinner()).with_style(style).with_prefix(name.to_owned());
        bar.tick();
        Self { bar, deadline }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_can_be_made_without_a_terminal() {
        let name: ServerName = "ums1".parse().unwrap();
        let rows = Rows::new([&name].into_iter());
        rows.show(Some(&name), "restoring", Some(Timestamp::now()));
        assert_eq!(rows.row(Some(&name)).bar.message(), "restoring");
        rows.rest(Some(&name));
        assert_eq!(rows.row(Some(&name)).bar.message(), "");
        rows.clear();
    }
}
